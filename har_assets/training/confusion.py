"""Which classes the chosen epoch takes for which, on the validation clips."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from har_assets.model.data import ClipDataModule
from har_assets.model.lightning import VideoActionModel


def validation_confusion(
    model: VideoActionModel, data: ClipDataModule, precision: AbstractContextManager[object]
) -> NDArray[np.int64]:
    """Counts over all validation clips, int64 [K, K], first index the true class.

    `precision` is the autocast under which the model was validated, so that the matrix agrees with val_top1.
    """
    classes = model.spec.num_classes
    confusion_KK = np.zeros((classes, classes), np.int64)
    loader = data.val_dataloader()
    assert isinstance(loader, DataLoader)  # a list where there are no validation clips
    with torch.inference_mode(), precision:
        for clips_BCTHW, labels_B in loader:
            predicted_B = model(clips_BCTHW.to(model.device)).argmax(dim=1).cpu()
            np.add.at(confusion_KK, (labels_B.numpy(), predicted_B.numpy()), 1)
    return confusion_KK
