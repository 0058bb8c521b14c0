"""Which classes the chosen epoch takes for which, on the validation clips."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassConfusionMatrix

from har_assets.model.data import ClipDataModule, ClipLoader
from har_assets.model.lightning import VideoActionModel


def validation_confusion(model: VideoActionModel, data: ClipDataModule) -> NDArray[np.int64]:
    """Counts over all validation clips, int64 [K, K], first index the true class.

    Counted as `val_top1` is; call it under the autocast of the validation, and the two agree.
    """
    # By one process, the others have left: there is nobody to gather from.
    matrix = MulticlassConfusionMatrix(model.spec.num_classes, sync_on_compute=False).to(model.device)
    loader = data.val_dataloader()
    assert isinstance(loader, ClipLoader)  # a list where there are no validation clips
    with torch.inference_mode():
        for clips_BCTHW, labels_B, draws_BD in loader:
            model.count((clips_BCTHW.to(model.device), labels_B.to(model.device), draws_BD), matrix)
    return matrix.compute().cpu().numpy().astype(np.int64)
