"""trained_checkpoint: the training process started, watched and published."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg

from har_assets.assets.dataset import read_class_index
from har_assets.assets.publishing import AssetConfig, Making, Product, note_outbox, publish
from har_assets.errors import HarError
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.resources.mlflow import MlflowTracking
from har_assets.resources.store import ArtifactStore
from har_assets.training.outbox import report_settled, settle
from har_assets.training.request import CONFUSION_FILE, ERROR_FILE, SUMMARY_FILE, TrainingRequest

CHECKPOINT = "video_action_model.ckpt"


class TrainingConfig(AssetConfig):
    """Network and recipe. The defaults fit the sample; conf/hmdb51.yaml has those for HMDB51."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {"workers"}

    network: str = "cnn3d"
    """Name of the network: `cnn3d` is the three-layer 3D CNN."""
    num_frames: int = 16
    """T: frames of a clip."""
    frame_height: int = 32
    """H: height that enters the network, pixels; cut from the cached frames."""
    frame_width: int = 32
    """W: width that enters the network, pixels."""
    epochs: int = 30
    """Passes over the training clips."""
    batch_size: int = 8
    """Clips a step and device."""
    learning_rate: float = 3e-3
    """Peak of Adam's learning rate."""
    schedule: str = "one_cycle"
    """`one_cycle` over the whole training, or `constant`."""
    weight_decay: float = 0.0
    """Above 0 AdamW is used."""
    dropout: float = 0.0
    """Before the last layer."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    flip: bool = True
    """Mirror half of the training clips."""
    brightness: float = 0.2
    """Strength of random brightness and contrast, 0..1."""
    early_stopping: int = 0
    """Stop after so many epochs without a better validation accuracy; 0 never."""
    precision: str = "auto"
    """`auto` takes the fastest that the device computes in hardware; else `32-true`, `bf16-mixed`, `16-mixed`."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    workers: int = 0
    """Loader processes."""
    still_frames: bool = False
    """Train and validate on one repeated frame a clip: the control that shows what motion contributes."""


RECIPE = ("learning_rate", "schedule", "weight_decay", "dropout", "label_smoothing", "flip", "brightness")


@dg.asset(
    deps=["frame_cache", "train_manifest", "val_manifest", "class_index"],
    group_name="training",
    kinds={"pytorch", "mlflow"},
    code_version="1",
    pool="gpu",
    tags={"har/stage": "training"},
)
def trained_checkpoint(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    pipes: dg.PipesSubprocessClient,
) -> dg.MaterializeResult:
    """A VideoActionModel trained by PyTorch Lightning in a process of its own, tracked in MLflow.

    The same command after any kind of end goes on after the last whole epoch.
    """

    def build(making: Making) -> Product:
        making.work.mkdir(parents=True, exist_ok=True)
        request = training_request(context, config, store, mlflow, making)
        note_outbox(context, store, mlflow)
        try:
            _run(context, pipes, request.write(making.work / "request.json"), making.work)
        except BaseException:
            # A training that was killed could not end its MLflow run itself.
            report_settled(settle(Path(request.mlflow_outbox)), context.log.warning)
            raise
        summary: dict[str, Any] = json.loads((making.work / SUMMARY_FILE).read_text())
        for source, name in (
            ("model.ckpt", CHECKPOINT),
            ("curves.png", "curves.png"),
            ("history.jsonl",) * 2,
            *([(CONFUSION_FILE,) * 2] if summary["validated"] else []),
        ):
            shutil.copy2(making.work / source, making.folder / name)
        best = f"epoch {summary['best_epoch'] + 1} of {summary['epochs_run']}"
        top1 = f"validation top-1 {summary['val_top1']:.3f}" if summary["validated"] else "no validation clips"
        return Product(
            headline=f"{top1} ({best})",
            metadata={**summary, "mlflow_run": mlflow.link(summary["mlflow_run_id"]) or "none: tracking is off"},
            pictures=("curves.png", *([CONFUSION_FILE] if summary["validated"] else [])),
            lineage={"mlflow_run_id": summary["mlflow_run_id"]},
        )

    return publish(
        context,
        store,
        config,
        build,
        upstream=("frame_cache", "train_manifest", "val_manifest", "class_index"),
    )


def training_request(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    making: Making,
) -> TrainingRequest:
    """Everything that the training process needs, as one file."""
    inputs = making.inputs
    cache = inputs["frame_cache"].record.config
    lineage = inputs["frame_cache"].record.lineage
    spec = ModelSpec(
        labels=read_class_index(inputs["class_index"]),
        network=config.network,
        num_frames=config.num_frames,
        frame_stride=cache["stride"],
        decode_height=cache["height"],
        decode_width=cache["width"],
        frame_height=config.frame_height,
        frame_width=config.frame_width,
    )
    provenance = Provenance(
        dataset=lineage["dataset"],
        synthetic=lineage["synthetic"],
        data_version=lineage["data_version"],
        split=lineage["split"],
        # A project folder without git: the commit of the code.
        git_commit=git_commit(store.project_folder) or git_commit(Path(__file__).parent),
    )
    return TrainingRequest(
        work=str(making.work),
        spec=spec.to_json(),
        provenance=provenance.to_json(),
        manifests={role: str(inputs[f"{role}_manifest"].file(f"{role}.csv")) for role in ("train", "val")},
        frame_cache=str(inputs["frame_cache"].folder),
        epochs=config.epochs,
        batch_size=config.batch_size,
        recipe={name: getattr(config, name) for name in RECIPE},
        precision=config.precision,
        early_stopping=config.early_stopping,
        seed=config.seed,
        workers=config.workers,
        still_frames=config.still_frames,
        mlflow_tracking_uri=mlflow.uri(store.project_folder),
        mlflow_experiment=mlflow.experiment,
        mlflow_artifact_root=mlflow.artifact_location(store.project_folder),
        mlflow_outbox=str(mlflow.outbox_folder(store.project_folder)),
        mlflow_tags={
            "dagster_run_id": context.run.run_id,
            "dagster_url": mlflow.dagster_url(context.run.run_id),
            "mlflow.note.content": f"[Dagster run {context.run.run_id}]({mlflow.dagster_url(context.run.run_id)})",
            "dataset": provenance.dataset,
            "synthetic": str(provenance.synthetic).lower(),
            "data_version": provenance.data_version,
            "dvc_md5": provenance.data_version,
            "split": str(provenance.split),
            "git_commit": provenance.git_commit,
        },
    )


def _run(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, request: Path, work: Path) -> None:
    error_file = work / ERROR_FILE
    try:
        pipes.run(
            context=context,
            command=[sys.executable, "-m", "har_assets.training", str(request)],
            env={"HAR_PARENT_PID": str(os.getpid())},
        )
    except dg.DagsterExecutionInterruptedError:
        raise
    except Exception as error:
        reason = error_file.read_text() if error_file.is_file() else ""
        raise HarError(
            reason or f"The training process ended without a word ({error}): look at its output in the run's logs."
        ) from error


def git_commit(folder: Path) -> str:
    """Commit of a working tree, `-dirty` where tracked files differ from it; empty outside git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True, check=False
        ).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if changed else commit
