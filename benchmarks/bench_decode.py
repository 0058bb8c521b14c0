"""Decoding from the first frame to the last, with the resize inside: decord, PyAV, and OpenCV if installed.

    python -m benchmarks.bench_decode [--videos FOLDER] [--repeats N]

Medians over the clips and repeats of one process with one decoding thread; ratios from runs side by side.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_frame_cache import find_clips
from har_assets.video.decode import VideoReader, decode_video

SIZE = (128, 171)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--videos", type=Path, help="folder of clips")
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    decoders: dict[str, Callable[[Path], int]] = {
        "decode_video (decord)": lambda path: len(decode_video(path, size=SIZE).frames_THWC),
        "decode_video (PyAV)": with_pyav,
        "decord alone, as is": with_decord_alone,
    }
    try:
        import cv2  # noqa: F401

        decoders["OpenCV"] = with_opencv
    except ImportError:
        print("OpenCV is not installed: left out")
    with tempfile.TemporaryDirectory() as scratch:
        clips = find_clips(options.videos, Path(scratch) / "sources")
        frames = {name: sum(decode(clip) for clip in clips) for name, decode in decoders.items()}
        times: dict[str, list[float]] = {name: [] for name in decoders}
        for _ in range(options.repeats):
            for clip in clips:
                for name, decode in decoders.items():
                    began = time.perf_counter()
                    decode(clip)
                    times[name].append(time.perf_counter() - began)
    fastest = times["decode_video (decord)"]
    for name, taken in times.items():
        ratio = statistics.median(slow / fast for slow, fast in zip(taken, fastest, strict=True))
        print(
            f"{name:24} {1e3 * statistics.median(taken):6.1f} ms a clip, {ratio:4.2f} x the first, "
            f"{frames[name]} frames of {len(clips)} clips"
        )


def with_pyav(path: Path) -> int:
    """Frames read by the second decoder alone."""
    reader = VideoReader(path, size=SIZE)
    reader._all_by_decord = lambda: []  # type: ignore[method-assign]
    return len(np.stack(list(reader)))


def with_decord_alone(path: Path) -> int:
    """Frames that decord claims, its repeated last one included, without the look at the file first."""
    import decord

    reader = decord.VideoReader(str(path), height=SIZE[0], width=SIZE[1], num_threads=1)
    return len(reader.get_batch(range(len(reader))).asnumpy())


def with_opencv(path: Path) -> int:
    """Frames read by OpenCV, resized after decoding."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames: list[NDArray[np.uint8]] = []
    while True:
        found, frame = capture.read()
        if not found:
            return len(np.stack(frames))
        resized = cv2.resize(frame, (SIZE[1], SIZE[0]), interpolation=cv2.INTER_LINEAR)
        frames.append(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB))


if __name__ == "__main__":
    main()
