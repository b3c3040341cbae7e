"""The code that looks up and updates tables on a CPU worker, chosen once at sharding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from ctrdist.sharding.torchrec_internals import replace_forward


class TableLookup(ABC):
    """Looks up tables in place of a module of TorchRec or FBGEMM, and updates them in backward.

    The tables stay in FBGEMM's memory, so that checkpoints, plans and learning rates see no
    difference.
    """

    def __init__(self, module: nn.Module) -> None:
        """Args: module: whose forward method it replaces."""
        self.module = module

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Takes and gives what the module's forward method does."""

    def install(self) -> None:
        """From now on the module calls this object."""
        replace_forward(self.module, self)
