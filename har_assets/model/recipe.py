"""How a network is trained: the recipe that VideoActionModel takes and its checkpoints hold, and all else."""

from __future__ import annotations

from typing import ClassVar

from har_assets.errors import HarError
from har_assets.model.sides import check_pairs
from har_assets.options import Options, added

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
    """Weight decay of adamw; biases and normalisation do not decay."""
    batch_norm: str = "batch"
    """`batch`: statistics of each batch; `frozen`: those that the network came with (small batches); `sync`: of the
    batches of all GPUs together."""
    dropout: float = 0.0
    """Before the last layer."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    flip: bool = True
    """Mirror half of the training clips, those of classes whose name says a side (left, right, clockwise) excepted."""
    mirror_pairs: list[str] = added([])
    """Names of classes, or words in them, that become each other in a mirror: `forehand/backhand`. Clips of such
    classes are not mirrored either."""
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
        check_pairs(self.mirror_pairs)
        for name in ("warmup", "zoom", "brightness", "saturation", "dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise HarError(f"{name} is {getattr(self, name)}: choose 0 or more and less than 1.")


class TrainingOptions(Recipe):
    """How a network is trained: the recipe, and how long, where and from which draws."""

    not_content: ClassVar[frozenset[str]] = frozenset({"threads", "compile", "nodes", "rendezvous", "node_wait_s"})

    epochs: int = 30
    """Passes over the training clips."""
    batch_size: int = 8
    """Clips a step and device."""
    gradient_clip: float = 0.0
    """Largest norm of all gradients together; 0 does not clip."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights (EMA), which is validated and kept in their place, 0.99
    for instance; 0: none."""
    max_stride: int = 1
    """Training windows take every s-th cached frame, s drawn from 1 to this."""
    balanced: bool = False
    """Draw each class as often as any other; else every clip once an epoch."""
    val_windows: int = 1
    """Windows of each validation clip whose scores are averaged."""
    early_stopping: int = 0
    """Stop after so many epochs without a better validation accuracy; 0 never."""
    precision: str = "auto"
    """`auto` takes the fastest that the device computes in hardware; else `32-true`, `bf16-mixed`, `16-mixed`."""
    compile: str = "auto"
    """torch.compile: `auto` on a GPU, `on`, `off`."""
    devices: int = 1
    """GPUs of each machine to train on (by torchrun); 0 takes all. Without a GPU they are CPU processes."""
    nodes: int = 1
    """Machines that train together. On a Ray cluster (HAR_RAY) they are found. Elsewhere, and where there is a
    rendezvous, this one runs the asset, the others `python -m har_assets.training request.json` on the file that its
    log names."""
    rendezvous: str = ""
    """`host:port` at which several machines find each other; empty on a Ray cluster, which finds an address."""
    node_wait_s: float = 900.0
    """Seconds that a training waits until so many nodes of a Ray cluster are free."""
    deterministic: bool = False
    """Bit-equal repetitions on a GPU too, at some cost of speed."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    threads: int = 0
    """Threads that copy batches out of the frame cache; 0 takes one a core, eight at most."""
    still_frames: bool = False
    """Train and validate on one repeated frame a clip: the control that shows what motion contributes."""

    def check(self) -> None:
        """Raise HarError, with what to choose, for options that are unknown, impossible or clash."""
        super().check()
        if self.compile not in ("auto", "on", "off"):
            raise HarError(f"There is no compile {self.compile!r}: choose auto, on or off.")
        if self.precision not in ("auto", "32-true", "bf16-mixed", "16-mixed"):
            raise HarError(f"There is no precision {self.precision!r}: choose auto, 32-true, bf16-mixed or 16-mixed.")
        for name in ("epochs", "batch_size", "nodes", "val_windows", "max_stride"):
            if getattr(self, name) < 1:
                raise HarError(f"{name} is {getattr(self, name)}: choose 1 or more.")
        for name in ("devices", "early_stopping", "gradient_clip", "threads", "node_wait_s"):
            if getattr(self, name) < 0:
                raise HarError(f"{name} is {getattr(self, name)}: choose 0 or more.")
        if not 0 <= self.ema < 1:
            raise HarError(f"ema is {self.ema}: choose 0 or more and less than 1, 0.99 for instance.")


class CheckpointOptions(TrainingOptions):
    """Network and training. The defaults fit the sample; the files in conf/ have those for HMDB51."""

    network: str = "cnn3d"
    """Name of the network: `cnn3d` is the three-layer 3D CNN, `i3d` Inception-I3D, or one of torchvision's video
    networks (r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v2_s, swin3d_t)."""
    pretrained: bool = False
    """Start from the network's Kinetics-400 weights, which the asset pretrained_weights has published."""
    num_frames: int = 16
    """T: frames of a clip."""
    frame_height: int = 32
    """H: height that enters the network, pixels; cut from the cached frames."""
    frame_width: int = 32
    """W: width that enters the network, pixels."""
