"""How sure the figures of an evaluation are, which classes are confused, and what a score is worth.

Clips of one source film are alike: the same people, camera and light. A thousand clips of ten films say less of the
next film than a thousand films would, so intervals here count films, not clips.

References:
    Korn and Graubard 1998, "Confidence Intervals for Proportions with Small Expected Number of Positive Counts
        Estimated from Survey Data": the effective sample size, with its correction for few clusters
    Bell and McCaffrey 2002, "Bias Reduction in Standard Errors for Linear Regression with Multi-Stage Samples": the
        corrections CR2 and CR3 of the variance between clusters, and its degrees of freedom by Satterthwaite
    Guo et al. 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599: reliability diagram
        and expected calibration error
    Bar-Joseph et al. 2001, "Fast optimal leaf ordering for hierarchical clustering": the order of the classes

N videos, K classes, M films, C cells (the videos of one film and class).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from har_assets.runtime.parity import CONFIDENCE, CONFIDENCE_Z, wilson_interval

BINS = 10
"""Number of bins of the reliability diagram, which are of equal width."""

LEVERAGE_POWER = 0.75
"""Exponent of the correction for what a film pulls the mean of its class towards itself. CR2 has 0.5 and gives
intervals that are a little narrow for few films, CR3 has 1 and gives wide ones: benchmarks/interval_coverage.py."""

ALIKE = 0.2
"""Correlation of two videos of a film that the degrees of freedom, which depend on it little, are computed with."""


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


class FilmClusters:
    """The films and classes of N videos, from which any number of answers get their intervals.

    The variance between films gives an effective sample size, and that gives Wilson's interval.

    - A film pulls the mean of its class towards itself, the more so the larger its share of the class is. Its
      deviation from that mean is enlarged accordingly (`LEVERAGE_POWER`).
    - Few films, or films of very unequal sizes, tell the variance badly: the size is cut by the ratio of the quantiles
      of the normal and of Student's t distribution, with Satterthwaite's degrees of freedom.
    - A class of one film has no variance of its own: it gets that of the other classes.
    - The size lies between that of answers that are all alike in a film and that of independent answers. Rare answers
      do not show how much alike the videos of a film are: where F films have one of the rarer kind, right or wrong,
      videos of a film count as correlated by at least 1 / F.
    """

    def __init__(self, films_N: Sequence[Hashable], strata_N: Sequence[Hashable] | None = None) -> None:
        """`films_N`: source film of each video. `strata_N`: its class, for the mean of the classes' accuracies; None
        takes all videos alike. ValueError: there is no video."""
        self.videos = len(films_N)
        if not self.videos:
            raise ValueError("an estimate needs at least one video")
        classes_N = [""] * self.videos if strata_N is None else strata_N
        _, film_N = np.unique([str(each) for each in films_N], return_inverse=True)
        _, self._class_N = np.unique([str(each) for each in classes_N], return_inverse=True)
        self.films = int(film_N.max()) + 1
        self._class_size = np.bincount(self._class_N)
        classes = len(self._class_size)
        cells, self._cell_N, size_C = np.unique(
            film_N * classes + self._class_N, return_inverse=True, return_counts=True
        )
        self._size_C = size_C
        self._film_C, self._class_C = np.divmod(cells, classes)
        share_C = size_C / self._class_size[self._class_C]
        weight_C = share_C / classes
        alone_C = size_C == self._class_size[self._class_C]
        self._factor_C = np.where(alone_C, 0.0, weight_C / np.where(alone_C, 1, 1 - share_C) ** LEVERAGE_POWER)
        variance_C = ALIKE + (1 - ALIKE) / size_C
        parts = np.bincount(alone_C, weight_C**2 * variance_C, minlength=2)
        self._known = bool(parts[0])
        self._with_alone = float(parts.sum() / parts[0]) if self._known else 0.0
        self._film_as_one = float((np.bincount(self._film_C, weight_C) ** 2).sum())
        self._independent = float((weight_C**2 / size_C).sum())
        self._cut = _quantile_ratio(self._degrees_of_freedom(share_C, variance_C)) ** 2 if self._known else 0.0

    def _degrees_of_freedom(self, share_C: NDArray[np.float64], variance_C: NDArray[np.float64]) -> float:
        """Satterthwaite's tr(A)^2 / tr(A^2), where A [M, M] is the covariance of the films' corrected deviations.

        A is a diagonal matrix and one of low rank, D + U S U', so that no M x M matrix is made.
        """
        from scipy.sparse import csr_array, hstack

        factor_C, classes = self._factor_C, len(self._class_size)

        def by_film(values_C: NDArray[np.float64]) -> Any:
            return csr_array((values_C, (self._film_C, self._class_C)), shape=(self.films, classes))

        diagonal_M = np.bincount(self._film_C, factor_C**2 * variance_C)
        left = hstack([by_film(factor_C * share_C * variance_C), by_film(factor_C)], format="csr")
        of_means = np.diag(np.bincount(self._class_C, share_C**2 * variance_C))
        nothing, minus_one = np.zeros((classes, classes)), -np.eye(classes)
        inner = np.block([[nothing, minus_one], [minus_one, of_means]])
        low_rank = inner @ (left.T @ left).toarray()
        mixed = inner @ (left.T @ left.multiply(diagonal_M[:, None])).toarray()
        trace = diagonal_M.sum() + np.trace(low_rank)
        square = (diagonal_M**2).sum() + 2 * np.trace(mixed) + (low_rank * low_rank.T).sum()
        return float(trace**2 / square) if trace > 0 and square > 0 else 1.0

    def estimate(self, correct_N: ArrayLike) -> Estimate:
        """The share of right answers, or its mean over classes, with its interval over films."""
        correct = np.asarray(correct_N, dtype=float)
        shares = np.bincount(self._class_N, correct) / self._class_size
        value = float(shares.mean())
        right_C = np.bincount(self._cell_N, correct)
        films_right = len(np.unique(self._film_C[right_C > 0]))
        films_wrong = len(np.unique(self._film_C[right_C < self._size_C]))
        alike = 1 / max(min(films_right, films_wrong), 1)
        least = 1 / self._film_as_one
        effective = most = 1 / (alike * self._film_as_one + (1 - alike) * self._independent)
        if not self._known:
            effective = least  # no class has two films: nothing says how films differ
        else:
            deviation_C = self._factor_C * (right_C / self._size_C - shares[self._class_C])
            variance = self._with_alone * float((np.bincount(self._film_C, deviation_C) ** 2).sum())
            if variance > 0:
                effective = min(max(value * (1 - value) / variance * self._cut, least), most)
        low, high = wilson_interval(value * effective, effective)
        return Estimate(value, min(low, value), max(high, value), self.videos, self.films, effective)


def _quantile_ratio(degrees: float) -> float:
    """97.5 % quantile of the normal distribution over that of Student's t distribution, at least one degree."""
    from scipy.special import stdtrit

    return CONFIDENCE_Z / float(stdtrit(max(degrees, 1.0), 0.5 + CONFIDENCE / 2))


def clustered_estimate(
    correct_N: ArrayLike, films_N: Sequence[Hashable], strata_N: Sequence[Hashable] | None = None
) -> Estimate:
    """The share of right answers, or its mean over strata, and its interval over films (see FilmClusters).

    Args:
        correct_N: whether each video's answer is right.
        films_N: source film of each video.
        strata_N: class of each video, for the mean of the classes' accuracies; None takes all videos alike.

    Raises:
        ValueError: there is no video.
    """
    return FilmClusters(films_N, strata_N).estimate(correct_N)


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
