"""The gate of every conversion: scores of the child against scores of its parent on the same clips."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from har_assets.errors import HarError

Scores = NDArray[np.float32]


class ParityError(HarError):
    """A converted model whose answers differ from its parent's by more than the gate allows."""


@dataclass(frozen=True)
class Parity:
    """Comparison of two models on the same clips. Scores are softmax outputs, 0..1."""

    clips: int
    """Clips compared."""
    max_difference: float
    """Largest |difference| of any score."""
    mean_difference: float
    """Mean |difference| of all scores."""
    top1_agreement: float
    """Share of clips whose highest score is of the same class, 0..1."""
    max_difference_allowed: float
    """Gate on max_difference."""
    top1_agreement_required: float
    """Gate on top1_agreement."""

    @property
    def passed(self) -> bool:
        """True when both gates hold."""
        return (
            self.max_difference <= self.max_difference_allowed and self.top1_agreement >= self.top1_agreement_required
        )

    def to_dict(self) -> dict[str, Any]:
        """Fields and the verdict, for JSON."""
        return {**dataclasses.asdict(self), "passed": self.passed}

    def require(self, child: str, parent: str) -> None:
        """Raise ParityError with the figures when a gate does not hold."""
        if not self.passed:
            raise ParityError(
                f"{child} differs from {parent}: max |difference| {self.max_difference:.2g} (allowed "
                f"{self.max_difference_allowed:.2g}), same top-1 on {self.top1_agreement:.1%} of {self.clips} clips "
                f"(required {self.top1_agreement_required:.1%}); it was not published: choose a higher precision "
                "or other thresholds in its configuration."
            )


def compare(
    parent_BK: Scores, child_BK: Scores, *, max_difference: float = 1e-4, top1_agreement: float = 1.0
) -> Parity:
    """Compare scores [B, K] of a parent and its child under the given gates. NaN never passes."""
    if parent_BK.shape != child_BK.shape or not len(parent_BK):
        raise ParityError(
            f"Scores of shape {parent_BK.shape} and {child_BK.shape} cannot be compared: "
            "give both models the same clips, at least one."
        )
    difference_BK = np.abs(parent_BK.astype(np.float64) - child_BK.astype(np.float64))
    if not np.isfinite(difference_BK).all():
        difference_BK = np.full_like(difference_BK, np.inf)
    return Parity(
        clips=len(parent_BK),
        max_difference=float(difference_BK.max()),
        mean_difference=float(difference_BK.mean()),
        top1_agreement=float((parent_BK.argmax(1) == child_BK.argmax(1)).mean()),
        max_difference_allowed=max_difference,
        top1_agreement_required=top1_agreement,
    )
