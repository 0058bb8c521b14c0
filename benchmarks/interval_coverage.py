"""How often the report's 95 % intervals hold the true accuracy, against intervals that take videos as independent.

    python -m benchmarks.interval_coverage [FOLDER]        about ten minutes

FOLDER (../shared/data, or HAR_SHARED_DATA) holds test_train_splits.rar, for HMDB51's real films. Answers of the videos
of one film are alike in two ways, strongly or slightly (see `films.drawn_rates`); accuracies of 0.2 to 0.98, those of
the classes around them. Each row: over these models and accuracies the lowest, mean and highest share of simulated
evaluations whose interval holds the truth, and the mean width.
"""

import sys

import numpy as np
from scipy.special import ndtr, ndtri

from benchmarks.films import drawn_rates, hmdb51_test_videos, made_videos, numbers
from har_assets.report.statistics import FilmClusters
from har_assets.runtime.parity import wilson_interval

MODELS = [("beta", 0.2), ("beta", 0.02), ("probit", 0.3)]
ACCURACIES = (0.2, 0.5, 0.8, 0.9, 0.98)
ROUNDS = 1000


def row(name: str, films: list[str], labels: list[str], mean_class: bool, rounds: int = ROUNDS) -> str:
    """A line of the table."""
    rng = np.random.default_rng(0)
    class_N = numbers(labels) if mean_class else np.zeros(len(films), np.int64)
    videos_N = np.stack([numbers(films), class_N])
    clusters = FilmClusters(films, labels if mean_class else None)
    spread_K = np.linspace(-0.8, 0.8, class_N.max() + 1) if mean_class else np.zeros(1)
    held, width = [], []
    for kind, alike in MODELS:
        for accuracy in ACCURACIES:
            accuracy_K = ndtr(ndtri(accuracy) + spread_K)
            truth = float(accuracy_K.mean())
            inside, wide = np.zeros(2), np.zeros(2)
            for _ in range(rounds):
                correct = rng.random(len(films)) < drawn_rates(rng, kind, accuracy_K, alike, videos_N)
                found = clusters.estimate(correct)
                independent = wilson_interval(found.value * len(films), len(films))
                for each, (low, high) in enumerate(((found.low, found.high), independent)):
                    inside[each] += low <= truth <= high
                    wide[each] += high - low
            held.append(inside / rounds)
            width.append(wide / rounds)
    held_C2, width_C2 = np.array(held), np.array(width)
    low, mean, high = held_C2.min(axis=0), held_C2.mean(axis=0), held_C2.max(axis=0)
    figure = "mean class" if mean_class else "top-1"
    return (
        f"| {name} | {len(films):,} | {len(set(films))} | {figure} | {low[0]:.1%} | {mean[0]:.1%} | {high[0]:.1%} "
        f"| {width_C2[:, 0].mean():.3f} | {low[1]:.1%} | {width_C2[:, 1].mean():.3f} |"
    )


def main() -> None:
    """Print a row a data set and figure."""
    sets = hmdb51_test_videos(*sys.argv[1:2])
    names = {"equal": "films of 20 videos", "unequal": "very unequal films", "half": "half of all in one film"}
    sets |= {f"{films} films, {names[kind]}": made_videos(films, kind) for kind in names for films in (10, 20, 30)}
    print("| videos | number | films | figure | lowest | mean | highest | width | as if independent: lowest | width |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, (films, labels) in sets.items():
        for mean_class in (False, True):
            print(row(name, films, labels, mean_class), flush=True)


if __name__ == "__main__":
    main()
