"""An exponential moving average (EMA) of the weights over the steps of a training.

Reference: Polyak and Juditsky 1992, https://doi.org/10.1137/0330046
"""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights(WeightAveraging):
    """The average is what is validated and kept; training goes on from the weights themselves.

    After each step it moves by the share `1 - decay` towards them, BatchNorm's statistics included.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the average, on the device of the weights."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # On the GPU, reading this counter would wait for it at every step.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()
