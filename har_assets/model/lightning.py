"""VideoActionModel: the Lightning module, and the form of it that is exported.

References:
    Adam: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980
    One-cycle learning rate: Smith and Topin 2019, https://arxiv.org/abs/1708.07120
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from har_assets.errors import ModelFileError
from har_assets.model import augment
from har_assets.model.integrity import verify_checkpoint
from har_assets.model.networks import Normalise, build_network
from har_assets.model.spec import ModelSpec, Provenance, from_metadata, to_metadata

Batch = tuple[Tensor, Tensor]
"""clips_BCTHW uint8 and labels_B int64."""


class CrossEntropy(Metric):
    """Mean cross-entropy of logits_BK against labels_B over all samples."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits_BK: Tensor, labels_B: Tensor) -> None:
        """Add one batch."""
        self.total += F.cross_entropy(logits_BK.float(), labels_B, reduction="sum")
        self.count += len(labels_B)

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.count


def stage_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Cross-entropy and top-1 and top-5 accuracy over all samples: `<prefix>loss`, `<prefix>top1`, `<prefix>top5`."""
    return MetricCollection(
        {
            "loss": CrossEntropy(),
            "top1": MulticlassAccuracy(num_classes, top_k=1, average="micro"),
            "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro"),
        },
        prefix=prefix,
    )


class VideoActionModel(pl.LightningModule):
    """A video network with its preprocessing, losses and metrics.

    The batches of all three steps are (clips_BCTHW uint8, labels_B int64). Training clips may be
    larger than the frame size of the spec: a random window is cut from each; others are cut about
    the centre by the data module.
    """

    def __init__(
        self,
        metadata: dict[str, str],
        *,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        schedule: str = "one_cycle",
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        flip: bool = True,
        brightness: float = 0.2,
    ) -> None:
        """`metadata` is `to_metadata(spec, provenance)`; the rest is the recipe of training."""
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.spec, self.provenance = from_metadata(metadata, "The checkpoint")
        self.normalise = Normalise(self.spec.mean, self.spec.std)
        self.network = build_network(self.spec.network, self.spec.num_classes, dropout=dropout)
        self.train_metrics = stage_metrics(self.spec.num_classes, "train_")
        self.val_metrics = stage_metrics(self.spec.num_classes, "val_")
        self.test_metrics = stage_metrics(self.spec.num_classes, "test_")

    @classmethod
    def from_spec(cls, spec: ModelSpec, provenance: Provenance | None = None, **recipe: Any) -> VideoActionModel:
        """A freshly initialised model for that spec."""
        return cls(to_metadata(spec, provenance or Provenance()), **recipe)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """uint8 clips [B, 3, T, H, W] to logits [B, K]."""
        clips_BCTHW = self.normalise(clips_BCTHW)
        if clips_BCTHW.device.type == "cpu" or torch.is_autocast_enabled(clips_BCTHW.device.type):
            clips_BCTHW = clips_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        logits_BK: Tensor = self.network(clips_BCTHW)
        return logits_BK

    def augment(self, clips_BCTHW: Tensor) -> Tensor:
        """Random crop, flip and brightness, another draw for each clip; uint8 in, float 0..255 out."""
        clips_BCTHW = augment.random_crop(clips_BCTHW, self.spec.frame_height, self.spec.frame_width)
        if self.hparams["flip"]:
            clips_BCTHW = augment.random_flip(clips_BCTHW)
        return augment.random_brightness(clips_BCTHW.float(), self.hparams["brightness"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch of random windows."""
        clips_BCTHW, labels_B = batch
        logits_BK = self(self.augment(clips_BCTHW))
        loss = F.cross_entropy(logits_BK, labels_B, label_smoothing=self.hparams["label_smoothing"])
        self.train_metrics.update(logits_BK.detach(), labels_B)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True, batch_size=len(labels_B))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of centre windows."""
        self._count(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of centre windows."""
        self._count(batch, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log val_loss, val_top1, val_top5, and val_rank, by which the best checkpoint is chosen."""
        values = self.val_metrics.compute()
        # The accuracy decides; among equals (a small validation set has many) the lower loss.
        values["val_rank"] = values["val_top1"] - values["val_loss"].clamp(max=5.0) * 1e-4
        self.log_dict(values)
        self.val_metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Log test_loss, test_top1 and test_top5."""
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()

    def _count(self, batch: Batch, metrics: MetricCollection) -> None:
        clips_BCTHW, labels_B = batch
        metrics.update(self(clips_BCTHW), labels_B)

    def configure_optimizers(self) -> Any:
        """Adam (AdamW with weight decay), its rate constant or one cycle over all steps of the training."""
        rate, decay = self.hparams["learning_rate"], self.hparams["weight_decay"]
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=decay)
            if decay
            else torch.optim.Adam(self.parameters(), lr=rate)
        )
        if self.hparams["schedule"] == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class DeployedModel(nn.Module):
    """What is exported: uint8 clips [B, 3, T, H, W] in, softmax scores [B, K] out."""

    def __init__(self, model: VideoActionModel) -> None:
        super().__init__()
        self.normalise = model.normalise
        self.network = model.network

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """uint8 clips [B, 3, T, H, W] to float32 scores [B, K] that sum to 1."""
        logits_BK: Tensor = self.network(self.normalise(clips_BCTHW))
        return logits_BK.float().softmax(dim=1)


def load_checkpoint(path: Path, *, device: str = "cpu") -> VideoActionModel:
    """The model of a checkpoint file, in evaluation mode.

    The file is read with `weights_only=True`: a pickle that runs code is refused. ModelFileError
    names a missing, damaged or foreign file; damage shows in the checksums of its records.
    """
    verify_checkpoint(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ModelFileError(
            f"{path} is not a readable checkpoint ({type(error).__name__}): train again or name another file."
        ) from error
    try:
        recipe = dict(content["hyper_parameters"])
        model = VideoActionModel(recipe.pop("metadata"), **recipe)
        model.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, RuntimeError, AttributeError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not a checkpoint of VideoActionModel ({str(error).splitlines()[0][:120]}): "
            "use the file that trained_checkpoint published."
        ) from error
    return model.to(device).eval()
