"""What a training is asked to do, as a file: the asset writes it, `python -m har_assets.training` reads it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from har_assets.errors import HarError

SUMMARY_FILE = "summary.json"
"""Written last into the work folder: a training without it has not ended."""

CONFUSION_FILE = "validation_confusion.png"
"""Which classes the chosen epoch takes for which; not written without validation clips."""

ERROR_FILE = "error.txt"
"""Why a training failed, in one sentence."""


STOPPED = "The training was stopped; the same command goes on after its last whole epoch."
"""What ERROR_FILE says after SIGINT and SIGTERM."""


CHOICES = {
    "optimizer": ("adam", "adamw"),
    "schedule": ("one_cycle", "cosine", "constant"),
    "batch_norm": ("batch", "frozen", "sync"),
}
"""Options of the recipe that are names."""


def check_recipe(recipe: dict[str, Any]) -> None:
    """Raise HarError, with what to choose, for options that are unknown or clash."""
    for name, known in CHOICES.items():
        if recipe.get(name, known[0]) not in known:
            raise HarError(f"There is no {name} {recipe[name]!r}: choose {' or '.join(known)}.")
    if recipe.get("schedule", "one_cycle") == "one_cycle" and recipe.get("warmup"):
        raise HarError(
            "one_cycle has a warm-up of its own: set warmup to 0, or choose the schedule cosine or constant."
        )
    if recipe.get("optimizer", "adam") == "adam" and recipe.get("weight_decay"):
        raise HarError("adam would mix weight_decay with its momentum: choose the optimizer adamw, or weight_decay 0.")
    for name in ("warmup", "zoom", "brightness", "saturation", "dropout", "label_smoothing"):
        if not 0 <= recipe.get(name, 0) < 1:
            raise HarError(f"{name} is {recipe[name]}: choose 0 or more and less than 1.")


@dataclass(frozen=True)
class TrainingRequest:
    """One training, complete: the same request in the same work folder goes on where it stopped."""

    work: str
    """Folder of checkpoints and logs; kept between attempts."""
    spec: str
    """`ModelSpec.to_json()`; mean and standard deviation are those of the network's row, whatever it says."""
    provenance: str
    """`Provenance.to_json()`, the MLflow run excepted."""
    manifests: dict[str, str]
    """`train` and `val` to manifest CSV files."""
    frame_cache: str
    """Folder of the published frame cache."""
    epochs: int = 30
    """Passes over the training clips."""
    batch_size: int = 16
    """Clips a step and device."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Further arguments of VideoActionModel: learning_rate, schedule, dropout, ..."""
    precision: str = "auto"
    """`auto`, `32-true`, `bf16-mixed` or `16-mixed` (Lightning's names)."""
    early_stopping: int = 0
    """Stop after this many epochs without a better validation accuracy; 0 never."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    devices: int = 1
    """Processes a node, one a GPU; 0 takes every GPU. Without a GPU they are CPU processes."""
    nodes: int = 1
    """Machines that train together; each of them runs `python -m har_assets.training` on this file."""
    rendezvous: str = ""
    """`host:port` at which several machines find each other; any of them may be the host. Empty with several nodes:
    they are found on the Ray cluster of `ray_job`."""
    node_rank: int = -1
    """Number of this machine where it is settled beforehand: number 0 is the host of the rendezvous and keeps the
    work folder. -1 lets the machines settle it there."""
    ray_job: str = ""
    """Ray's name for the step that trains on several nodes of a cluster, found by har_assets.cluster.training."""
    node_needs: dict[str, float] = field(default_factory=dict)
    """What the training takes of each node of the cluster: `CPU`, `GPU`."""
    node_wait_s: float = 900.0
    """Seconds that a training waits for the other nodes of the cluster."""
    origins: dict[str, str] = field(default_factory=dict)
    """Folder of each product above to its address in the bucket, by which other nodes get copies of their own."""
    pretrained: str = ""
    """File of weights to start from, the head excepted; empty starts from random ones."""
    compile: str = "auto"
    """`auto`: torch.compile on a GPU; `on`, `off`."""
    gradient_clip: float = 0.0
    """Largest norm of all gradients together; 0 does not clip."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is validated and kept in their place; 0: none."""
    deterministic: bool = False
    """Bit-equal repetitions on a GPU too, at some cost of speed; on a CPU they are so anyway."""
    threads: int = 0
    """Threads that copy batches out of the frame cache; 0 takes one a core, eight at most."""
    val_windows: int = 1
    """Windows of each validation clip whose scores are averaged."""
    max_stride: int = 1
    """Training windows take every s-th cached frame, s drawn from 1 to this."""
    balanced: bool = False
    """Draw each class as often as any other."""
    still_frames: bool = False
    """Train on one repeated frame a clip: the control experiment for motion."""
    mlflow_tracking_uri: str = ""
    """MLflow server or database; empty trains without MLflow."""
    mlflow_experiment: str = "har_assets"
    """Experiment that the run is filed under."""
    mlflow_artifact_root: str = ""
    """Where a newly made experiment keeps its files; empty leaves it to the server."""
    mlflow_tags: dict[str, str] = field(default_factory=dict)
    """Tags of the MLflow run: Dagster run, data version, commit."""
    mlflow_every_steps: int = 10
    """Training loss and learning rate are logged every so many steps."""
    mlflow_outbox: str = ""
    """Folder that keeps what MLflow has not got yet; empty takes one in the work folder."""

    def __post_init__(self) -> None:
        check_recipe(self.recipe)
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
        if self.nodes > 1 and not self.rendezvous and not self.ray_job:
            raise HarError(
                "Several nodes have to find each other: set rendezvous to host:port of one of them, a free port, or "
                "run on a Ray cluster (HAR_RAY), which finds them."
            )

    def write(self, path: Path) -> Path:
        """Write as JSON and return the path."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a request file; HarError for a missing or foreign one."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise HarError(f"{path} is not a training request ({error}): let trained_checkpoint write it.") from error
