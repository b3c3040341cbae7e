"""Distributed training of click-through-rate models."""

__version__ = "0.1.0"
