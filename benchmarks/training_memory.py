"""Memory of a training over fifty epochs of the built-in sample: does it grow?

python -m benchmarks.training_memory --data sample               about three minutes on two cores
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.compare_recipes import CACHE, DEFAULTS, SPEC
from benchmarks.sample_data import sample_data, train_and_test


def main() -> None:
    """Train and print the peak memory after some epochs."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="sample", help="folder of the sample, made where missing")
    arguments.add_argument("--epochs", type=int, default=50)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as work:
        request = {**DEFAULTS, "epochs": options.epochs}
        train_and_test(sample_data(Path(options.data)), Path(work), CACHE, SPEC, request)
        epochs = [json.loads(line) for line in (Path(work) / "history.jsonl").read_text().splitlines()]
    for number in (1, 2, 5, 10, options.epochs // 2, options.epochs):
        print(f"peak memory up to epoch {number:3}: {1000 * epochs[number - 1]['memory_gb']:.0f} MB")


if __name__ == "__main__":
    main()
