"""From video files to predictions on the CPU: the pipeline against what its parts cost, and against a plain loop.

    python benchmarks/bench_predict.py [--model FILE.onnx --checkpoint FILE.ckpt] [--videos FOLDER] [--repeats N]

Without a model, the three-layer net at 16 x 112 x 112 with fresh weights is exported; without videos, copies of the
nine real clips are used (or of made ones). Three things are measured in turn, the medians of the rounds printed:

    parts      CPU-seconds of decoding and of inference a video, each alone in this process
    pipeline   `predict_videos` with every core, workers started and warm before the clock starts
    loop       OpenCV (PyAV where it is not installed), PyTorch eager in float32, a video at a time

The bound is cores / (CPU-seconds of decoding + CPU-seconds of inference).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_frame_cache import find_clips

from har_assets.runtime import Predictor, open_model
from har_assets.runtime.video import predict_video, predict_videos, read_windows, video_clips
from har_assets.video.workers import available_cores

WARM_VIDEOS = 24


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--checkpoint", type=Path)
    arguments.add_argument("--videos", type=Path)
    arguments.add_argument("--runtime", default="auto")
    arguments.add_argument("--copies", type=int, default=24, help="how often each clip is predicted in a round")
    arguments.add_argument("--windows", type=int, default=4)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        clips = find_clips(options.videos, Path(scratch) / "sources")
        onnx, checkpoint = options.model, options.checkpoint
        if onnx is None or checkpoint is None:
            onnx, checkpoint = fresh_model(Path(scratch))
        predictor = open_model(onnx, options.runtime)
        eager = open_model(checkpoint, "pytorch")
        print(f"{predictor.runtime}: {predictor.why}")
        print(f"{available_cores()} cores, {len(clips)} clips, {options.windows} windows each")
        with_opencv, plain_decode = plain_decoder()

        def loop(path: Path) -> int:
            windows_BCTHW = video_clips(plain_decode(path, predictor.spec), eager.spec, options.windows)
            return int(eager.predict(windows_BCTHW).mean(axis=0).argmax())

        figures: dict[str, list[float]] = {name: [] for name in ("decode", "inference", "pipeline", "in turn", "loop")}
        for _ in range(options.repeats):
            read = [read_windows(clip, predictor.spec, options.windows).clips_BCTHW for clip in clips]
            figures["decode"].append(
                cpu_seconds(lambda clip: read_windows(clip, predictor.spec, options.windows), clips)
            )
            # In the batches of the pipeline, of clips that are in no cache.
            together = max(1, options.batch // options.windows)
            batches = [np.concatenate(read[n : n + together]) for n in range(0, len(read) - together + 1, together)]
            figures["inference"].append(cpu_seconds(predictor.predict, batches) / together)
            rate, decided = pipeline(predictor, clips * options.copies, options)
            figures["pipeline"].append(rate)
            began = time.perf_counter()
            in_turn = [predict_video(predictor, clip, windows=options.windows).labels[0] for clip in clips]
            figures["in turn"].append(len(clips) / (time.perf_counter() - began))
            began = time.perf_counter()
            for clip in clips:
                loop(clip)
            figures["loop"].append(len(clips) / (time.perf_counter() - began))
            if decided != in_turn:
                raise SystemExit("the pipeline gives other answers than one video at a time")
    middle = {name: statistics.median(values) for name, values in figures.items()}
    bound = available_cores() / (middle["decode"] + middle["inference"])
    print(f"decoding              {1e3 * middle['decode']:7.1f} CPU-ms a video")
    print(f"inference             {1e3 * middle['inference']:7.1f} CPU-ms a video, {options.windows} windows")
    print(f"bound                 {bound:7.1f} videos/s")
    print(f"pipeline              {middle['pipeline']:7.1f} videos/s, {middle['pipeline'] / bound:.2f} of the bound")
    print(f"one video at a time   {middle['in turn']:7.1f} videos/s, the same runtime, no overlap")
    print(
        f"plain loop            {middle['loop']:7.1f} videos/s ({with_opencv}, PyTorch eager); "
        f"the pipeline is {middle['pipeline'] / middle['loop']:.1f} x that"
    )


def fresh_model(folder: Path) -> tuple[Path, Path]:
    """An untrained net for the 51 classes at 16 x 112 x 112, as ONNX and as checkpoint: as fast as a trained one."""
    import pytorch_lightning as pl
    import torch

    from har_assets.export.onnx import export_onnx
    from har_assets.hmdb51.classes import HMDB51_CLASSES
    from har_assets.model.lightning import VideoActionModel
    from har_assets.model.spec import ModelSpec, Provenance

    torch.manual_seed(0)
    model = VideoActionModel.from_spec(ModelSpec(labels=tuple(HMDB51_CLASSES)), Provenance(dataset="bench"))
    checkpoint = folder / "model.ckpt"
    torch.save(
        {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams),
         "pytorch-lightning_version": pl.__version__, "epoch": 0, "global_step": 0},
        checkpoint,
    )  # fmt: skip
    return export_onnx(checkpoint, folder / "model.onnx"), checkpoint


def cpu_seconds(function: Callable, items: list) -> float:
    """CPU-seconds of this process, all threads, an item; the median of three rounds after one to warm up."""
    taken = []
    for number in range(4):
        began = time.process_time()
        for item in items:
            function(item)
        if number:
            taken.append((time.process_time() - began) / len(items))
    return statistics.median(taken)


def pipeline(predictor: Predictor, paths: list[Path], options: argparse.Namespace) -> tuple[float, list[str]]:
    """Videos a second, from the warm-up's last result to the last one, and the answers for the first clips."""
    answers: list[str] = []
    began = 0.0
    videos = predict_videos(predictor, [*paths[:WARM_VIDEOS], *paths], windows=options.windows, batch=options.batch)
    for number, found in enumerate(videos, 1):
        if number == WARM_VIDEOS:
            began = time.perf_counter()
        answers.append(found.labels[0])
    rate = len(paths) / (time.perf_counter() - began)
    return rate, answers[WARM_VIDEOS : WARM_VIDEOS + len(paths) // options.copies]


def plain_decoder() -> tuple[str, Callable]:
    """How most scripts read a video, resized after decoding, every frame in memory."""
    try:
        import cv2
    except ImportError:
        import av

        def with_pyav(path, spec):  # type: ignore[no-untyped-def]
            with av.open(str(path), metadata_errors="replace") as container:
                frames = [
                    frame.reformat(spec.decode_width, spec.decode_height, "rgb24").to_ndarray()
                    for frame in container.decode(video=0)
                ]
            return np.stack(frames[:: spec.frame_stride])

        return "PyAV, OpenCV is not installed", with_pyav

    def with_opencv(path, spec):  # type: ignore[no-untyped-def]
        capture = cv2.VideoCapture(str(path))
        frames = []
        while True:
            found, frame = capture.read()
            if not found:
                return np.stack(frames[:: spec.frame_stride])
            resized = cv2.resize(frame, (spec.decode_width, spec.decode_height), interpolation=cv2.INTER_LINEAR)
            frames.append(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB))

    return f"OpenCV {cv2.__version__}", with_opencv


if __name__ == "__main__":
    main()
