"""Answers of a model to every video of a manifest, and how often they are right.

N clips of the manifest, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_assets.runtime.predictor import Predictor
from har_assets.runtime.tables import PREDICTION_COLUMNS, TOP
from har_assets.runtime.video import ranked, video_clips
from har_assets.video.frame_cache import FrameCache

QUARANTINED = "(not decodable)"
"""In place of a label, for a video that gave no frame."""


def score_clips(predictor: Predictor, clips: list[str], cache: FrameCache, windows: int) -> NDArray[np.float32]:
    """Mean scores of the windows of each clip, float32 [N, K]; all clips are in the cache."""
    spec = predictor.spec
    scores_NK = np.zeros((len(clips), spec.num_classes), np.float32)
    for number, clip in enumerate(clips):
        scores_NK[number] = predictor.predict(video_clips(cache.frames(clip), spec, windows)).mean(axis=0)
    return scores_NK


def prediction_table(
    scores_of_clip: Mapping[str, NDArray[np.float32]], manifest: pd.DataFrame, names: tuple[str, ...], runtime: str
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """The table of predictions on every clip of a manifest, and their mean scores, float32 [N, K].

    The table has PREDICTION_COLUMNS. A clip without frames has zero scores.

    Args:
        scores_of_clip: mean scores, float32 [K], of the clips that have frames.
        manifest: columns clip and label.
        names: labels in the order of the scores.
        runtime: what gave them.
    """
    scores_NK = np.zeros((len(manifest), len(names)), np.float32)
    rows = []
    for number, (clip, label) in enumerate(zip(manifest["clip"], manifest["label"], strict=True)):
        row: dict[str, Any] = {"clip": clip, "label": label, "correct": False, "runtime": runtime}
        if clip in scores_of_clip:
            scores_NK[number] = scores_of_clip[clip]
            labels, scores = ranked(scores_NK[number], names, TOP)
            row["correct"] = labels[0] == label
        else:
            labels, scores = (QUARANTINED,), (0.0,)
        for rank in range(TOP):
            row[f"label_{rank + 1}"] = labels[rank] if rank < len(labels) else ""
            row[f"score_{rank + 1}"] = round(scores[rank], 6) if rank < len(scores) else ""
        rows.append(row)
    return pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS)), scores_NK


def evaluate(table: pd.DataFrame, labels: tuple[str, ...]) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Figures and the confusion matrix of a table of predictions.

    Returns top1, top5, mean_class_accuracy (0..1, NaN-free: 0 without videos), per_class (a row a class) and
    quarantined; and int64 [K, K] counts, first index the true class, undecodable videos left out.
    """
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
