"""test_predictions: what the deployed model says of every test video."""

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import dagster as dg

from har_assets.cluster.address import cluster_address
from har_assets.cluster.needs import needs
from har_assets.dataset.manifests import read_manifest_of
from har_assets.errors import HarError
from har_assets.graph.assets.deployment import ONNX, refuse_failed_parity
from har_assets.graph.assets.training import CHECKPOINT
from har_assets.graph.failures import failures_in_words
from har_assets.graph.publishing import AssetConfig, made, result_of
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact

CONFUSION = "test_confusion.png"

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from har_assets.cluster.sharding import Shards
    from har_assets.runtime import Predictor


class PredictionConfig(AssetConfig):
    """How test videos are scored."""

    not_content: ClassVar[frozenset[str]] = AssetConfig.not_content | {"shard_clips"}

    runtime: str = "onnx"
    """`onnx` scores with the deployed model, `checkpoint` with PyTorch."""
    windows: int = 4
    """Temporal clips a video, spread evenly; their scores are averaged."""
    shard_clips: int = 256
    """Videos that one node of a Ray cluster scores at a time."""


@dg.asset(
    deps=["onnx_model", "test_manifest", "frame_cache"],
    group_name="evaluation",
    kinds={"onnx", "pandas"},
    code_version="2",
    pool="gpu",
    op_tags=needs(0),  # CPUs and GPUs are for its shards
    tags={"har/stage": "evaluation"},
)
def test_predictions(
    context: dg.AssetExecutionContext, config: PredictionConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`test_predictions.csv`: every test video with its true label and the five most likely ones.

    A video that could not be decoded counts as wrong.
    """

    with failures_in_words():
        return result_of(*make_test_predictions(context, config, store, mlflow, on_cluster=bool(cluster_address())))


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
        nonlocal shards
        import numpy as np

        from har_assets.report.plots import plot_confusion
        from har_assets.runtime import read_spec
        from har_assets.runtime.evaluation import evaluate, prediction_table

        inputs = build.inputs
        manifest = read_manifest_of(inputs["test_manifest"], "test")
        clips = list(manifest["clip"])
        open_predictor = partial(_predictor, config.runtime)
        if on_cluster:
            from har_assets.cluster.predictions import prediction_shards, score_on_cluster

            recipe = config.content()
            shards = prediction_shards(clips, inputs["frame_cache"], inputs["onnx_model"], recipe, config.shard_clips)
            scores_of_clip, runtime = score_on_cluster(
                shards,
                store=store,
                inputs=inputs,
                open_model=open_predictor,
                windows=config.windows,
                log=context.log.info,
            )
        else:
            scores_of_clip, runtime = scored_here(
                clips, open_predictor(inputs["onnx_model"], store), inputs["frame_cache"], config.windows
            )
        labels = read_spec(inputs["onnx_model"].file(ONNX)).labels
        table, scores_NK = prediction_table(scores_of_clip, manifest, labels, runtime)
        table.to_csv(build.folder / "test_predictions.csv", index=False, lineterminator="\n")
        np.save(build.folder / "scores.npy", scores_NK)
        figures, confusion_KK = evaluate(table, labels)
        synthetic = " (synthetic data)" if inputs["onnx_model"].record.lineage["synthetic"] else ""
        plot_confusion(
            confusion_KK,
            labels,
            build.folder / CONFUSION,
            title=f"top-1 {figures['top1']:.3f} on {len(table)} test videos{synthetic}",
        )
        build.run.metrics({f"test_video_{name}": figures[name] for name in ("top1", "top5", "mean_class_accuracy")})
        build.run.file(build.folder / "test_predictions.csv")
        build.run.file(build.folder / CONFUSION)
        return Product(
            headline=f"test top-1 {figures['top1']:.3f}, top-5 {figures['top5']:.3f}, mean class "
            f"{figures['mean_class_accuracy']:.3f} on {len(table)} videos{synthetic}",
            metadata={**figures, "runtime": runtime, "windows": config.windows},
            pictures=(CONFUSION,),
            clips=len(table) * config.windows,
        )

    result = made(
        context,
        store,
        config,
        product_of,
        name="test_predictions",
        code_version=test_predictions.get_asset_spec().code_version,
        upstream=("onnx_model", "test_manifest", "frame_cache"),
        mlflow=mlflow,
    )
    if shards:
        from har_assets.cluster.predictions import PART
        from har_assets.cluster.sharding import remove_parts

        remove_parts(PART, shards, store)
    return result


def scored_here(
    clips: list[str], predictor: "Predictor", frames: Artifact, windows: int
) -> "tuple[dict[str, NDArray[np.float32]], str]":
    """Mean scores, float32 [K], of each clip that has frames, and the runtime that gave them."""
    from har_assets.runtime.evaluation import score_clips
    from har_assets.video.frame_cache import FrameCache

    cache = FrameCache(frames.folder)
    there = [clip for clip in clips if clip in cache]
    return dict(zip(there, score_clips(predictor, there, cache, windows), strict=True)), predictor.runtime


def _predictor(runtime: str, onnx: Artifact, store: ArtifactStore, threads: int = 0) -> "Predictor":
    from har_assets.runtime import open_model

    if runtime == "onnx":
        refuse_failed_parity(onnx)
        # Not the fastest one: figures must not depend on which one that was.
        return open_model(onnx.file(ONNX), "onnxruntime", threads=threads)
    if runtime == "checkpoint":
        checkpoint = store.latest("trained_checkpoint")
        if checkpoint.record.data_version != onnx.record.inputs["trained_checkpoint"]:
            raise HarError("onnx_model was exported from another checkpoint than the latest: materialize onnx_model.")
        return open_model(checkpoint.file(CHECKPOINT), "pytorch", threads=threads)
    raise HarError(f"There is no runtime {runtime!r}: choose onnx or checkpoint.")
