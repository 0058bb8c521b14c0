import json

import numpy as np
import pytest

from har_assets.runtime.parity import DEFAULT_LIMITS, PRECISIONS, ParityError, compare, wilson_interval

PARENT_BK = np.array([[0.6, 0.4], [0.2, 0.8]], np.float32)


def test_parity_passes_and_fails_by_its_two_gates() -> None:
    assert compare(PARENT_BK, PARENT_BK + 5e-5).passed
    assert not compare(PARENT_BK, PARENT_BK + 2e-4).passed
    swapped = compare(PARENT_BK, np.array([[0.6, 0.4], [0.51, 0.49]], np.float32), max_difference=1.0)
    assert not swapped.passed
    assert swapped.top1_agreement == 0.5
    with pytest.raises(ParityError, match=r"The child differs from the parent.*was not published"):
        swapped.require("The child", "the parent")


@pytest.mark.parametrize("allowed", [1e9, float("inf")])
def test_nan_never_passes(allowed: float) -> None:
    assert not compare(PARENT_BK, np.full_like(PARENT_BK, np.nan), max_difference=allowed, top1_agreement=0.0).passed


def test_parity_needs_the_same_clips() -> None:
    with pytest.raises(ParityError, match="cannot be compared"):
        compare(np.zeros((2, 3), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(ParityError, match="at least one"):
        compare(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))


def test_labels_give_the_accuracy_of_both() -> None:
    child_BK = np.array([[0.6, 0.4], [0.51, 0.49]], np.float32)
    parity = compare(PARENT_BK, child_BK, max_difference=1.0, labels_B=np.array([0, 1]))
    assert (parity.parent_accuracy, parity.child_accuracy) == (1.0, 0.5)
    assert parity.child_accuracy_interval == pytest.approx(wilson_interval(1, 2))
    assert "parent_accuracy" not in compare(PARENT_BK, child_BK).to_dict()


def test_figures_are_json_and_words() -> None:
    parity = compare(PARENT_BK, PARENT_BK + 5e-5, labels_B=np.array([0, 0]))
    figures = json.loads(json.dumps(parity.to_dict()))
    assert figures["passed"] is True
    assert figures["max_difference"] == pytest.approx(5e-5, rel=1e-2)
    assert figures["mean_difference"] == pytest.approx(5e-5, rel=1e-2)
    assert figures["top1_agreement_interval"] == list(parity.top1_agreement_interval)
    assert figures["parent_accuracy"] == 0.5
    assert parity.words == "same top-1 100.0% (34.2% to 100.0%) of 2 windows, max |difference| 5.0e-05"


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [  # computed from the quadratic p^2 (1 + z^2/n) - p (2 h/n + z^2/n) + (h/n)^2 = 0, whose roots they are
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (81, 263, 0.255291, 0.366210),
        (995, 1000, 0.988353, 0.997862),
    ],
)
def test_wilson_intervals(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(hits, trials) == pytest.approx((low, high), abs=1e-4)
    share, z2 = hits / trials, 1.959963984540054**2
    for end in wilson_interval(hits, trials):
        assert (end - share) ** 2 == pytest.approx(z2 * end * (1 - end) / trials, abs=1e-9)


def test_every_precision_has_a_gate_and_float32_the_strictest() -> None:
    assert tuple(DEFAULT_LIMITS) == PRECISIONS
    assert DEFAULT_LIMITS["fp32"].top1_agreement == 1.0
    assert DEFAULT_LIMITS["fp16"].top1_agreement >= 0.995
    assert DEFAULT_LIMITS["int8"].top1_agreement >= 0.98
