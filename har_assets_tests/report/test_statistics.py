"""Intervals, calibration and the order of classes."""

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit
from scipy.stats import binomtest

from har_assets.report.statistics import (
    ALIKE,
    LEVERAGE_POWER,
    FilmClusters,
    clustered_estimate,
    confusion_order,
    confusions,
    reliability,
)
from har_assets.runtime.parity import CONFIDENCE_Z, wilson_interval


@pytest.mark.parametrize(("right", "count"), [(0, 5), (3, 5), (80, 80), (230, 1530)])
def test_wilson_is_that_of_scipy(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, count) == pytest.approx((expected.low, expected.high))


def test_wilson_of_an_effective_count_lies_between_those_of_its_whole_neighbours() -> None:
    low, high = wilson_interval(0.6 * 50.5, 50.5)
    (wide_low, wide_high), (near_low, near_high) = wilson_interval(30, 50), wilson_interval(30.6, 51)
    assert wide_low < low < near_low
    assert near_high < high < wide_high


def test_with_one_clip_a_film_the_interval_is_that_of_independent_clips() -> None:
    correct = np.random.default_rng(0).random(400) < 0.7
    found = clustered_estimate(correct, list(range(400)))
    assert found.effective == pytest.approx(400, rel=0.02)
    assert (found.low, found.high) == pytest.approx(wilson_interval(int(correct.sum()), 400), abs=0.002)


def test_clips_that_repeat_each_other_count_as_one_a_film() -> None:
    by_film = np.random.default_rng(0).random(100) < 0.6
    found = clustered_estimate(np.repeat(by_film, 10), np.repeat(np.arange(100), 10).tolist())
    assert found.videos == 1000
    assert found.effective == pytest.approx(100, rel=0.05)


def test_a_mistake_more_never_makes_the_lower_end_rise() -> None:
    films = np.repeat(np.arange(4), 20).tolist()
    lows = [clustered_estimate([number >= wrong for number in range(80)], films).low for wrong in range(20)]
    assert lows == sorted(lows, reverse=True)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong_still_have_an_interval(right: bool) -> None:
    found = clustered_estimate([right] * 6, ["a", "a", "b", "b", "c", "c"])
    assert found.value == right
    assert 0.3 < found.high - found.low < 0.9
    assert found.low <= found.value <= found.high


def test_two_clips_and_one_film_have_wide_intervals() -> None:
    two = clustered_estimate([True, False], ["a", "b"])
    one_film = clustered_estimate([True] * 50, ["a"] * 50)
    single = clustered_estimate([False], ["a"])
    assert two.high - two.low > 0.8
    assert one_film.low < 0.25
    assert (single.low, round(single.high, 2)) == (0.0, 0.79)


def test_the_mean_of_classes_weighs_each_class_alike() -> None:
    correct = [True] * 9 + [False]
    found = clustered_estimate(correct, list(range(10)), ["often"] * 9 + ["seldom"])
    assert found.value == pytest.approx(0.5)
    assert clustered_estimate(correct, list(range(10))).value == pytest.approx(0.9)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    # benchmarks/interval_coverage.py has more cases
    rng = np.random.default_rng(0)
    films = np.repeat(np.arange(20), 10)
    held = 0
    for _ in range(400):
        correct = rng.random(200) < rng.beta(2.8, 1.2, 20)[films]  # accuracy 0.7, correlation 0.2
        found = clustered_estimate(correct, films.tolist())
        held += found.low <= 0.7 <= found.high
    assert held / 400 >= 0.92


def coverage(films: np.ndarray, labels: np.ndarray | None, accuracy_K: list[float], rounds: int = 300) -> float:
    """Share of made evaluations whose interval holds the truth; videos of a film and class correlate by 0.2."""
    rng = np.random.default_rng(0)
    class_N = np.zeros(len(films), int) if labels is None else labels
    clusters = FilmClusters(films.tolist(), class_N.tolist())
    cells, cell_N = np.unique(films * len(accuracy_K) + class_N, return_inverse=True)
    accuracy_C = np.array(accuracy_K)[cells % len(accuracy_K)]
    held = 0
    for _ in range(rounds):
        found = clusters.estimate(rng.random(len(films)) < rng.beta(4 * accuracy_C, 4 - 4 * accuracy_C)[cell_N])
        held += found.low <= np.mean(accuracy_K) <= found.high
    return held / rounds


@pytest.mark.parametrize("films", [10, 30])
@pytest.mark.parametrize("accuracy", [0.2, 0.9])
@pytest.mark.parametrize("kind", ["half of all videos in one film", "very unequal"])
def test_few_and_very_unequal_films_have_intervals_that_hold_the_truth(kind: str, films: int, accuracy: float) -> None:
    # benchmarks/interval_coverage.py has more. Without the corrections some hold it 85 times of 100.
    rank = np.arange(films)
    sizes = 300 // (rank + 1) if kind == "very unequal" else np.where(rank == 0, 10 * (films - 1), 10)
    assert coverage(np.repeat(rank, sizes), None, [accuracy]) >= 0.93


@pytest.mark.parametrize("accuracy", [0.2, 0.5, 0.9])
def test_the_mean_of_classes_that_have_few_films_each_has_an_interval_that_holds_the_truth(accuracy: float) -> None:
    # 50 classes of 30 videos as in HMDB51, one film with half of each; without a correction by class: 79 to 86 %.
    labels = np.repeat(np.arange(50), 30)
    films = labels * 6 + np.tile(np.repeat(np.arange(6), [15, 5, 4, 3, 2, 1]), 50)
    assert 0.92 <= coverage(films, labels, [accuracy] * 50) <= 0.99


def test_a_class_of_one_film_gets_the_variance_of_the_others() -> None:
    films = [*np.repeat(np.arange(10), 6).tolist(), *[99] * 20]
    labels = ["a"] * 60 + ["b"] * 20
    correct = [*([True] * 2 + [False] * 4 + [True] * 5 + [False]) * 5, *[True] * 15, *[False] * 5]
    of_two, of_one = clustered_estimate(correct, films, labels), clustered_estimate(correct[:60], films[:60])
    assert of_two.effective < 0.6 * of_one.effective


def test_classes_of_one_film_add_as_much_as_their_weight_says() -> None:
    films, labels, correct = [], [], []
    for label in range(4):
        for film in range(12):
            for clip in range(5):
                films.append(f"{label} {film}")
                labels.append(f"{label}")
                correct.append((film * 7 + clip) % 10 < 6)
    for label in range(4):
        films += [f"alone {label}"] * 5
        labels += [f"alone {label}"] * 5
        correct += [True, False] * 2 + [True]
    # Four of eight classes have one film: their variance is that of one film each, twelve times that of the others.
    assert clustered_estimate(correct, films, labels).effective == pytest.approx(35.17, abs=0.01)


def test_clips_of_films_count_as_alike_where_mistakes_are_rare() -> None:
    correct = np.ones(800)
    correct[[0, 20, 40]] = 0  # three films of forty have a mistake
    rare = clustered_estimate(correct, np.repeat(np.arange(40), 20).tolist())
    assert rare.effective == pytest.approx(1 / (1 / 3 / 40 + 2 / 3 / 800))


@pytest.mark.parametrize("right", [0, 7, 20])
def test_classes_without_a_second_film_count_as_one_answer_each(right: int) -> None:
    correct = np.arange(20) < right
    same = clustered_estimate(correct, ["a"] * 20, np.arange(20) % 2)
    apart = clustered_estimate(correct, [f"film {n % 2}" for n in range(20)], np.arange(20) % 2)
    assert same.effective == pytest.approx(1)
    assert apart.effective == pytest.approx(2)
    single = clustered_estimate([True, False, True], ["a", "b", "c"], ["x", "y", "z"])
    assert single.effective == pytest.approx(3)
    for found in (same, apart, single):
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_degrees_of_freedom_are_those_of_the_whole_matrix() -> None:
    """Of equal films one less than their number, of unequal ones as Satterthwaite's formula says, written out."""
    assert cut_of(np.repeat(np.arange(8), 5), np.zeros(40, int)) == pytest.approx(7)
    rng = np.random.default_rng(0)
    films, labels = np.sort(rng.integers(0, 12, 90)), rng.integers(0, 3, 90)
    (film_C, label_C), size_C = np.unique(np.stack([films, labels]), axis=1, return_counts=True)
    share_C = size_C / np.bincount(labels)[label_C]
    factor_C = share_C / 3 / (1 - share_C) ** LEVERAGE_POWER
    less_mean_CC = np.eye(len(size_C)) - (label_C[:, None] == label_C) * share_C
    by_film_MC = (film_C == np.unique(films)[:, None]) * factor_C @ less_mean_CC
    covariance_MM = by_film_MC @ np.diag(ALIKE + (1 - ALIKE) / size_C) @ by_film_MC.T
    expected = np.trace(covariance_MM) ** 2 / (covariance_MM**2).sum()
    assert cut_of(films, labels) == pytest.approx(expected)


def test_the_variance_is_that_of_the_films_about_the_mean_of_their_class() -> None:
    """Written out for two classes, one much easier than the other, and films that have videos of both."""
    films = np.repeat(np.arange(12), 10)
    labels = np.tile([0] * 5 + [1] * 5, 12)
    wrong_N = np.where(labels == 0, films % 2, 1 + films % 2 * 4)
    correct = np.arange(120) % 5 >= wrong_N
    found = clustered_estimate(correct, films.tolist(), labels.tolist())
    of_class = [correct[labels == label].mean() for label in (0, 1)]
    variance = 0.0
    for film in range(12):
        shares = [correct[(films == film) & (labels == label)].mean() for label in (0, 1)]
        deviation = sum((share - mean) / 24 for share, mean in zip(shares, of_class, strict=True))
        variance += (deviation / (1 - 1 / 12) ** LEVERAGE_POWER) ** 2
    value = sum(of_class) / 2
    cut = (CONFIDENCE_Z / stdtrit(cut_of(films, labels), 0.975)) ** 2
    expected = value * (1 - value) / variance * cut
    most = 1 / (1 / 12 / 12 + 11 / 12 / 120)  # twelve films have an answer of the rarer kind
    assert found.value == pytest.approx(value)
    assert 12 < expected < most
    assert found.effective == pytest.approx(expected)


def cut_of(films: np.ndarray, labels: np.ndarray) -> float:
    """Degrees of freedom that an estimate was cut by, found again from the cut."""
    cut = FilmClusters(films.tolist(), labels.tolist())._cut
    quantile = CONFIDENCE_Z / np.sqrt(cut)
    low, high = 1.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if stdtr(middle, quantile) < 0.975 else (low, middle)
    return low


def test_a_large_evaluation_takes_no_matrix_of_its_films() -> None:
    rng = np.random.default_rng(0)
    films, labels = rng.integers(0, 20_000, 60_000), rng.integers(0, 100, 60_000)
    found = clustered_estimate(rng.random(60_000) < 0.3, films.tolist(), labels.tolist())
    assert found.effective == pytest.approx(60_000, rel=0.05)


def test_no_video_is_no_estimate() -> None:
    with pytest.raises(ValueError, match="at least one video"):
        clustered_estimate([], [])


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(0)
    scores, correct = rng.uniform(0.05, 0.999, 500), rng.random(500) < 0.6
    bins, error = reliability(scores, correct, list(range(500)))
    expected = binary_calibration_error(torch.tensor(scores), torch.tensor(correct).int(), n_bins=10)
    assert error == pytest.approx(float(expected), abs=1e-6)
    assert sum(each.accuracy.videos for each in bins) == 500
    assert all(each.low < each.score <= each.high for each in bins)


def test_scores_at_the_ends_have_their_bins_and_none_has_no_error() -> None:
    bins, error = reliability([0.0, 1.0], [False, True], ["a", "b"])
    assert [(each.low, each.high) for each in bins] == [(0.0, 0.1), (0.9, 1.0)]
    assert error == 0.0
    assert reliability([], [], []) == ([], None)


def test_classes_taken_for_each_other_stand_together() -> None:
    confusion_KK = np.diag([5, 5, 5, 5, 5, 0])
    confusion_KK[0, 4] = confusion_KK[4, 0] = confusion_KK[1, 3] = 3
    order = confusion_order(confusion_KK)
    assert sorted(order) == [0, 1, 2, 3, 4]  # the last one does not occur
    assert abs(order.index(0) - order.index(4)) == 1
    assert abs(order.index(1) - order.index(3)) == 1


@pytest.mark.parametrize("confusion_KK", [np.diag([3, 0, 2]), np.zeros((3, 3), int), np.diag([1, 0, 0])])
def test_without_mistakes_the_order_is_that_of_the_indices(confusion_KK: np.ndarray) -> None:
    assert confusion_order(confusion_KK) == [int(index) for index in np.flatnonzero(confusion_KK.sum(axis=1))]


def test_a_class_that_is_only_an_answer_is_shown() -> None:
    assert sorted(confusion_order(np.array([[0, 1], [0, 0]]))) == [0, 1]


def test_confusions_are_counted_largest_first() -> None:
    found = confusions(np.array([[4, 1, 0], [3, 3, 2], [0, 0, 9]]), ("a", "b", "c"))
    assert [(each.true, each.answer, each.videos, each.of) for each in found] == [
        ("b", "a", 3, 8),
        ("b", "c", 2, 8),
        ("a", "b", 1, 5),
    ]
