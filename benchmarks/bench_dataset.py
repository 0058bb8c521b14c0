"""Unpacking a RAR of RARs, refusing bad ones, and the manifests of all three splits from the official lists.

    python -m benchmarks.bench_dataset [--shared FOLDER]

FOLDER (../shared/data, or HAR_SHARED_DATA) holds hmdb51_mini.rar, test_train_splits.rar and rar_bad/. The
manifests are made for all 6,766 names of the lists, on empty files. Medians of nine, and of three.
"""

import argparse
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import rarfile

from har_assets.dataset.archive import extract_split_lists, extract_videos
from har_assets.dataset.classes import HMDB51_CLASSES
from har_assets.dataset.lists import read_split_lists
from har_assets.dataset.splits import build_manifests
from har_assets.errors import ArchiveError


def median_seconds(action: Callable[[int], object], runs: int) -> float:
    """Median wall time of `action(number)`."""
    times = []
    for number in range(runs):
        started = time.perf_counter()
        action(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


SHARED = Path(os.environ.get("HAR_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def checksums(archive: Path) -> dict[str, tuple[int, int]]:
    """Name to size and CRC of every video in a RAR of RARs, as its inner tables of contents say."""
    members: dict[str, tuple[int, int]] = {}
    with rarfile.RarFile(archive) as outer:
        for member in outer.infolist():
            with outer.open(member) as stream, rarfile.RarFile(stream) as inner:
                members |= {info.filename: (info.file_size, info.CRC) for info in inner.infolist() if info.is_file()}
    return members


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shared", type=Path, default=SHARED)
    shared = arguments.parse_args().shared
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = shared / "hmdb51_mini.rar"
        seconds = median_seconds(lambda number: extract_videos(archive, folder / f"v{number}"), 9)
        expected, exact = checksums(archive), 0
        for clip, size_and_crc in expected.items():
            data = (folder / "v0" / clip).read_bytes()
            exact += (len(data), zlib.crc32(data)) == size_and_crc
        print(f"{archive.name} unpacked in {seconds:.2f} s: {exact} of {len(expected)} clips have the CRC of the RAR")

        refused, bad = 0, sorted((shared / "rar_bad").iterdir())
        before = sorted(folder.rglob("*"))
        for source in bad:
            try:
                extract_videos(source, folder / "bad", extensions=frozenset({".txt", ""}))
            except ArchiveError as error:
                refused += sorted(folder.rglob("*")) == before
                print(f"  refused: {error}")
        print(f"{refused} of {len(bad)} bad RARs refused with nothing left behind")

        lists, videos = folder / "lists", folder / "videos"
        extract_split_lists(shared / "test_train_splits.rar", lists)
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
