"""The gate of every conversion: scores of the child against scores of its parent on the same windows.

B windows, K classes.

References:
    Confidence interval of a share: Wilson 1927, "Probable inference, the law of succession, and statistical
    inference", Journal of the American Statistical Association 22
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeAlias

from har_assets.errors import HarError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores: TypeAlias = NDArray[np.float32]

Interval = tuple[float, float]
"""Lower and upper end, 0..1."""

PRECISIONS = ("fp32", "fp16", "int8")
"""Types that a network computes in: float32, float16, 8-bit integers with float32 between the layers."""

CONFIDENCE = 0.95
"""Share of intervals that hold the true value."""

CONFIDENCE_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
"""Standard deviations of a normal distribution from its mean to an end of the interval."""


class ParityError(HarError):
    """A converted model whose answers differ from its parent's by more than the gate allows."""


@dataclass(frozen=True)
class Limits:
    """The differences that a conversion may make."""

    max_difference: float
    """Largest |difference| of any score (softmax, 0..1)."""
    top1_agreement: float
    """Smallest share of windows with the same top-1, 0..1."""


DEFAULT_LIMITS = {
    "fp32": Limits(1e-4, 1.0),
    "fp16": Limits(0.02, 0.995),
    "int8": Limits(0.25, 0.98),
}
"""Precision -> gate. float32 differs by the order of additions alone. The others are what
`benchmarks/precision_parity.py` measures on the sample, with room for deeper networks; the share of equal
answers is the gate that matters, the largest difference catches a conversion that is broken."""


@dataclass(frozen=True)
class Parity:
    """Comparison of two models on the same windows of videos. Scores are softmax outputs, 0..1.

    Intervals are 95 % and take the windows for independent; those of one video are not quite, so that they
    are a little too narrow where there are several a video.
    """

    clips: int
    """Windows compared. Published records have them under this name."""
    max_difference: float
    """Largest |difference| of any score."""
    mean_difference: float
    """Mean |difference| of all scores."""
    top1_agreement: float
    """Share of windows whose highest score is of the same class, 0..1."""
    top1_agreement_interval: Interval
    """Confidence interval of top1_agreement."""
    max_difference_allowed: float
    """Gate on max_difference."""
    top1_agreement_required: float
    """Gate on top1_agreement."""
    parent_accuracy: float | None = None
    """Share of windows that the parent names right; None without labels."""
    parent_accuracy_interval: Interval | None = None
    """Confidence interval of parent_accuracy."""
    child_accuracy: float | None = None
    """Share of windows that the child names right; None without labels."""
    child_accuracy_interval: Interval | None = None
    """Confidence interval of child_accuracy."""

    @property
    def passed(self) -> bool:
        """True when both gates hold; scores that are no numbers never pass."""
        return (
            math.isfinite(self.max_difference)
            and self.max_difference <= self.max_difference_allowed
            and self.top1_agreement >= self.top1_agreement_required
        )

    @property
    def words(self) -> str:
        """One line for people: `same top-1 99.8 % (99.3 to 99.9 %) of 1,024 windows, max |difference| 1.2e-03`."""
        low, high = self.top1_agreement_interval
        return (
            f"same top-1 {self.top1_agreement:.1%} ({low:.1%} to {high:.1%}) of {self.clips:,} windows, "
            f"max |difference| {self.max_difference:.1e}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Fields and the verdict, for JSON; figures that were not measured are left out."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()},
            "passed": self.passed,
        }

    def require(self, child: str, parent: str) -> None:
        """Raise ParityError with the figures when a gate does not hold."""
        if not self.passed:
            raise ParityError(
                f"{child} differs from {parent}: max |difference| {self.max_difference:.2g} (allowed "
                f"{self.max_difference_allowed:.2g}), same top-1 on {self.top1_agreement:.1%} of {self.clips} windows "
                f"(required {self.top1_agreement_required:.1%}); it was not published: choose a higher precision "
                "or other thresholds in its configuration."
            )


def compare(
    parent_BK: Scores,
    child_BK: Scores,
    *,
    max_difference: float = 1e-4,
    top1_agreement: float = 1.0,
    labels_B: NDArray[np.int64] | None = None,
) -> Parity:
    """Compare scores [B, K] of a parent and its child under the given gates. NaN never passes.

    `labels_B` are the true class indices; with them the accuracy of both is measured.

    Raises:
        ParityError: there are no clips, or the two were not given the same ones.
    """
    import numpy as np

    if parent_BK.shape != child_BK.shape or not len(parent_BK):
        raise ParityError(
            f"Scores of shape {parent_BK.shape} and {child_BK.shape} cannot be compared: "
            "give both models the same clips, at least one."
        )
    difference_BK = np.abs(parent_BK.astype(np.float64) - child_BK.astype(np.float64))
    if not np.isfinite(difference_BK).all():
        difference_BK = np.full_like(difference_BK, np.inf)
    parent_B, child_B = parent_BK.argmax(axis=1), child_BK.argmax(axis=1)
    agreement, agreement_interval = _share(parent_B == child_B)
    accuracies: dict[str, Any] = {}
    if labels_B is not None:
        for name, top1_B in (("parent", parent_B), ("child", child_B)):
            accuracies[f"{name}_accuracy"], accuracies[f"{name}_accuracy_interval"] = _share(top1_B == labels_B)
    return Parity(
        clips=len(parent_BK),
        max_difference=float(difference_BK.max()),
        mean_difference=float(difference_BK.mean()),
        top1_agreement=agreement,
        top1_agreement_interval=agreement_interval,
        max_difference_allowed=max_difference,
        top1_agreement_required=top1_agreement,
        **accuracies,
    )


def _share(hits_B: NDArray[np.bool_]) -> tuple[float, Interval]:
    return float(hits_B.mean()), wilson_interval(int(hits_B.sum()), len(hits_B))


def wilson_interval(hits: float, trials: float) -> Interval:
    """95 % confidence interval of a share of `hits` in `trials` (more than 0); sound at 0 and 100 % too.

    Neither needs to be whole, as the effective size of a clustered sample is not; scipy's intervals take integers.
    """
    share, z2 = hits / trials, CONFIDENCE_Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = CONFIDENCE_Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return (max(0.0, centre - half) if hits else 0.0), (min(1.0, centre + half) if hits < trials else 1.0)
