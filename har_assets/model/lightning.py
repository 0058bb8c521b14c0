"""VideoActionModel: the Lightning module, and the form of it that is exported.

References:
    Adam: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980
    One-cycle learning rate: Smith and Topin 2019, https://arxiv.org/abs/1708.07120
"""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from har_assets.errors import ModelFileError
from har_assets.model.augment import augment
from har_assets.model.data import PADDING, Batch
from har_assets.model.integrity import verify_checkpoint
from har_assets.model.networks import Normalise, backbone_parameters, build_network, head_parameters
from har_assets.model.recipe import Recipe
from har_assets.model.sides import may_be_mirrored
from har_assets.model.spec import ModelSpec, Provenance, from_metadata, to_metadata
from har_assets.options import wrong_options

logger = logging.getLogger(__name__)


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
            # Without the check of their arguments, which would make the CPU wait for the GPU at every step.
            "top1": MulticlassAccuracy(num_classes, top_k=1, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro", validate_args=False),
        },
        prefix=prefix,
        # Groups are formed by the first update, which a process that has padding alone never sees.
        compute_groups=False,
    )


class TrainingScores(Metric):
    """Loss, top-1 and top-5 over the training batches, from the sums that `training_losses` returns."""

    sums_S: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums_S", default=torch.zeros(4), dist_reduce_fx="sum")

    def update(self, sums_S: Tensor) -> None:
        """Add one batch."""
        self.sums_S += sums_S

    def compute(self) -> dict[str, Tensor]:
        """`train_loss`, `train_top1` and `train_top5` so far."""
        loss, top1, top5, count = self.sums_S
        return {"train_loss": loss / count, "train_top1": top1 / count, "train_top5": top5 / count}


def training_losses(
    network: nn.Module,
    normalise: nn.Module,
    clips_BCTHW: Tensor,
    labels_B: Tensor,
    draws_BD: Tensor,
    may_flip_K: Tensor,
    *,
    label_smoothing: float,
    **augmentation: Any,
) -> tuple[Tensor, Tensor]:
    """The loss of a batch of uint8 clips and, float32 [4], its sums of cross-entropy, top-1, top-5 and clips.

    All that is computed of a batch before the gradients, in one function, so that torch.compile makes one CUDA
    graph of it. `augmentation`: keyword arguments of `augment`.
    """
    clips_BCTHW = augment(clips_BCTHW, draws_BD, may_flip_K[labels_B], **augmentation)
    logits_BK = logits_of(network, normalise, clips_BCTHW)
    loss = F.cross_entropy(logits_BK, labels_B, label_smoothing=label_smoothing)
    with torch.no_grad():
        kept_BK = logits_BK.detach().float()
        hits_B5 = kept_BK.topk(min(5, kept_BK.shape[1])).indices == labels_B[:, None]
        sums_S = torch.stack(
            [
                F.cross_entropy(kept_BK, labels_B, reduction="sum"),
                hits_B5[:, 0].sum().float(),
                hits_B5.sum().float(),
                torch.full((), float(len(labels_B)), device=kept_BK.device),
            ]
        )
    return loss, sums_S


def logits_of(network: nn.Module, normalise: nn.Module, clips_BCTHW: Tensor) -> Tensor:
    """Clips with values 0..255, [B, 3, T, H, W], to logits [B, K], in the memory format that is fastest here."""
    clips_BCTHW = normalise(clips_BCTHW)
    if clips_BCTHW.device.type == "cpu" or torch.is_autocast_enabled(clips_BCTHW.device.type):
        clips_BCTHW = clips_BCTHW.contiguous(memory_format=torch.channels_last_3d)
    logits_BK: Tensor = network(clips_BCTHW)
    return logits_BK


class VideoActionModel(pl.LightningModule):
    """A video network with its preprocessing, losses and metrics.

    The batches of all three steps are those of `model/data.py`. Training clips may be larger than the frame
    size of the spec: a random window is cut from each; others come cut about the centre.
    """

    def __init__(self, metadata: dict[str, str], **recipe: Any) -> None:
        """`metadata` is `to_metadata(spec, provenance)`; the rest are options of Recipe."""
        super().__init__()
        self.recipe = Recipe(**recipe)
        # All of the recipe, so that a checkpoint says what it was trained with when defaults have changed.
        self.save_hyperparameters({"metadata": metadata, **self.recipe.recorded()}, logger=False)
        self.spec, self.provenance = from_metadata(metadata, "The checkpoint")
        self.normalise = Normalise(self.spec.mean, self.spec.std)
        self.network = build_network(self.spec.network, self.spec.num_classes, dropout=self.recipe.dropout)
        if self.recipe.backbone_rate == 0:
            for parameter in backbone_parameters(self.spec.network, self.network):
                parameter.requires_grad_(False)
        pairs = self.recipe.mirror_pairs
        may_flip_K = torch.tensor([self.recipe.flip and may_be_mirrored(label, pairs) for label in self.spec.labels])
        self.register_buffer("may_flip_K", may_flip_K, persistent=False)
        self.losses = training_losses
        """Replaced by its compiled form where training is compiled."""
        self.train_scores = TrainingScores()
        self.val_metrics = stage_metrics(self.spec.num_classes, "val_")
        self.test_metrics = stage_metrics(self.spec.num_classes, "test_")
        self.train()  # Lightning takes the mode of each layer as it finds it

    @classmethod
    def from_spec(cls, spec: ModelSpec, provenance: Provenance | None = None, **recipe: Any) -> VideoActionModel:
        """A freshly initialised model for that spec."""
        return cls(to_metadata(spec, provenance or Provenance()), **recipe)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """uint8 (or float 0..255) clips [B, 3, T, H, W] to logits [B, K]."""
        return logits_of(self.network, self.normalise, clips_BCTHW)

    def train(self, mode: bool = True) -> VideoActionModel:
        """Set the mode; BatchNorm layers that are frozen stay in evaluation mode."""
        super().train(mode)
        if self.recipe.batch_norm == "frozen" or self.recipe.backbone_rate == 0:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch of random windows."""
        clips_BCTHW, labels_B, draws_BD = batch
        loss, sums_S = self.losses(
            self.network,
            self.normalise,
            clips_BCTHW,
            labels_B,
            draws_BD,
            self.may_flip_K,  # type: ignore[arg-type]
            height=self.spec.frame_height,
            width=self.spec.frame_width,
            zoom=self.recipe.zoom,
            brightness=self.recipe.brightness,
            saturation=self.recipe.saturation,
            label_smoothing=self.recipe.label_smoothing,
        )
        self.train_scores.update(sums_S)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log train_loss, train_top1 and train_top5 with the last batch of an epoch.

        Handed the metrics themselves at every step, Lightning took a fifth of the CPU's time for a step of cnn3d
        beside an H100, which then waited.
        """
        if self.trainer.is_last_batch:
            self.log_dict(self.train_scores.compute(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
            self.train_scores.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch; the scores of a clip are the mean over its windows."""
        self.count(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch; the scores of a clip are the mean over its windows."""
        self.count(batch, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log val_loss, val_top1, val_top5, and val_rank, by which the best checkpoint is chosen."""
        values = self.val_metrics.compute()
        # The accuracy decides; among equals (a small validation set has many) the lower loss.
        values["val_rank"] = values["val_top1"] - values["val_loss"].clamp(max=5.0) * 1e-4
        self.log_dict(values, sync_dist=True)  # equal in all processes already; Lightning cannot know
        self.val_metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Log test_loss, test_top1 and test_top5."""
        self.log_dict(self.test_metrics.compute(), sync_dist=True)
        self.test_metrics.reset()

    def count(self, batch: Batch, metrics: Metric | MetricCollection) -> None:
        """Update metrics with the mean scores of each clip of an evaluation batch."""
        clips_BCTHW, labels_B, _ = batch
        windows = len(clips_BCTHW) // len(labels_B)
        scores_BNK = self(clips_BCTHW).float().softmax(dim=1).view(len(labels_B), windows, -1)
        kept_B = labels_B != PADDING
        labels_B = labels_B[kept_B]
        if len(labels_B):  # a process may have nothing but padding in its last batch, or in all
            # The logarithm of scores is as good as logits: softmax gives the scores back.
            metrics.update(scores_BNK.mean(dim=1)[kept_B].clamp(min=1e-12).log(), labels_B)

    def configure_optimizers(self) -> Any:
        """Adam or AdamW; a rate of its own for the backbone; constant, one cycle, or cosine after a warm-up."""
        recipe = self.recipe
        groups = self._parameter_groups()
        # The fused form takes gradients as they are; those of float16 have to be unscaled before they are clipped.
        fused = self.device.type == "cuda" and self.trainer.precision != "16-mixed"
        make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        optimizer: torch.optim.Optimizer = make(groups, lr=recipe.learning_rate, fused=fused)
        if recipe.schedule == "constant" and not recipe.warmup:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if recipe.schedule == "one_cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, max_lr=[group["lr"] for group in groups], total_steps=steps
            )
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, partial(rate_share, steps=steps, warmup=recipe.warmup, schedule=recipe.schedule)
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Backbone and head, each with and without weight decay (none for biases and normalisation)."""
        name, recipe = self.spec.network, self.recipe
        groups = []
        for parameters, rate in (
            (backbone_parameters(name, self.network), recipe.learning_rate * recipe.backbone_rate),
            (head_parameters(name, self.network), recipe.learning_rate),
        ):
            trained = [parameter for parameter in parameters if parameter.requires_grad]
            for decayed in (True, False):
                members = [parameter for parameter in trained if (parameter.ndim > 1) == decayed]
                if members:
                    groups.append({"params": members, "lr": rate, "weight_decay": recipe.weight_decay * decayed})
        return groups

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the norm of all gradients, fused optimiser or not (Lightning's own clipping refuses a fused one)."""
        if gradient_clip_val and self.trainer.precision == "16-mixed":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)


def rate_share(step: int, *, steps: int, warmup: float, schedule: str) -> float:
    """Share of the full learning rate at a step: linear up over the share `warmup` of all steps, then constant or
    down to 0 along a cosine."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    done = (step - rising) / max(1.0, steps - rising)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class DeployedModel(nn.Module):
    """The exported module: uint8 clips [B, 3, T, H, W] in, softmax scores [B, K] out."""

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
        metadata = recipe.pop("metadata")
        model = VideoActionModel(metadata, **Recipe.from_recorded(recipe, logger.warning).recorded())
        model.load_state_dict(content["state_dict"])
    except (KeyError, TypeError, RuntimeError, AttributeError, ValueError) as error:
        why = wrong_options(error) if isinstance(error, ValidationError) else str(error)
        raise ModelFileError(
            f"{path} is not a checkpoint of VideoActionModel ({why.splitlines()[0][:120]}): "
            "use the file that trained_checkpoint published."
        ) from error
    return model.to(device).eval()
