"""Where training runs: devices, precision and the averaging of gradients. Lightning Fabric is imported here alone, lazily.

Data parallelism is explicit: after the backward pass of a Step the gradients are averaged over the devices in one flat
reduction, together with the figures that all must agree on (losses, the wish to stop). Unlike hooks on one wrapped forward
this holds for every Step (several of them, methods other than `forward`, parameters that some devices did not reach),
and the model stays the bare module that callbacks may edit. One device in 32 bits needs no Fabric at all.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hollowbone.errors import HollowboneError, UserError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

T = TypeVar("T")

for _chatty in ("distributed", "rank_zero"):  # "Initializing distributed: GLOBAL_RANK: 0 ..." says nothing to a user
    logging.getLogger(f"lightning_fabric.utilities.{_chatty}").setLevel(logging.WARNING)


class Runner(Protocol):
    """One device of a training."""

    device: torch.device
    rank: int
    world: int
    scales: bool
    """Whether losses are scaled (fp16), so that an overflowing gradient is skipped and is no sign of divergence."""

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled where the precision needs it."""
        ...

    def average(self, params: Sequence[nn.Parameter], figures: Sequence[float]) -> list[float]:
        """Average the gradients over devices, in place, and return the averages of the figures."""
        ...

    def average_buffers(self, model: nn.Module) -> None:
        """Average floating-point buffers (the statistics of batch normalisation) over devices, in place."""
        ...

    def unscale(self, optimizer: Optimizer) -> None:
        """Take the loss scale out of the gradients."""
        ...

    def step(self, optimizer: Optimizer) -> None:
        """Step the optimiser (skipped where scaled gradients overflowed)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The loss scale."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        ...


class Alone:
    """One device, 32 bits: plain PyTorch."""

    rank, world, scales = 0, 1, False

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def autocast(self) -> AbstractContextManager[Any]:
        """Nothing."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`."""
        loss.backward()

    def average(self, params: Sequence[nn.Parameter], figures: Sequence[float]) -> list[float]:
        """Nothing to average."""
        return list(figures)

    def average_buffers(self, model: nn.Module) -> None:
        """Nothing to average."""

    def unscale(self, optimizer: Optimizer) -> None:
        """Nothing is scaled."""

    def step(self, optimizer: Optimizer) -> None:
        """`optimizer.step()`."""
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class Together:
    """Through Fabric: mixed precision, or one of several devices."""

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.precision = fabric, fabric.strategy.precision
        self.device, self.rank, self.world = fabric.device, fabric.global_rank, fabric.world_size
        self.scales = getattr(self.precision, "scaler", None) is not None

    def autocast(self) -> AbstractContextManager[Any]:
        """Fabric's."""
        return self.fabric.autocast()

    def backward(self, loss: Tensor) -> None:
        """Scaled and differentiated by Fabric's precision."""
        self.precision.backward(loss, None)

    def average(self, params: Sequence[nn.Parameter], figures: Sequence[float]) -> list[float]:
        """One reduction of gradients, of flags that say which parameters have one anywhere, and of the figures."""
        if self.world == 1:
            return list(figures)
        with torch.no_grad():
            flags = torch.tensor([float(p.grad is not None) for p in params], device=self.device)
            pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in params]
            figure = torch.tensor([*figures], dtype=torch.float32, device=self.device)
            flat = self.fabric.all_reduce(torch.cat([*pieces, flags, figure]), reduce_op="mean")
            reached = flat[sum(p.numel() for p in params) :][: len(params)].tolist()
            start = 0
            for p, flag in zip(params, reached, strict=True):
                if flag:
                    mean = flat[start : start + p.numel()].view(p.shape).to(p.dtype)
                    p.grad = mean.clone() if p.grad is None else p.grad.copy_(mean)
                start += p.numel()
            return flat[len(flat) - len(figures) :].tolist() if figures else []

    def average_buffers(self, model: nn.Module) -> None:
        """One reduction of all of them; every device's copy stays equal, so a checkpoint of one serves all."""
        buffers = [b for b in model.buffers() if b.is_floating_point()]
        if self.world == 1 or not buffers:
            return
        with torch.no_grad():
            flat = self.fabric.all_reduce(torch.cat([b.float().flatten() for b in buffers]), reduce_op="mean")
            for b, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
                b.copy_(mean.view(b.shape))

    def unscale(self, optimizer: Optimizer) -> None:
        """By Fabric's precision."""
        self.precision.unscale_gradients(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """By Fabric's strategy."""
        self.fabric.strategy.optimizer_step(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """The loss scale."""
        return self.precision.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        if state:
            self.precision.load_state_dict(state)


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def starts_processes(devices: int) -> bool:
    """Whether `launch` will run the function in processes of its own (its result must then be made of plain values)."""
    return devices > 1 and not under_torchrun()


def launch(function: Callable[[Runner], T], *, devices: int, precision: str) -> T:
    """Run `function(runner)` on every device and return what the first returned.

    Under torchrun this process is one of its devices; otherwise more than one device means as many new processes, to which
    the function is pickled. Raises `UserError` for a precision or number of devices that this machine does not have.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    cuda = torch.cuda.is_available()
    if devices < 1 or (cuda and devices > torch.cuda.device_count()):
        have = f"; this machine has {torch.cuda.device_count()} GPU(s)" if cuda else ""
        raise UserError(f"devices must be 1 or more, not {devices}{have}")
    if devices == 1 and not under_torchrun():
        return function(Alone()) if precision == "32-true" else function(Together(_fabric(precision)))
    if under_torchrun():
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        fabric = _fabric(precision, strategy="ddp", devices=local, num_nodes=int(os.environ["WORLD_SIZE"]) // local)
        fabric.launch()
        return function(Together(fabric))
    return _spawn(function, devices, precision)


def _fabric(precision: str, **options: Any) -> Any:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision import MixedPrecision

    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if precision != "32-true":  # as a plugin, for Fabric turns the name 16-mixed into bf16-mixed on a CPU
        options["plugins"] = [MixedPrecision(precision, accelerator)]  # type: ignore[arg-type]
    return Fabric(accelerator=accelerator, **{"devices": 1, **options})


def _spawn(function: Callable[[Runner], T], devices: int, precision: str) -> T:
    from torch.multiprocessing import ProcessRaisedException

    kept = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MASTER_PORT", "MASTER_ADDR", "LOCAL_RANK")}
    try:
        with tempfile.TemporaryDirectory(prefix="hollowbone-") as folder:
            sentence = Path(folder) / "error"
            fabric = _fabric(precision, strategy="ddp_spawn", devices=devices)
            try:
                return fabric.launch(_child, function, str(sentence))
            except ProcessRaisedException:
                if sentence.exists():  # a user's mistake crosses the process boundary as its sentence
                    raise UserError(sentence.read_text(encoding="utf-8")) from None
                raise
            except (AttributeError, TypeError) as error:
                if "pickle" not in str(error).lower():
                    raise
                raise UserError(
                    f"devices={devices} sends model, data and task to new processes, and one cannot be sent ({error}); "
                    "define its class and functions at the top of a module, or start the program with torchrun"
                ) from error
    finally:  # Fabric sets some of these in the parent too
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _child(fabric: Any, function: Callable[[Runner], T], sentence: str) -> T:
    try:
        return function(Together(fabric))
    except HollowboneError as error:
        Path(sentence).write_text(str(error), encoding="utf-8")
        raise
