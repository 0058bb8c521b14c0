"""The product of test_predictions: what a model says of every test video, and how often it is right.

N videos, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from har_assets.dataset.manifests import read_manifest
from har_assets.errors import HarError
from har_assets.model.files import CHECKPOINT, ONNX
from har_assets.model.published import refuse_failed_parity
from har_assets.report.options import PREDICTIONS
from har_assets.report.plots import plot_confusion
from har_assets.runtime import Predictor, open_model, read_spec
from har_assets.runtime.evaluation import evaluate, prediction_table, score_clips
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.tracking.tags import SHA256_TAG, TEST_FIGURES
from har_assets.video.frame_cache import FrameCache

CONFUSION = "test_confusion.png"

Scored = tuple[dict[str, NDArray[np.float32]], str]
"""Mean scores, float32 [K], of each clip that has frames, and the runtime that gave them."""


class Store(Protocol):
    """Where the latest version of an asset is found."""

    def latest(self, asset: str) -> Artifact:
        """Its latest version; HarError where there is none."""
        ...


def build_test_predictions(build: Build, score: Callable[[list[str]], Scored], windows: int) -> Product:
    """The product of test_predictions: a table, the scores, float32 [N, K], and the confusion matrix as a picture.

    Args:
        build: inputs onnx_model, test_manifest and frame_cache.
        score: from the clips of the test manifest.
        windows: scored of each video.
    """
    onnx = build.inputs["onnx_model"]
    manifest = read_manifest(build.inputs["test_manifest"].file("test.csv"))
    scores_of_clip, runtime = score(list(manifest["clip"]))
    labels = read_spec(onnx.file(ONNX)).labels
    table, scores_NK = prediction_table(scores_of_clip, manifest, labels, runtime)
    table.to_csv(build.folder / PREDICTIONS, index=False, lineterminator="\n")
    np.save(build.folder / "scores.npy", scores_NK)
    figures, confusion_KK = evaluate(table, labels)
    synthetic = " (synthetic data)" if onnx.record.lineage["synthetic"] else ""
    plot_confusion(
        confusion_KK,
        labels,
        build.folder / CONFUSION,
        title=f"top-1 {figures['top1']:.3f} on {len(table)} test videos{synthetic}",
    )
    tested = onnx.record.files[ONNX]["sha256"] if runtime.startswith("ONNX") else ""
    build.run.test_figures(
        {name: figures[name.removeprefix("test_video_")] for name in TEST_FIGURES},
        tested,
    )
    build.run.file(build.folder / PREDICTIONS)
    build.run.file(build.folder / CONFUSION)
    return Product(
        headline=f"test top-1 {figures['top1']:.3f}, top-5 {figures['top5']:.3f}, mean class "
        f"{figures['mean_class_accuracy']:.3f} on {len(table)} videos{synthetic}",
        metadata={**figures, "runtime": runtime, "windows": windows, SHA256_TAG: tested},
        pictures=(CONFUSION,),
        clips=len(table) * windows,
    )


def score_here(clips: list[str], predictor: Predictor, frames: Artifact, windows: int) -> Scored:
    """Score the clips that a frame cache holds, in this process."""
    cache = FrameCache(frames.folder)
    held = [clip for clip in clips if clip in cache]
    return dict(zip(held, score_clips(predictor, held, cache, windows), strict=True)), predictor.runtime


def open_tested(runtime: str, onnx: Artifact, store: Store, threads: int = 0) -> Predictor:
    """The model that is tested: `onnx` is the deployed one, `checkpoint` the one that it was exported from.

    HarError for another runtime, a model that did not pass its gate, or a checkpoint that is not its parent.
    """
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
