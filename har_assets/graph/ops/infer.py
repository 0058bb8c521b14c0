"""Jobs that name one video file: infer_from_onnx, infer, infer_ml_flow."""

import tempfile
from pathlib import Path

import dagster as dg

from har_assets.errors import HarError
from har_assets.graph.asset import GraphConfig
from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.model.files import CHECKPOINT
from har_assets.model.published import published_onnx
from har_assets.system.confinement import confined
from har_assets.training.request import CHECKPOINT_FILE


class InferenceConfig(GraphConfig):
    """Which video, and how it is scored."""

    video: str = ""
    """Path of a video file, relative to the project folder or absolute."""
    model: str = ""
    """Path of a model file; empty takes the latest published one."""
    windows: int = 4
    """Temporal clips, spread evenly over the video; their scores are averaged."""
    top: int = 5
    """Classes to return."""


class OnnxInferenceConfig(InferenceConfig):
    """As above, the model an ONNX file."""

    precision: str = ""
    """fp32, fp16 or int8 of those that onnx_model has published; empty takes the deployed one. Not with `model`."""


class MlflowInferenceConfig(InferenceConfig):
    """As above, the model taken from an MLflow run."""

    run_id: str = ""
    """MLflow run; empty takes the run of the latest trained_checkpoint."""


@dg.op
def predict_from_onnx(context: dg.OpExecutionContext, config: OnnxInferenceConfig, store: ArtifactStore) -> None:
    """Predict the action in a video file with the published ONNX model in ONNX Runtime."""
    with failures_in_words():
        if config.model and config.precision:
            raise HarError("Both model and precision were named: choose one, a file has the precision that it has.")
        if config.model and Path(config.model).suffix != ".onnx":
            raise HarError(f"{config.model} is no ONNX file: name one, or use the job infer for a checkpoint.")
        model = Path(config.model) if config.model else published_onnx(store.latest("onnx_model"), config.precision)
        _predict(context, config, store, model)


@dg.op
def predict_from_checkpoint(context: dg.OpExecutionContext, config: InferenceConfig, store: ArtifactStore) -> None:
    """Predict the action in a video file with the published checkpoint in PyTorch."""
    with failures_in_words():
        model = Path(config.model) if config.model else store.latest("trained_checkpoint").file(CHECKPOINT)
        _predict(context, config, store, model)


@dg.op
def predict_from_mlflow(
    context: dg.OpExecutionContext,
    config: MlflowInferenceConfig,
    store: ArtifactStore,
    mlflow: MlflowTracking,
) -> None:
    """Predict the action in a video file with the checkpoint that an MLflow run holds."""
    with failures_in_words():
        run_id = config.run_id or store.latest("trained_checkpoint").record.lineage["mlflow_run_id"]
        if not run_id:
            raise HarError(
                "The latest trained_checkpoint was trained without MLflow: name a run_id, or use the job infer."
            )
        with tempfile.TemporaryDirectory() as folder:
            _predict(
                context,
                config,
                store,
                mlflow.download(store.project_folder, run_id, CHECKPOINT_FILE, Path(folder)),
            )


def _predict(context: dg.OpExecutionContext, config: InferenceConfig, store: ArtifactStore, model: Path) -> None:
    from har_assets.runtime import open_model
    from har_assets.runtime.video import predict_video

    if not config.video:
        raise HarError("No video was named: set `video` in the configuration of the op to the path of a video file.")
    if config.windows < 1 or config.top < 1:
        raise HarError(f"windows is {config.windows} and top {config.top}: choose 1 or more of each.")
    video = confined(store.project_folder / config.video, store.project_folder, "video")
    if config.model:
        confined(store.project_folder / model, store.project_folder, "model")
    predictor = open_model(store.project_folder / model)
    prediction = predict_video(predictor, video, windows=config.windows, top=config.top)
    rows = [
        dg.TableRecord({"rank": rank, "label": label, "score": round(score, 4)})
        for rank, (label, score) in enumerate(zip(prediction.labels, prediction.scores, strict=True), start=1)
    ]
    for row in rows:
        context.log.info(f"{row.data['rank']}. {row.data['label']} {row.data['score']:.4f}")
    context.add_output_metadata(
        {
            "answer": f"{prediction.labels[0]} ({prediction.scores[0]:.3f})",
            "video": dg.MetadataValue.path(str(video)),
            "model": dg.MetadataValue.path(str(model)),
            "runtime": predictor.runtime,
            "predictions": dg.MetadataValue.table(rows),
            "note": prediction.note,
        }
    )


@dg.job(description="infer-from-onnx of the original project: any video file through ONNX Runtime.")
def infer_from_onnx() -> None:
    """One video, ONNX Runtime."""
    predict_from_onnx()


@dg.job(description="infer of the original project: any video file through the checkpoint in PyTorch.")
def infer() -> None:
    """One video, PyTorch."""
    predict_from_checkpoint()


@dg.job(description="infer-ml-flow of the original project: any video file through the model of an MLflow run.")
def infer_ml_flow() -> None:
    """One video, the checkpoint of an MLflow run."""
    predict_from_mlflow()
