"""Formats, devices and the clock: `export` writes a file and checks it, `load` runs it, `get_device` says where it is timed."""

# Not lazy: the verb `export` and its module share a name, and the name must be the verb whichever is imported first.
from hollowbone.runtime.device import get_device
from hollowbone.runtime.export import ExportMismatch, export, load, open_artifact, verify

__all__ = ["ExportMismatch", "export", "get_device", "load", "open_artifact", "verify"]
