"""How sure the figures of an evaluation are, which classes are confused, and what a score is worth.

Clips of one source film are alike: the same people, camera and light. A thousand clips of ten films say less of the
next film than a thousand films would, so intervals here count films, not clips.

References:
    Korn and Graubard 1998, "Confidence Intervals for Proportions with Small Expected Number of Positive Counts
        Estimated from Survey Data": the effective sample size, with its correction for few clusters
    Guo et al. 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599: reliability diagram
        and expected calibration error
    Bar-Joseph et al. 2001, "Fast optimal leaf ordering for hierarchical clustering": the order of the classes

N videos, K classes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from har_assets.runtime.parity import CONFIDENCE, wilson_interval

BINS = 10
"""Number of bins of the reliability diagram, which are of equal width."""


@dataclass(frozen=True)
class Estimate:
    """A share 0..1 with its 95 % interval."""

    value: float
    low: float
    high: float
    videos: int
    films: int
    effective: float
    """Videos of as many films that would say as much."""


def clustered_estimate(
    correct_N: ArrayLike, films_N: Sequence[Hashable], strata_N: Sequence[Hashable] | None = None
) -> Estimate:
    """The share of right answers, or its mean over strata, and its interval over films.

    The variance between films gives an effective sample size, at most the number of videos, and that gives Wilson's
    interval. Films are few at times: the size is then cut by the ratio of the quantiles of Student's t. Where every
    answer is right, or every one wrong, nothing shows how much alike the clips of a film are; they count as
    independent then, the cut for few films excepted.

    Args:
        correct_N: whether each video's answer is right.
        films_N: source film of each video.
        strata_N: class of each video, for the mean of the classes' accuracies; None takes all videos alike.

    Raises:
        ValueError: there is no video.
    """
    from scipy.special import stdtrit

    correct = np.asarray(correct_N, dtype=float)
    count = len(correct)
    if not count:
        raise ValueError("an estimate needs at least one video")
    _, stratum = np.unique([str(each) for each in strata_N or [""] * count], return_inverse=True)
    size = np.bincount(stratum)
    weight = 1.0 / (len(size) * size[stratum])
    shares = np.bincount(stratum, correct) / size
    value = float(shares.mean())
    _, film = np.unique([str(each) for each in films_N], return_inverse=True)
    films = int(film.max()) + 1
    if films == 1:
        effective = 1.0  # one film says nothing of how films differ
    else:
        residual = weight * (correct - shares[stratum])
        variance = films / (films - 1) * float((np.bincount(film, residual) ** 2).sum())
        most = 1.0 / float((weight**2).sum())
        effective = min(most, value * (1 - value) / variance) if variance > 0 else most
        upper = 0.5 + CONFIDENCE / 2
        effective *= float(stdtrit(max(most - 1, 1.0), upper) / stdtrit(films - 1, upper)) ** 2
        effective = min(effective, most)
    low, high = wilson_interval(value * effective, effective)
    return Estimate(value, min(low, value), max(high, value), count, films, effective)


@dataclass(frozen=True)
class Bin:
    """Videos whose highest score lies in (`low`, `high`]."""

    low: float
    high: float
    score: float
    """Mean highest score."""
    accuracy: Estimate


def reliability(
    scores_N: ArrayLike, correct_N: ArrayLike, films_N: Sequence[Hashable]
) -> tuple[list[Bin], float | None]:
    """Bins of the reliability diagram that hold a video, and the expected calibration error 0..1.

    `scores_N` are the scores of the answers that were given. The error is the mean distance of accuracy and mean score
    over the bins, weighted by their videos; None without any video. It is never negative, so that of few videos is
    too high.
    """
    scores, correct = np.asarray(scores_N, dtype=float), np.asarray(correct_N, dtype=bool)
    if not len(scores):
        return [], None
    edges = np.linspace(0, 1, BINS + 1)
    number = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, BINS - 1)
    bins = []
    error = 0.0
    for each in np.unique(number):
        inside = np.flatnonzero(number == each)
        accuracy = clustered_estimate(correct[inside], [films_N[int(index)] for index in inside])
        score = float(scores[inside].mean())
        bins.append(Bin(float(edges[each]), float(edges[each + 1]), score, accuracy))
        error += len(inside) / len(scores) * abs(accuracy.value - score)
    return bins, error


def confusion_order(confusion_KK: NDArray[np.int64]) -> list[int]:
    """Indices of the classes that occur, such that those that are taken for each other stand together.

    Average linkage on the share of mistakes between two classes, leaves in the order that keeps neighbours closest.
    Classes without a video that are never an answer are left out. Every order of a matrix without mistakes is as good:
    the one of the indices is kept.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    shown = np.flatnonzero(confusion_KK.sum(axis=0) + confusion_KK.sum(axis=1))
    counts = confusion_KK[np.ix_(shown, shown)].astype(float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    near = share + share.T
    np.fill_diagonal(near, 0)
    if not near.any():
        return [int(index) for index in shown]
    distance = near.max() - near
    np.fill_diagonal(distance, 0)
    condensed = squareform(distance, checks=False)
    leaves = leaves_list(optimal_leaf_ordering(linkage(condensed, "average"), condensed))
    if leaves[0] > leaves[-1]:  # either direction is as good: the alphabet's
        leaves = leaves[::-1]
    return [int(shown[leaf]) for leaf in leaves]


@dataclass(frozen=True)
class Confusion:
    """One class taken for another."""

    true: str
    answer: str
    videos: int
    of: int
    """Videos of the true class that were decoded."""


def confusions(confusion_KK: NDArray[np.int64], labels: Sequence[str], most: int = 12) -> list[Confusion]:
    """The most frequent mistakes, by count, then by share, then by name."""
    size_K = confusion_KK.sum(axis=1)
    found = [
        Confusion(labels[int(row)], labels[int(column)], int(confusion_KK[row, column]), int(size_K[row]))
        for row, column in np.argwhere(confusion_KK > 0)
        if row != column
    ]
    return sorted(found, key=lambda each: (-each.videos, each.of, each.true, each.answer))[:most]
