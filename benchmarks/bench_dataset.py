"""Unpacking a RAR of RARs, and the manifests of all three splits from the official lists.

    python benchmarks/bench_dataset.py --archive hmdb51_mini.rar --split-lists test_train_splits.rar

The manifests are made for all 6,766 names of the lists, on empty files. Medians of nine, and of three.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from har_assets.hmdb51.archive import extract_split_lists, extract_videos
from har_assets.hmdb51.classes import HMDB51_CLASSES
from har_assets.hmdb51.splits import build_manifests, read_split_lists


def median_seconds(action: Callable[[int], object], runs: int) -> float:
    """Median wall time of `action(number)`."""
    times = []
    for number in range(runs):
        started = time.perf_counter()
        action(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--archive", type=Path, required=True)
    arguments.add_argument("--split-lists", type=Path, required=True)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = median_seconds(lambda number: extract_videos(options.archive, folder / f"v{number}"), 9)
        print(f"{options.archive.name} unpacked, every member checked: {seconds:.2f} s")

        lists, videos = folder / "lists", folder / "videos"
        extract_split_lists(options.split_lists, lists)
        listed = read_split_lists(lists)
        for label, clip in set(zip(listed["label"], listed["name"], strict=True)):
            path = videos / label / clip
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

        def all_splits(number: int) -> None:
            for split in (1, 2, 3):
                build_manifests(videos, lists, split=split, class_names=HMDB51_CLASSES)

        print(f"manifests of three splits, 6,766 clips: {median_seconds(all_splits, 3):.2f} s")


if __name__ == "__main__":
    main()
