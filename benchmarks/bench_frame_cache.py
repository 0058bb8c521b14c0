"""The frame cache: one worker against several, memory, and reading batches against decoding them.

    python -m benchmarks.bench_frame_cache [--videos FOLDER] [--workers N] [--copies N] [--repeats N]

Medians of `--repeats` runs that alternate; ratios are of runs side by side. "One worker" is a process that decodes
and the build itself beside it: how many cores the two keep busy is printed, as it bounds the ratio. FOLDER holds
HMDB51-like clips; without it, the real clips of ../shared/data are unpacked, or clips of the same size are made.
"""

import argparse
import contextlib
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from har_assets.video.decode import decode_video
from har_assets.video.frame_cache import CacheParams, FrameCache, build_frame_cache, clear_work
from har_assets.video.sampling import centre_crop, take_window, to_clip_CTHW
from har_assets.video.workers import available_cores

PARAMS = CacheParams(height=128, width=171, max_frames=64)
CROP = (112, 112)
WINDOW = 16
BATCH = 8


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--videos", type=Path, help="folder of clips")
    arguments.add_argument("--workers", type=int, default=available_cores())
    arguments.add_argument("--copies", type=int, default=40, help="copies of each clip, made distinct")
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sources = find_clips(options.videos, Path(scratch) / "sources")
        clips = distinct_copies(sources, Path(scratch) / "clips", options.copies)
        print(f"{len(clips)} clips (copies of {len(sources)}), {PARAMS}, {available_cores()} cores")
        cache = bench_building(clips, Path(scratch), options.workers, options.repeats)
        bench_reading(cache, clips, options.repeats)


def bench_building(clips: dict[str, Path], scratch: Path, workers: int, repeats: int) -> FrameCache:
    """Clips a second by one worker and by several, and the peak of memory with several."""
    seconds: dict[int, list[float]] = {1: [], workers: []}
    cores: dict[int, list[float]] = {1: [], workers: []}
    peaks = []
    for _ in range(repeats):
        for count, times in seconds.items():
            shutil.rmtree(scratch / "cache", ignore_errors=True)
            clear_work(scratch / "work")
            before = processor_seconds()
            with PeakMemory() as memory:
                report = build_frame_cache(
                    clips,
                    params=PARAMS,
                    folder=scratch / "cache",
                    work=scratch / "work",
                    workers=count,
                    log=lambda line: None,
                )
            times.append(report.seconds)
            cores[count].append((processor_seconds() - before) / report.seconds)
            if count == workers:
                peaks.append((memory.parent, memory.largest_worker))
    for count, times in seconds.items():
        rate, busy = len(clips) / statistics.median(times), statistics.median(cores[count])
        print(
            f"{count} worker(s): {rate:.1f} clips/s, start-up included; {busy:.2f} cores busy, "
            f"{1e3 * busy / rate:.1f} ms of processor time a clip"
        )
    ratio = statistics.median(one / many for one, many in zip(seconds[1], seconds[workers], strict=True))
    print(f"{workers} workers against 1: {ratio:.2f} x")
    parent, worker = (statistics.median(column) / 2**20 for column in zip(*peaks, strict=True))
    print(f"peak memory: {parent:.0f} MiB the parent, {worker:.0f} MiB the largest worker")
    return FrameCache(scratch / "cache")


def bench_reading(cache: FrameCache, clips: dict[str, Path], repeats: int) -> None:
    """Training batches a second: random windows, cropped, channels first; from the cache and decoded."""
    random = np.random.default_rng(0)
    names = cache.rows.clips
    batches = [
        [
            (row, int(random.integers(max(int(cache.rows.num_frames[row]) - WINDOW, 0) + 1)))
            for row in random.integers(len(names), size=BATCH)
        ]
        for _ in range(10)
    ]

    def from_cache(row: int, start: int) -> np.ndarray:
        return take_window(cache.frames_of_row(row), start, WINDOW)

    def decoded(row: int, start: int) -> np.ndarray:
        frames_THWC = decode_video(
            clips[names[row]], size=(PARAMS.height, PARAMS.width), max_frames=start + WINDOW
        ).frames_THWC
        return take_window(frames_THWC, start, WINDOW)

    times: dict[str, list[float]] = {"from the cache": [], "decoded": []}
    batches_BCTHW = {}
    for _ in range(repeats):
        for name, read in (("from the cache", from_cache), ("decoded", decoded)):
            began = time.perf_counter()
            for batch in batches:
                batches_BCTHW[name] = np.stack(
                    [to_clip_CTHW(centre_crop(read(row, start), CROP)) for row, start in batch]
                )
            times[name].append((time.perf_counter() - began) / len(batches))
    assert np.array_equal(batches_BCTHW["from the cache"], batches_BCTHW["decoded"])
    for name, taken in times.items():
        print(f"a batch of {BATCH} x {WINDOW} frames {name}: {1e3 * statistics.median(taken):.2f} ms")
    ratio = statistics.median(slow / fast for fast, slow in zip(times["from the cache"], times["decoded"], strict=True))
    print(f"reading against decoding: {ratio:.0f} x")


def processor_seconds() -> float:
    """Of this process and its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


class PeakMemory:
    """Largest resident memory of this process and of its largest child, in bytes, while the block runs."""

    def __enter__(self) -> "PeakMemory":
        self.parent = self.largest_worker = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.05):
            self.parent = max(self.parent, own.memory_info().rss)
            for child in own.children():
                with contextlib.suppress(psutil.Error):  # it has just ended
                    self.largest_worker = max(self.largest_worker, child.memory_info().rss)


def find_clips(folder: Path | None, scratch: Path) -> list[Path]:
    """AVIs of a folder, else the real clips at hand, else clips of their size made here."""
    if folder is not None:
        return sorted(folder.rglob("*.avi"))
    from har_assets_tests.video.conftest import make_video, unpack_real_clips

    scratch.mkdir()
    shared = os.environ.get("HAR_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
    archive = Path(shared) / "hmdb51_mini.rar"
    if archive.is_file():
        return unpack_real_clips(archive, scratch)
    return [
        make_video(scratch / f"{n}.avi", height=240, width=320, frames=90, b_frames=2, tag="DX50", seed=n)
        for n in range(9)
    ]


def distinct_copies(sources: list[Path], folder: Path, copies: int) -> dict[str, Path]:
    """Copies that differ in bytes behind the end of the AVI: the cache stores equal files once."""
    folder.mkdir()
    clips = {}
    for number in range(copies):
        for source in sources:
            copy = folder / f"{number:03d} {source.name}"
            copy.write_bytes(source.read_bytes() + f"copy {number}".encode())
            clips[copy.name] = copy
    return clips


if __name__ == "__main__":
    main()
