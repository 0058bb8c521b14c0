"""How often `har promote` takes a model that is not better, and one that is, on videos that come from films.

    python -m benchmarks.promotion_error [FOLDER]        about two minutes

FOLDER (../shared/data, or HAR_SHARED_DATA) holds test_train_splits.rar, for HMDB51's real films. Half of what makes an
answer alike in a film is shared by both models, the other half is each one's own. Not better: both alike; the
challenger all right or all wrong in most films and the champion not, or the other way round; better in half of the
classes and worse in the others. Beside it: what McNemar's test, which takes videos as independent, would do.
"""

import sys
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest

from benchmarks.films import hmdb51_test_videos, made_videos, numbers
from har_assets.serving.promotion import ALPHA, sign_flip_p_value

ROUNDS = 2000
ALIKE = 0.3
NOT_BETTER = {
    "alike": (ALIKE, ALIKE, 0.0),
    "challenger by film": (0.8, 0.1, 0.0),
    "champion by film": (0.1, 0.8, 0.0),
    "by class": (ALIKE, ALIKE, 0.5),
}
"""Correlation of two videos of a film in challenger and champion; what classes differ by."""


def answers(
    rng: np.random.Generator, level_N: NDArray[np.float64], alike: float, film_N: NDArray[np.int64], shared: tuple
) -> NDArray[np.bool_]:
    """Whether a model is right on each video; `shared` are the films' and videos' parts that both models have."""
    film_M, video_N = shared
    own_M, own_N = rng.standard_normal(len(film_M)), rng.standard_normal(len(film_N))
    of_film = np.sqrt(alike / 2) * (film_M + own_M)[film_N]
    return level_N + of_film + np.sqrt((1 - alike) / 2) * (video_N + own_N) > 0


def promoted(
    films: list[str], labels: list[str], accuracy: float, gain: float, alike: tuple[float, float], by_class: float
) -> NDArray[np.float64]:
    """Share of rounds in which the challenger is taken by the test by films, and by McNemar's."""
    rng = np.random.default_rng(0)
    film_N, class_N = numbers(films), numbers(labels)
    sides_K = by_class * (np.arange(class_N.max() + 1) % 2 * 2.0 - 1)
    sides_K[0] *= len(sides_K) % 2 == 0  # an odd one out is the same for both
    taken = np.zeros(2)
    for _ in range(ROUNDS):
        shared = rng.standard_normal(film_N.max() + 1), rng.standard_normal(len(film_N))
        side_N = rng.permutation(sides_K)[class_N]
        new = answers(rng, ndtri(accuracy + gain) + side_N, alike[0], film_N, shared)
        old = answers(rng, ndtri(accuracy) - side_N, alike[1], film_N, shared)
        difference_N = new.astype(int) - old
        total, differing = int(difference_N.sum()), int((difference_N != 0).sum())
        by_film = np.bincount(film_N, difference_N).astype(int)
        # Less than 1.2 standard deviations are never significant, so that no test is needed.
        if total > 1.2 * np.sqrt((by_film**2).sum()):
            taken[0] += sign_flip_p_value(by_film.tolist()) <= ALPHA
        if total > 1.2 * np.sqrt(differing):
            taken[1] += binomtest((total + differing) // 2, differing).pvalue <= ALPHA
    return taken / ROUNDS


def main() -> None:
    """Print the errors, then the power."""
    sets = hmdb51_test_videos(*sys.argv[1:2])
    equal = np.repeat(np.arange(20), 50)
    sets = {
        "HMDB51 split 1": sets["HMDB51 split 1"],
        "20 films of 50 videos": ([str(film) for film in equal], [str(video % 5) for video in range(1000)]),
        "20 very unequal films": made_videos(20, "unequal"),
    }
    print("| videos | accuracy | not better | promoted | by McNemar's test |\n|---|---|---|---|---|")
    for name, (films, labels) in sets.items():
        for accuracy in (0.4, 0.8):
            for how, (new, old, by_class) in NOT_BETTER.items():
                if by_class and len(set(Counter(labels).values())) > 1:
                    continue  # better in half of the classes is better, or worse, in more than half of the videos
                ours, mcnemar = promoted(films, labels, accuracy, 0.0, (new, old), by_class)
                print(f"| {name} | {accuracy} | {how} | {ours:.1%} | {mcnemar:.1%} |", flush=True)
    print("\n| videos | accuracy | better by | promoted |\n|---|---|---|---|")
    for name, (films, labels) in sets.items():
        for gain in (0.02, 0.04, 0.06, 0.1):
            ours, _ = promoted(films, labels, 0.4, gain, (ALIKE, ALIKE), 0.0)
            print(f"| {name} | 0.4 | {gain:.2f} | {ours:.1%} |", flush=True)


if __name__ == "__main__":
    main()
