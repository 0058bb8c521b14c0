"""The content of an evaluation report: figures with intervals, and the pictures beside them.

N videos, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_assets.dataset.groups import KNOWN
from har_assets.errors import HarError
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.report.cards import Card
from har_assets.report.statistics import (
    Bin,
    Confusion,
    Estimate,
    clustered_estimate,
    confusion_order,
    confusions,
    reliability,
)
from har_assets.report.tags import TagRow, tag_rows


@dataclass(frozen=True)
class Evaluation:
    """The figures of a table of predictions."""

    labels: tuple[str, ...]
    top1: Estimate
    top5: Estimate
    mean_class: Estimate
    """Mean of the accuracies of the classes that have a test video."""
    classes: list[tuple[str, Estimate]]
    """Accuracy of each class that has a test video, lowest first."""
    absent: list[str]
    """Classes without one."""
    confusion_KK: NDArray[np.int64]
    """Counts of the videos that were decoded, first index the true class."""
    order: list[int]
    """Indices of the classes to show in the confusion matrix, neighbours taken for each other."""
    confusions: list[Confusion]
    bins: list[Bin]
    calibration_error: float | None
    """None where no video was decoded."""
    tags: list[TagRow]
    videos: int
    films: int
    wrong: int
    """Wrong answers, undecodable videos included."""
    quarantined: int
    groups: str = KNOWN
    """What is known of the recordings, `films`: KNOWN, INFERRED or UNKNOWN of `har_assets.dataset.groups`. Where
    nothing is, each video counts as a film of its own."""
    groups_found: str = ""
    """How they were inferred, a clause."""

    def figures(self) -> dict[str, float]:
        """Headline figures with the ends of their intervals, for metadata and MLflow."""
        found: dict[str, float] = {}
        for name, estimate in (("top1", self.top1), ("top5", self.top5), ("mean_class_accuracy", self.mean_class)):
            found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        if self.calibration_error is not None:
            found["calibration_error"] = self.calibration_error
        return found


def evaluate_with_intervals(
    predictions: pd.DataFrame,
    manifest: pd.DataFrame,
    labels: tuple[str, ...],
    confusion_KK: NDArray[np.int64],
    knowledge: tuple[str, str] = (KNOWN, ""),
) -> Evaluation:
    """Figures of the table that test_predictions publishes.

    Args:
        predictions: columns clip, label, correct, label_1, score_1, ... label_5; a `label_1` that is no class is a
            video that could not be decoded.
        manifest: columns clip and film, at least of these clips.
        labels: K class names in index order.
        confusion_KK: int [K, K], as `runtime.evaluation.evaluate` counts it.
        knowledge: `groups` and `groups_found` of the evaluation.

    Raises:
        HarError: there is no test video, or the manifest is not that of the predictions.
    """
    if predictions.empty:
        raise HarError("The split has no test video, so there is nothing to report: give test videos in its lists.")
    film_of = dict(zip(manifest["clip"], manifest["film"], strict=True))
    missing = [clip for clip in predictions["clip"] if clip not in film_of]
    if missing:
        raise HarError(f"{missing[0]} was predicted and is not in test_manifest: materialize test_predictions again.")
    films_N = [str(film_of[clip]) for clip in predictions["clip"]]
    true_N = predictions["label"].tolist()
    correct_N = predictions["correct"].astype(bool).to_numpy()
    top5 = [column for column in predictions.columns if column.startswith("label_")]
    in_top5_N = (predictions[top5].to_numpy() == predictions[["label"]].to_numpy()).any(axis=1)
    decoded_N = predictions["label_1"].isin(labels).to_numpy()

    def chosen(mask_N: NDArray[np.bool_]) -> list[str]:
        return [film for film, kept in zip(films_N, mask_N, strict=True) if kept]

    classes = []
    for label in sorted(set(true_N)):
        of_class_N = (predictions["label"] == label).to_numpy()
        classes.append((label, clustered_estimate(correct_N[of_class_N], chosen(of_class_N))))
    scores = predictions["score_1"].astype(float).to_numpy()[decoded_N]
    bins, error = reliability(scores, correct_N[decoded_N], chosen(decoded_N))
    return Evaluation(
        labels=labels,
        top1=clustered_estimate(correct_N, films_N),
        top5=clustered_estimate(in_top5_N, films_N),
        mean_class=clustered_estimate(correct_N, films_N, true_N),
        classes=sorted(classes, key=lambda row: (row[1].value, -row[1].videos, row[0])),
        absent=sorted(set(labels) - set(true_N)),
        confusion_KK=confusion_KK,
        order=confusion_order(confusion_KK),
        confusions=confusions(confusion_KK, labels),
        bins=bins,
        calibration_error=error,
        tags=tag_rows(predictions["clip"].tolist(), true_N, correct_N.tolist(), films_N),
        videos=len(predictions),
        films=len(set(films_N)),
        wrong=int((~correct_N).sum()),
        quarantined=int((~decoded_N).sum()),
        groups=knowledge[0],
        groups_found=knowledge[1],
    )


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    spec: ModelSpec
    provenance: Provenance
    evaluation: Evaluation
    runtime: str
    """The runtime that executed the model: `ONNX Runtime 1.31 CPU`."""
    windows: int
    mistakes: list[Card]
    right: list[Card]
    pictures: dict[str, bytes]
    """PNG files by name: `reliability.png`, and `curves.png` where the training published it."""
    created: str
    """UTC time."""
    no_saliency: str = ""
    """Why the cards do not show what spoke for the answer, a clause."""
    quarantine: list[tuple[str, str, str]] = field(default_factory=list)
    """Clip, `test` or `train or validation`, and reason."""
    training: list[tuple[str, str]] = field(default_factory=list)
    """Facts about the training, as names and values."""
    versions: list[dict[str, str]] = field(default_factory=list)
    """asset, made, version, what, link: the products behind the page."""
    links: list[tuple[str, str]] = field(default_factory=list)
    """Name and address, or a text where there is no address."""
