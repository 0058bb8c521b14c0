"""How often the report's 95 % intervals hold the true accuracy, against intervals that take clips as independent.

    python -m benchmarks.interval_coverage        some seconds

Films draw their accuracy from a beta distribution; the clips of a film share it. `alike` is the correlation of two
clips of one film. Each row: the share of 2,000 simulated evaluations whose interval holds the truth, and
its mean width.
"""

import numpy as np

from har_assets.report.statistics import clustered_estimate
from har_assets.runtime.parity import wilson_interval

CASES = [
    # films, clips a film, accuracy, correlation
    (4, 20, 0.9, 0.1),
    (8, 10, 0.5, 0.1),
    (20, 10, 0.7, 0.2),
    (100, 5, 0.2, 0.2),
    (600, 2, 0.15, 0.3),
    (600, 2, 0.75, 0.0),
]
ROUNDS = 2000


def main() -> None:
    """Print a row a case."""
    print("films  clips  accuracy  alike    ours: holds  width    as if independent: holds  width")
    rng = np.random.default_rng(0)
    for films, size, accuracy, alike in CASES:
        held = np.zeros(2)
        width = np.zeros(2)
        for _ in range(ROUNDS):
            strength = 1 / alike - 1 if alike else 0
            drawn = rng.beta(accuracy * strength + 1e-9, (1 - accuracy) * strength + 1e-9, films)
            rates = drawn if alike else np.full(films, accuracy)
            film = np.repeat(np.arange(films), size)
            correct = rng.random(films * size) < rates[film]
            found = clustered_estimate(correct, film.tolist())
            independent = wilson_interval(int(correct.sum()), len(correct))
            for row, (low, high) in enumerate(((found.low, found.high), independent)):
                held[row] += low <= accuracy <= high
                width[row] += high - low
        print(
            f"{films:5d}  {films * size:5d}  {accuracy:8.2f}  {alike:5.1f}  {held[0] / ROUNDS:13.1%}  "
            f"{width[0] / ROUNDS:5.3f}  {held[1] / ROUNDS:25.1%}  {width[1] / ROUNDS:5.3f}"
        )


if __name__ == "__main__":
    main()
