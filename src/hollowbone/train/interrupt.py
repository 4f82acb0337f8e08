"""Ctrl-C at the next step boundary: the state there is whole, in the middle of a step it is not."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """While open, the first Ctrl-C only sets `pressed`; a second one interrupts at once.

    Outside the main thread, or where the program has a handler of its own, nothing is changed.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._mine = False

    def __enter__(self) -> Interrupt:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._mine = True
        return self

    def __exit__(self, *_: Any) -> None:
        if self._mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
