"""The recipe of a training: the options that VideoActionModel takes and that its checkpoints hold."""

from har_assets.errors import HarError
from har_assets.options import Options

CHOICES = {
    "optimizer": ("adam", "adamw"),
    "schedule": ("one_cycle", "cosine", "constant"),
    "batch_norm": ("batch", "frozen", "sync"),
}
"""Options that are names."""


class Recipe(Options):
    """Optimiser, schedule, regularisation and augmentation."""

    optimizer: str = "adam"
    """`adam`, or `adamw` with weight_decay."""
    learning_rate: float = 3e-3
    """Peak of the learning rate."""
    backbone_rate: float = 1.0
    """Share of the learning rate that all layers but the last get; 0 freezes them."""
    schedule: str = "one_cycle"
    """`one_cycle` over the whole training, `cosine` down to 0, or `constant`."""
    warmup: float = 0.0
    """Share of all steps in which the learning rate rises linearly first (cosine and constant)."""
    weight_decay: float = 0.0
    """Of adamw; biases and normalisation do not decay."""
    batch_norm: str = "batch"
    """`batch`: statistics of each batch; `frozen`: those that the network came with (small batches); `sync`: of the
    batches of all GPUs together."""
    dropout: float = 0.0
    """Before the last layer."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    flip: bool = True
    """Mirror half of the training clips, those of classes named left or right excepted."""
    zoom: float = 0.0
    """Cut regions up to this share smaller or larger than the frame size and scale them to it."""
    brightness: float = 0.2
    """Strength of random brightness and contrast, 0..1."""
    saturation: float = 0.0
    """Strength of random saturation, 0..1."""

    def check(self) -> None:
        """Raise HarError, with what to choose, for options that are unknown or clash."""
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise HarError(f"There is no {name} {getattr(self, name)!r}: choose {' or '.join(known)}.")
        if self.schedule == "one_cycle" and self.warmup:
            raise HarError(
                "one_cycle has a warm-up of its own: set warmup to 0, or choose the schedule cosine or constant."
            )
        if self.optimizer == "adam" and self.weight_decay:
            raise HarError(
                "adam would mix weight_decay with its momentum: choose the optimizer adamw, or weight_decay 0."
            )
        for name in ("warmup", "zoom", "brightness", "saturation", "dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise HarError(f"{name} is {getattr(self, name)}: choose 0 or more and less than 1.")
