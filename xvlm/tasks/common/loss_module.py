"""The module that the training loop calls: a model together with the losses of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from xvlm.models.xvlm import XVLM


class LossModule(nn.Module, ABC):
    """A model with the losses of its task.

    DistributedDataParallel wraps this module, so that no call bypasses gradient synchronisation.

    Attributes:
        model: the model that is trained, evaluated and saved.
    """

    def __init__(self, model: XVLM) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def loss_weights(self) -> dict[str, float]:
        """Return the weight in the total loss of every loss that `forward` may return, by name.

        A quantity of weight 0 is only logged.
        """

    @abstractmethod
    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Returns:
            scalars () by name, each this rank's part of the mean over the global batch.
        """
