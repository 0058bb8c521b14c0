"""test_predictions: what the deployed model says of every test video."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from har_assets.artifacts import Artifact
from har_assets.assets.dataset import read_manifest_of
from har_assets.assets.deployment import ONNX, refuse_failed_parity
from har_assets.assets.publishing import AssetConfig, Making, Product, publish
from har_assets.assets.training import CHECKPOINT
from har_assets.errors import HarError
from har_assets.resources.mlflow import MlflowTracking
from har_assets.resources.store import ArtifactStore

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from har_assets.runtime import Predictor

QUARANTINED = "(not decodable)"
TOP = 5


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
    code_version="1",
    pool="gpu",
    tags={"har/stage": "evaluation"},
)
def test_predictions(
    context: dg.AssetExecutionContext, config: PredictionConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`test_predictions.csv`: every test video with its true label and the five most likely ones.

    A video that could not be decoded counts as wrong.
    """

    def build(making: Making) -> Product:
        import numpy as np  # noqa: PLC0415

        from har_assets.report.plots import plot_confusion  # noqa: PLC0415

        predictor = _predictor(config.runtime, making.inputs["onnx_model"], store)
        table, scores_NK = predict_manifest(predictor, making.inputs, config.windows)
        table.to_csv(making.folder / "test_predictions.csv", index=False, lineterminator="\n")
        np.save(making.folder / "scores.npy", scores_NK)
        figures, confusion_KK = evaluate(table, predictor.spec.labels)
        synthetic = " (synthetic data)" if predictor.provenance.synthetic else ""
        plot_confusion(
            confusion_KK,
            predictor.spec.labels,
            making.folder / "confusion.png",
            title=f"top-1 {figures['top1']:.3f} on {len(table)} test videos{synthetic}",
        )
        with mlflow.continued_run(store.project_folder, predictor.provenance.mlflow_run_id) as run:
            if run:
                run.metrics({f"test_video_{name}": figures[name] for name in ("top1", "top5", "mean_class_accuracy")})
                run.file(making.folder / "test_predictions.csv")
                run.file(making.folder / "confusion.png")
        return Product(
            headline=f"test top-1 {figures['top1']:.3f}, top-5 {figures['top5']:.3f}, mean class "
            f"{figures['mean_class_accuracy']:.3f} on {len(table)} videos{synthetic}",
            metadata={**figures, "runtime": predictor.runtime, "windows": config.windows},
            pictures=("confusion.png",),
        )

    return publish(context, store, config, build, upstream=("onnx_model", "test_manifest", "frame_cache"))


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


def predict_manifest(
    predictor: "Predictor", inputs: dict[str, Artifact], windows: int, *, still_frames: bool = False
) -> "tuple[pd.DataFrame, NDArray[np.float32]]":
    """Predictions on every clip of the test manifest; `still_frames` shows each window's first frame T times.

    Returns the table (clip, label, correct, runtime, windows, label_1, score_1, ... label_5, score_5) and the
    mean scores, float32 [N, K], zero for clips without frames.
    """
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    from har_assets.runtime.video import ranked, video_clips  # noqa: PLC0415
    from har_assets.video.frame_cache import FrameCache  # noqa: PLC0415

    cache = FrameCache(inputs["frame_cache"].folder)
    manifest = read_manifest_of(inputs["test_manifest"], "test")
    spec = predictor.spec
    scores_NK = np.zeros((len(manifest), spec.num_classes), np.float32)
    rows = []
    for number, (clip, label) in enumerate(zip(manifest["clip"], manifest["label"], strict=True)):
        row: dict[str, Any] = {"clip": clip, "label": label, "correct": False, "runtime": predictor.runtime}
        if clip in cache:
            clips_BCTHW = video_clips(cache.frames(clip), spec, windows)
            if still_frames:
                clips_BCTHW = np.repeat(clips_BCTHW[:, :, :1], spec.num_frames, axis=2)
            scores_NK[number] = predictor.predict(clips_BCTHW).mean(axis=0)
            labels, scores = ranked(scores_NK[number], spec.labels, TOP)
            row["correct"] = labels[0] == label
        else:
            labels, scores = (QUARANTINED,), (0.0,)
        for rank in range(TOP):
            row[f"label_{rank + 1}"] = labels[rank] if rank < len(labels) else ""
            row[f"score_{rank + 1}"] = round(scores[rank], 6) if rank < len(scores) else ""
        rows.append(row)
    columns = ["clip", "label", "correct", "runtime",
               *(f"{what}_{rank + 1}" for rank in range(TOP) for what in ("label", "score"))]  # fmt: skip
    return pd.DataFrame(rows, columns=columns), scores_NK


def evaluate(table: "pd.DataFrame", labels: tuple[str, ...]) -> "tuple[dict[str, Any], NDArray[np.int64]]":
    """Figures and the confusion matrix of a table of predictions.

    Returns top1, top5, mean_class_accuracy (0..1, NaN-free: 0 without videos), per_class (a row a class) and
    quarantined; and int64 [K, K] counts, first index the true class, undecodable videos left out.
    """
    import numpy as np  # noqa: PLC0415

    index = {label: number for number, label in enumerate(labels)}
    confusion_KK = np.zeros((len(labels), len(labels)), np.int64)
    decoded = table[table["label_1"] != QUARANTINED]
    for true, predicted in zip(decoded["label"], decoded["label_1"], strict=True):
        confusion_KK[index[true], index[predicted]] += 1
    in_top5 = (table[[f"label_{rank + 1}" for rank in range(TOP)]].to_numpy() == table[["label"]].to_numpy()).any(
        axis=1
    )
    per_class = table.groupby("label")["correct"].agg(["mean", "size"])
    figures = {
        "videos": len(table),
        "top1": float(table["correct"].mean()) if len(table) else 0.0,
        "top5": float(in_top5.mean()) if len(table) else 0.0,
        "mean_class_accuracy": float(per_class["mean"].mean()) if len(table) else 0.0,
        "quarantined": len(table) - len(decoded),
        "per_class": [
            {"class": label, "accuracy": round(float(row["mean"]), 4), "videos": int(row["size"])}
            for label, row in per_class.iterrows()
        ],
    }
    return figures, confusion_KK
