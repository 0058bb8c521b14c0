"""The request for a training, as a file: the asset writes it, `python -m har_assets.training` reads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from har_assets.errors import HarError
from har_assets.model.recipe import Recipe, TrainingOptions
from har_assets.options import wrong_options
from har_assets.store.opening import StoreLocation
from har_assets.system.files import write_text_whole
from har_assets.system.locks import exclusive

SUMMARY_FILE = "summary.json"
"""Written last into the work folder: a training without it has not ended."""

HISTORY_FILE = "history.jsonl"
"""Figures of each epoch, one a line."""

CHECKPOINT_FILE = "model.ckpt"
"""The chosen epoch, in the work folder and in the MLflow run."""

LINEAGE_FILE = "mlflow_lineage"
"""In the work folder: the tag by which the MLflow run of this training is found again."""

CONFUSION_FILE = "validation_confusion.png"
"""Which classes the chosen epoch takes for which; not written without validation clips."""

WORLD_FILE = "world_size"
"""How many processes have trained in the work folder."""

NOTICE_FILE = "notice.txt"
"""A line that the training reports when it starts."""

ERROR_FILE = "error.txt"
"""Why a training failed, in one sentence."""

STOPPED = "The training was stopped; the same command goes on after its last whole epoch."
"""Content of ERROR_FILE after SIGINT and SIGTERM."""


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
    """Resources that the training takes of each node of the cluster: `CPU`, `GPU`."""
    origins: dict[str, str] = {}
    """Folder of each product above to its address in the bucket, by which other nodes get copies of their own."""
    store: StoreLocation = StoreLocation()
    """Store of the step, in whose folder other nodes keep these copies and train."""
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

    def count_devices(self) -> int:
        """Devices of a node that are asked for; 0 in `devices` means every GPU, or one CPU process where none is."""
        import torch

        return self.devices or max(1, torch.cuda.device_count())

    def begin_again_on_other_processes(self) -> None:
        """Forget the epochs of a training on another number of processes: its batches, and so its steps, were others.

        To be called before the processes start. Raises HarError where another process trains in the work folder.
        """
        work = Path(self.work)
        file, world_size = work / WORLD_FILE, str(self.nodes * self.count_devices())
        with exclusive(work, "this training"):
            before = file.read_text() if file.is_file() else world_size
            if before != world_size and not (work / SUMMARY_FILE).is_file():
                write_text_whole(
                    work / NOTICE_FILE,
                    f"A training by {before} processes cannot go on with {world_size}: it begins again.",
                )
                shutil.rmtree(work / "checkpoints", ignore_errors=True)
                for name in (HISTORY_FILE, LINEAGE_FILE):
                    (work / name).unlink(missing_ok=True)
            write_text_whole(file, world_size)

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
            why = wrong_options(error) if isinstance(error, ValidationError) else error
            raise HarError(f"{path} is not a training request ({why}): let trained_checkpoint write it.") from error
