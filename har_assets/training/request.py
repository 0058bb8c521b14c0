"""What a training is asked to do, as a file: the asset writes it, `python -m har_assets.training` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from har_assets.errors import HarError
from har_assets.model.recipe import Recipe

SUMMARY_FILE = "summary.json"
"""Written last into the work folder: a training without it has not ended."""

CONFUSION_FILE = "validation_confusion.png"
"""Which classes the chosen epoch takes for which; not written without validation clips."""

ERROR_FILE = "error.txt"
"""Why a training failed, in one sentence."""

STOPPED = "The training was stopped; the same command goes on after its last whole epoch."
"""What ERROR_FILE says after SIGINT and SIGTERM."""


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


class TrainingRequest(TrainingOptions):
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
    pretrained: str = ""
    """File of weights to start from, the head excepted; empty starts from random ones."""
    node_rank: int = -1
    """Number of this machine where it is settled beforehand: number 0 is the host of the rendezvous and keeps the
    work folder. -1 lets the machines settle it there."""
    ray_job: str = ""
    """Ray's name for the step that trains on several nodes of a cluster, found by har_assets.cluster.training."""
    node_needs: dict[str, float] = {}
    """What the training takes of each node of the cluster: `CPU`, `GPU`."""
    origins: dict[str, str] = {}
    """Folder of each product above to its address in the bucket, by which other nodes get copies of their own."""
    mlflow_tracking_uri: str = ""
    """MLflow server or database; empty trains without MLflow."""
    mlflow_experiment: str = "har_assets"
    """Experiment that the run is filed under."""
    mlflow_artifact_root: str = ""
    """Where a newly made experiment keeps its files; empty leaves it to the server."""
    mlflow_tags: dict[str, str] = {}
    """Tags of the MLflow run: Dagster run, data version, commit."""
    mlflow_every_steps: int = 10
    """Training loss and learning rate are logged every so many steps."""
    mlflow_outbox: str = ""
    """Folder that keeps what MLflow has not got yet; empty takes one in the work folder."""

    def model_post_init(self, context: Any) -> None:
        """Refuse what is impossible before anything is started."""
        self.check()
        if self.nodes > 1 and not self.rendezvous and not self.ray_job:
            raise HarError(
                "Several nodes have to find each other: set rendezvous to host:port of one of them, a free port, or "
                "run on a Ray cluster (HAR_RAY), which finds them."
            )

    @property
    def recipe(self) -> dict[str, Any]:
        """The arguments of VideoActionModel besides the metadata."""
        return self.model_dump(include=set(Recipe.model_fields))

    def write(self, path: Path) -> Path:
        """Write as JSON and return the path."""
        path.write_text(self.model_dump_json(indent=2) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a request file; HarError for a missing or foreign one."""
        try:
            return cls.model_validate_json(path.read_text())
        except (OSError, ValueError) as error:
            raise HarError(f"{path} is not a training request ({error}): let trained_checkpoint write it.") from error
