"""test_predictions: what the deployed model says of every test video."""

from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from har_assets import settings
from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.publishing import made, result_of
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.report.options import PREDICTION_TABLE, PredictionOptions
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact

if TYPE_CHECKING:
    from har_assets.cluster.sharding import Shards
    from har_assets.report.predictions import Scored


class PredictionConfig(PredictionOptions, AssetConfig):
    """How test videos are scored."""


@stage_asset("test_predictions", PREDICTION_TABLE)
def test_predictions(
    context: dg.AssetExecutionContext, config: PredictionConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`test_predictions.csv`: every test video with its true label and the five most likely ones.

    A video that could not be decoded counts as wrong.
    """

    return result_of(*make_test_predictions(context, config, store, mlflow, on_cluster=bool(settings.read().ray)))


def make_test_predictions(
    context: dg.AssetExecutionContext,
    config: PredictionConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
    *,
    on_cluster: bool = False,
) -> tuple[Artifact, bool]:
    """test_predictions in a store, and whether it was there already. Raises HarError.

    `on_cluster`: in shards on the nodes of the Ray cluster that this process is part of, of which it needs nothing.
    """
    shards: Shards = {}

    def product_of(build: Build) -> Product:
        from har_assets.report.predictions import build_test_predictions, open_tested, score_here

        inputs = build.inputs
        open_model = partial(open_tested, config.runtime)

        def score(clips: list[str]) -> "Scored":
            nonlocal shards
            if not on_cluster:
                return score_here(clips, open_model(inputs["onnx_model"], store), inputs["frame_cache"], config.windows)
            from har_assets.cluster.predictions import prediction_shards, score_on_cluster

            recipe = config.content()
            shards = prediction_shards(clips, inputs["frame_cache"], inputs["onnx_model"], recipe, config.shard_clips)
            return score_on_cluster(
                shards,
                location=store.location,
                inputs=inputs,
                open_model=open_model,
                windows=config.windows,
                log=context.log.info,
            )

        return build_test_predictions(build, score, config.windows)

    result = made(
        context,
        store,
        config,
        product_of,
        name="test_predictions",
        mlflow=mlflow,
    )
    if shards:
        from har_assets.cluster.predictions import PART
        from har_assets.cluster.sharding import remove_parts

        remove_parts(PART, shards, store.folder)
    return result
