"""A two-hour film as a timeline on the CPU: memory above the model, speed, and the same windows decoded one by one.

    python -m benchmarks.bench_timeline [--minutes 120] [--model FILE.onnx] [--runtime auto] [--naive-windows 100]

The film is made on the spot: one minute of moving pattern and noise, 320x240 at 30 frames a second, is encoded as
H.264 by libx264 (preset veryfast, its default of a key frame at least every 250 frames), and its packets are repeated.
Without a model, the three-layer net at 16 x 112 x 112 with fresh weights and 51 classes is exported, in another process
so that nothing of that is left in this one.

    memory         peak of this process above what it held with the model loaded and warm, plus the whole peak of the
                   decoding process; the clips in shared memory are counted in both, so it is an upper bound
    speed          seconds of film a second of clock, start of the decoding process included
    one by one     windows spread over the film, each sought, decoded and scaled by itself, then scored by the same
                   predictor in the same batches; time a window, against that of the timeline. The scores are compared.
"""

import argparse
import itertools
import math
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import active_children, get_context
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from har_assets.model.spec import ModelSpec
from har_assets.runtime import Predictor, open_model
from har_assets.runtime.predictor import Scores
from har_assets.runtime.timeline import predict_timeline
from har_assets.runtime.windows import cropped_CHW

FPS = 30


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=int, default=120)
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--runtime", default="auto")
    arguments.add_argument("--naive-windows", type=int, default=100)
    options = arguments.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        film = make_film(Path(scratch) / "film.mp4", options.minutes)
        print(
            f"film: {options.minutes} min, 320x240, {FPS} frames/s, H.264, {film.stat().st_size / 1e6:.0f} MB, "
            f"made in {time.perf_counter() - began:.0f} s"
        )
        predictor = open_model(options.model or fresh_model(Path(scratch)), options.runtime)
        print(f"{predictor.runtime}: {predictor.why}")
        predictor.predict(np.zeros((16, *predictor.spec.clip_shape_CTHW), np.uint8))
        rate, scores_NK = measure_timeline(predictor, film)
        measure_naive(predictor, film, options.naive_windows, rate, scores_NK)
    print(f"load of the machine before and after: {load:.1f} and {os.getloadavg()[0]:.1f}")


def measure_timeline(predictor: Predictor, film: Path) -> tuple[float, Scores]:
    """Print memory and speed; return windows a second and the scores of the windows."""
    with_model = memory_bytes("self", "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    decoder = 0

    def look(decoded_s: float, claimed_s: float) -> None:
        nonlocal decoder
        for child in active_children():
            decoder = max(decoder, memory_bytes(str(child.pid), "VmHWM"))

    began = time.perf_counter()
    found = predict_timeline(predictor, film, smoothing_s=0, progress=look)
    seconds = time.perf_counter() - began
    above = memory_bytes("self", "VmHWM") - with_model
    print(
        f"timeline         {found.duration_s / seconds:7.1f} x real time: {found.duration_s:,.0f} s in {seconds:.0f} s"
    )
    print(f"                 {len(found.scores_NK):,} windows, {found.clips:,} clips, {found.frames:,} frames")
    print(
        f"memory           {(above + decoder) / 2**20:7.0f} MiB above the model: {above / 2**20:.0f} in this process, "
        f"{decoder / 2**20:.0f} in the decoder's; with the model this process held {with_model / 2**20:.0f}"
    )
    return len(found.scores_NK) / seconds, found.scores_NK


def measure_naive(predictor: Predictor, film: Path, count: int, rate: float, scores_NK: Scores) -> None:
    """Print the speed of windows decoded independently and how far their scores are from the timeline's."""
    spec = predictor.spec
    hop_s = spec.clip_s / 2
    numbers = [round((len(scores_NK) - 1) * number / (count - 1)) for number in range(count)]
    clips_iterator = naive_clips(film, spec, [number * hop_s for number in numbers])
    began = time.perf_counter()
    batches = iter(lambda: list(itertools.islice(clips_iterator, 16)), [])
    naive_NK = np.concatenate([predictor.predict(np.stack(batch)) for batch in batches])
    naive = count / (time.perf_counter() - began)
    difference = float(np.abs(naive_NK - scores_NK[numbers]).max())
    print(
        f"one by one       {naive:7.1f} windows/s ({count} windows); the timeline has {rate:.1f}, {rate / naive:.1f} x "
        f"that; max |difference of scores| {difference:.1e}"
    )


def naive_clips(film: Path, spec: ModelSpec, starts_s: list[float]) -> Iterator[np.ndarray]:
    """One clip a window: seek to the key frame before it, decode up to it, keep every stride-th frame."""
    for start_s in starts_s:
        with av.open(str(film)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            assert stream.time_base
            container.seek(int((start_s + 0.001) / stream.time_base), stream=stream)
            frames: list[NDArray[np.uint8]] = []
            for frame in container.decode(stream):
                assert frame.time is not None
                number = round((frame.time - start_s) * FPS)
                if number < 0 or number % spec.frame_stride:
                    continue
                scale = max(spec.decode_height / frame.height, spec.decode_width / frame.width)
                height, width = (2 * math.ceil(round(side * scale) / 2) for side in (frame.height, frame.width))
                scaled = frame.reformat(width, height, "rgb24", interpolation="BILINEAR")
                picture_HWC = scaled.to_ndarray().astype(np.uint8, copy=False)
                frames.append(cropped_CHW(picture_HWC, (spec.frame_height, spec.frame_width)))
                if len(frames) == spec.num_frames:
                    break
        frames += frames[-1:] * (spec.num_frames - len(frames))
        yield np.stack(frames, axis=1)


def memory_bytes(process: str, field: str) -> int:
    """`VmRSS` or its peak `VmHWM` of a process, 0 when it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def make_film(target: Path, minutes: int) -> Path:
    """One encoded minute, its packets repeated."""
    minute = target.with_name("minute.mp4")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:240, 0:320]
    with av.open(str(minute), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        for number in range(60 * FPS):
            picture = np.stack([(x + 3 * number) % 256, (y + number) % 256, (x + y + number // 2) % 256], axis=-1)
            noise = rng.integers(0, 8, (240, 320, 1))
            frame = av.VideoFrame.from_ndarray((picture * 0.9 + noise).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(target), "w") as container:
        copied: VideoStream | None = None
        for repeat in range(minutes):
            with av.open(str(minute)) as source:
                track = source.streams.video[0]
                assert track.time_base
                copied = copied or container.add_stream_from_template(track)
                shift = round(60 * repeat / track.time_base)
                for packet in source.demux(track):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copied
                    packet.time_base = Fraction(track.time_base)
                    container.mux(packet)
    return target


def fresh_model(folder: Path) -> Path:
    """An untrained net for 51 classes at 16 x 112 x 112: as fast as a trained one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_fresh_model, folder).result()


def _fresh_model(folder: Path) -> Path:
    from benchmarks.bench_predict import fresh_model

    return fresh_model(folder)[0]


if __name__ == "__main__":
    main()
