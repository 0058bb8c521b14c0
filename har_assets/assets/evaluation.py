"""test_predictions: what the deployed model says of every test video."""

from typing import TYPE_CHECKING

import dagster as dg

from har_assets.artifacts import Artifact
from har_assets.assets.dataset import read_manifest_of
from har_assets.assets.deployment import ONNX, refuse_failed_parity
from har_assets.assets.publishing import AssetConfig, Making, Product, failures_in_words, made, result_of
from har_assets.assets.training import CHECKPOINT
from har_assets.errors import HarError
from har_assets.ray_cluster import needs
from har_assets.resources.mlflow import MlflowTracking
from har_assets.resources.store import ArtifactStore

CONFUSION = "test_confusion.png"

if TYPE_CHECKING:
    from har_assets.runtime import Predictor


class PredictionConfig(AssetConfig):
    """How test videos are scored."""

    runtime: str = "onnx"
    """`onnx` scores with the deployed model, `checkpoint` with PyTorch."""
    windows: int = 4
    """Temporal clips a video, spread evenly; their scores are averaged."""


@dg.asset(
    deps=["onnx_model", "test_manifest", "frame_cache"],
    group_name="evaluation",
    kinds={"onnx", "pandas"},
    code_version="2",
    pool="gpu",
    op_tags=needs(gpus=1),
    tags={"har/stage": "evaluation"},
)
def test_predictions(
    context: dg.AssetExecutionContext, config: PredictionConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`test_predictions.csv`: every test video with its true label and the five most likely ones.

    A video that could not be decoded counts as wrong.
    """

    with failures_in_words():
        return result_of(*make_test_predictions(context, config, store, mlflow))


def make_test_predictions(
    context: dg.AssetExecutionContext, config: PredictionConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> tuple[Artifact, bool]:
    """test_predictions in a store, and whether it was there already. Raises HarError."""

    def build(making: Making) -> Product:
        import numpy as np  # noqa: PLC0415

        from har_assets.report.plots import plot_confusion  # noqa: PLC0415
        from har_assets.runtime.evaluation import evaluate, predict_manifest  # noqa: PLC0415
        from har_assets.video.frame_cache import FrameCache  # noqa: PLC0415

        predictor = _predictor(config.runtime, making.inputs["onnx_model"], store)
        cache = FrameCache(making.inputs["frame_cache"].folder)
        manifest = read_manifest_of(making.inputs["test_manifest"], "test")
        table, scores_NK = predict_manifest(predictor, manifest, cache, config.windows)
        table.to_csv(making.folder / "test_predictions.csv", index=False, lineterminator="\n")
        np.save(making.folder / "scores.npy", scores_NK)
        figures, confusion_KK = evaluate(table, predictor.spec.labels)
        synthetic = " (synthetic data)" if predictor.provenance.synthetic else ""
        plot_confusion(
            confusion_KK,
            predictor.spec.labels,
            making.folder / CONFUSION,
            title=f"top-1 {figures['top1']:.3f} on {len(table)} test videos{synthetic}",
        )
        making.run.metrics({f"test_video_{name}": figures[name] for name in ("top1", "top5", "mean_class_accuracy")})
        making.run.file(making.folder / "test_predictions.csv")
        making.run.file(making.folder / CONFUSION)
        return Product(
            headline=f"test top-1 {figures['top1']:.3f}, top-5 {figures['top5']:.3f}, mean class "
            f"{figures['mean_class_accuracy']:.3f} on {len(table)} videos{synthetic}",
            metadata={**figures, "runtime": predictor.runtime, "windows": config.windows},
            pictures=(CONFUSION,),
            clips=len(table) * config.windows,
        )

    return made(
        context,
        store,
        config,
        build,
        name="test_predictions",
        code_version=test_predictions.get_asset_spec().code_version,
        upstream=("onnx_model", "test_manifest", "frame_cache"),
        mlflow=mlflow,
    )


def _predictor(runtime: str, onnx: Artifact, store: ArtifactStore) -> "Predictor":
    from har_assets.runtime import open_model  # noqa: PLC0415

    if runtime == "onnx":
        refuse_failed_parity(onnx)
        # Not the fastest one: figures must not depend on which one that was.
        return open_model(onnx.file(ONNX), "onnxruntime")
    if runtime == "checkpoint":
        checkpoint = store.latest("trained_checkpoint")
        if checkpoint.record.data_version != onnx.record.inputs["trained_checkpoint"]:
            raise HarError("onnx_model was exported from another checkpoint than the latest: materialize onnx_model.")
        return open_model(checkpoint.file(CHECKPOINT), "pytorch")
    raise HarError(f"There is no runtime {runtime!r}: choose onnx or checkpoint.")
