"""The gate of a conversion: its scores beside those of its parent, on the same windows, before it is published.

B windows, K classes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from har_assets.errors import HarError
from har_assets.export.onnx import read_onnx, write_onnx
from har_assets.export.precision import imitate_fp16
from har_assets.model.windows import Windows
from har_assets.runtime.onnx import OnnxPredictor
from har_assets.runtime.parity import Limits, Parity, compare
from har_assets.runtime.predictor import Predictor, Scores
from har_assets.system.files import Log

ROUNDED = "fp16 rounded"
"""Name of the imitation of float16 that stands beside the fp16 file where ONNX Runtime has no GPU."""

PROGRESS_SECONDS = 10.0
"""Between two lines of progress."""


def gate_predictors(path: Path, precision: str, fp32: Path) -> dict[str, Predictor]:
    """The predictors that gate a file converted from `fp32`, by the name of its precision.

    That is ONNX Runtime's CPU, whose float32 is exact; float16 runs on a GPU where there is one. Without one the
    CPU computes the float16 file in float32 throughout, so that ROUNDED stands beside it and imitates the rounding.
    """
    predictor = OnnxPredictor(path, provider=None if precision == "fp16" else "CPU")
    if precision != "fp16" or not predictor.runtime.endswith("CPU"):
        return {precision: predictor}
    proto, spec, provenance = read_onnx(fp32)
    with tempfile.TemporaryDirectory(prefix="har_assets_fp16_") as folder:
        imitation = write_onnx(imitate_fp16(proto), spec, provenance, Path(folder) / "imitation.onnx")
        return {precision: predictor, ROUNDED: OnnxPredictor(imitation, provider="CPU")}


def pass_gates(
    parent: Predictor,
    children: Mapping[str, Predictor],
    windows: Windows,
    limits: Callable[[str], Limits],
    log: Log = print,
) -> dict[str, Parity]:
    """Parity of every child with the parent on the same windows, by the child's name: a precision or ROUNDED.

    Raises:
        ParityError: a child does not hold the `limits` of its precision.
    """
    scores, labels_B = score_windows({"": parent, **children}, windows, log)
    parities = {}
    for name in children:
        gate = limits("fp16" if name == ROUNDED else name)
        parities[name] = compare(
            scores[""],
            scores[name],
            max_difference=gate.max_difference,
            top1_agreement=gate.top1_agreement,
            labels_B=labels_B,
        )
        parities[name].require(f"The {name} model", f"its parent ({parent.runtime})")
    return parities


def score_windows(
    predictors: Mapping[str, Predictor], windows: Windows, log: Log = print
) -> tuple[dict[str, Scores], NDArray[np.int64]]:
    """Scores [B, K] of each predictor on all windows, and the true class indices [B].

    Every batch is read once and given to all; only scores are kept. `log` takes a line now and then.
    """
    scores: dict[str, list[Scores]] = {name: [] for name in predictors}
    labels: list[NDArray[np.int64]] = []
    started = said = time.monotonic()
    done = 0
    for clips_BCTHW, labels_B in windows.batches():
        for name, predictor in predictors.items():
            scores[name].append(predictor.predict(clips_BCTHW))
        labels.append(labels_B)
        done += len(labels_B)
        now = time.monotonic()
        if now - said >= PROGRESS_SECONDS:
            said = now
            left = (now - started) / done * (len(windows) - done)
            log(f"Compared on {done:,} of {len(windows):,} windows, {left:.0f} s left.")
    if not labels:
        raise HarError("There is no decoded test video to compare on: look at the quarantine table of frame_cache.")
    return {name: np.concatenate(parts) for name, parts in scores.items()}, np.concatenate(labels)
