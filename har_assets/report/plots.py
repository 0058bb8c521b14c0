"""Pictures of a training and an evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from har_assets.report.statistics import Bin, Estimate, confusion_order

TRAIN_COLOUR = "#7f8c9b"
VAL_COLOUR = "#1f6feb"


def plot_curves(epochs: Sequence[dict[str, Any]], target: Path, *, title: str) -> Path:
    """Loss and top-1 accuracy over epochs, training and validation, as one PNG.

    `epochs` are dictionaries with `train_loss`, `train_top1` and, where validated, `val_loss`, `val_top1`.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    figure.suptitle(title)
    numbers = [epoch["epoch"] + 1 for epoch in epochs]
    for axes, metric, label in zip(figure.subplots(1, 2), ("loss", "top1"), ("loss", "top-1 accuracy"), strict=True):
        for stage, colour in (("train", TRAIN_COLOUR), ("val", VAL_COLOUR)):
            values = [epoch.get(f"{stage}_{metric}") for epoch in epochs]
            if any(value is not None for value in values):
                axes.plot(
                    numbers,
                    values,
                    color=colour,
                    label={"train": "training", "val": "validation"}[stage],
                    marker="." if len(numbers) < 3 else None,
                )
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if metric == "top1":
            axes.set_ylim(0, 1.02)
        axes.legend(frameon=False)
    figure.savefig(target, dpi=110)
    return target


def plot_confusion(confusion_KK: NDArray[np.int64], labels: Sequence[str], target: Path, *, title: str) -> Path:
    """Confusion matrix as a PNG; rows are true classes, columns predictions, shades the share of the row.

    Classes that are taken for each other stand together.

    Args:
        confusion_KK: int [K, K] counts, first index the true class.
        labels: K class names in index order. Classes without any clip are left out of the picture.
        target: PNG file.
        title: line above the picture.
    """
    shown = confusion_order(confusion_KK)
    counts = confusion_KK[np.ix_(shown, shown)]
    names = [_plain(labels[index]) for index in shown]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 0.32 * len(names) + 2.2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    for row, column in np.argwhere(counts > 0):
        axes.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share[row, column] > 0.5 else "black",
        )
    figure.savefig(target, dpi=110)
    return target


def plot_reliability(bins: Sequence[Bin], error: float | None, target: Path, *, title: str) -> Path:
    """How often answers of a score are right, against the score, with intervals and the videos of each bin; a PNG."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color=TRAIN_COLOUR, linestyle="--", linewidth=1, label="scores that are probabilities")
    scores = [each.score for each in bins]
    values = [each.accuracy.value for each in bins]
    reach = [
        [each.accuracy.value - each.accuracy.low for each in bins],
        [each.accuracy.high - each.accuracy.value for each in bins],
    ]
    label = "answers, with 95 % intervals" if error is None else f"answers, calibration error {error:.3f}"
    upper.errorbar(scores, values, yerr=reach, fmt="o", color=VAL_COLOUR, capsize=3, label=label)
    upper.set_ylim(-0.02, 1.02)
    upper.set_ylabel("share of right answers")
    upper.legend(frameon=False, loc="lower right")
    lower.bar(
        [(each.low + each.high) / 2 for each in bins],
        [each.accuracy.videos for each in bins],
        0.092,
        color=VAL_COLOUR,
        alpha=0.6,
    )
    lower.set_xlim(0, 1)
    lower.set_xlabel("score of the answer")
    lower.set_ylabel("videos")
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110)
    return target


def plot_class_accuracy(rows: Sequence[tuple[str, Estimate]], target: Path, *, title: str) -> Path:
    """Accuracy of each class with its 95 % interval, in the order of `rows` from above, as a PNG."""
    figure = Figure(figsize=(7, 1.2 + 0.22 * max(len(rows), 1)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize="medium")
    places = range(len(rows))
    values = [estimate.value for _, estimate in rows]
    reach = [[e.value - e.low for _, e in rows], [e.high - e.value for _, e in rows]]
    axes.barh(places, values, 0.72, color=VAL_COLOUR, alpha=0.75)
    axes.errorbar(values, places, xerr=reach, fmt="none", ecolor="#3d4856", elinewidth=1, capsize=2)
    axes.set_yticks(places, [f"{_plain(label)} ({estimate.videos})" for label, estimate in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of right answers (videos in brackets)")
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110)
    return target


def plot_strips(strips: Sequence[tuple[str, NDArray[np.uint8]]], target: Path, *, title: str) -> Path:
    """Captioned strips of frames below each other, uint8 [H, W, 3] each, as one PNG."""
    figure = Figure(figsize=(7, 0.4 + 2.35 * len(strips)), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    for axes, (caption, picture_HWC) in zip(figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips, strict=True):
        axes.imshow(picture_HWC)
        axes.set_title(_plain(caption), fontsize=9, loc="left")
        axes.set_axis_off()
    figure.savefig(target, dpi=90)
    return target


def _plain(label: str) -> str:
    """A class name as words, with nothing that matplotlib would take for a formula."""
    return label.replace("_", " ").replace("$", r"\$")


def plot_runtimes(rows: Sequence[dict[str, Any]], target: Path, *, title: str) -> Path:
    """Clips a second of each runtime by batch size, and the median time of a call, as one PNG.

    `rows` are dictionaries with `runtime`, `batch`, `clips_per_s`, `p50_ms`, `p99_ms`; those without a batch are left
    out.
    """
    measured = [row for row in rows if row["batch"] is not None]
    names = list(dict.fromkeys(row["runtime"] for row in measured))
    batches = sorted({row["batch"] for row in measured})
    figure = Figure(figsize=(10, 1.2 + 0.45 * max(len(names), 1) * max(len(batches), 1) * 0.6), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    left, right = figure.subplots(1, 2, sharey=True)
    height = 0.8 / max(len(batches), 1)
    for number, batch in enumerate(batches):
        found = {row["runtime"]: row for row in measured if row["batch"] == batch}
        places = [
            index + (number - (len(batches) - 1) / 2) * height for index, name in enumerate(names) if name in found
        ]
        shown = [found[name] for name in names if name in found]
        shade = 0.35 + 0.6 * (number + 1) / len(batches)
        bars = left.barh(
            places,
            [row["clips_per_s"] for row in shown],
            height * 0.92,
            color=VAL_COLOUR,
            alpha=shade,
            label=f"batch {batch}",
        )
        left.bar_label(bars, [f"{row['clips_per_s']:,.0f}" for row in shown], padding=3, fontsize=7)
        medians = [row["p50_ms"] for row in shown]
        right.barh(places, medians, height * 0.92, color=VAL_COLOUR, alpha=shade)
        tails = [max(row["p99_ms"] - row["p50_ms"], 0.0) for row in shown]
        right.errorbar(
            medians, places, xerr=[[0.0] * len(tails), tails], fmt="none", ecolor=TRAIN_COLOUR, elinewidth=1, capsize=2
        )
        for place, median, tail in zip(places, medians, tails, strict=True):
            right.annotate(
                f"{median:,.1f}", (median + tail, place), (4, 0), textcoords="offset points", va="center", fontsize=7
            )
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("clips a second")
    right.set_xlabel("ms a call: median, line to the 99th percentile")
    right.set_xscale("log")
    for axes in (left, right):
        axes.margins(x=0.15)
        axes.grid(alpha=0.25, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    if measured:
        left.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)
    return target
