"""Plug-in layers, one file a system."""
