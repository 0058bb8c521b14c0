"""From video files to predictions on the CPU: the pipeline against what its parts cost, and against a plain loop.

    python -m benchmarks.bench_predict [--model FILE.onnx --checkpoint FILE.ckpt] [--videos FOLDER] [--repeats N]

Without a model, the three-layer net at 16 x 112 x 112 with fresh weights is exported; without videos, copies of the
nine real clips are used (or of made ones). Three things are measured in turn, the medians of the rounds printed:

    parts         CPU-seconds of decoding and of inference a video, each alone in this process
    pipeline      `predict_videos` with every core, workers started and warm before the clock starts
    plain loop    OpenCV (PyAV where it is not installed), PyTorch eager in float32, one clip at a time
    better loop   the same, but the clips of a video together and channels last, as the predictor for checkpoints does

The bound is cores / (CPU-seconds of decoding + CPU-seconds of inference). The load of the machine is printed: what
else runs takes from the pipeline and not from the bound.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.bench_frame_cache import find_clips
from har_assets.model.lightning import DeployedModel, load_checkpoint
from har_assets.runtime import Predictor, open_model
from har_assets.runtime.video import VideoPrediction, predict_video, predict_videos, video_clips
from har_assets.runtime.windows import read_windows
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
        print(f"{predictor.runtime}: {predictor.why}")
        print(f"{available_cores()} cores, {len(clips)} clips, {options.windows} windows each")
        load = os.getloadavg()[0]
        decoder, loops = make_loops(checkpoint, options.windows)
        figures: dict[str, list[float]] = {name: [] for name in ("decode", "inference", "pipeline", "in turn", *loops)}
        for _ in range(options.repeats):
            measure_once(predictor, clips, loops, options, figures)
    report({name: statistics.median(values) for name, values in figures.items()}, decoder, list(loops), options)
    print(f"load of the machine before and after: {load:.1f} and {os.getloadavg()[0]:.1f}")


def measure_once(
    predictor: Predictor,
    clips: list[Path],
    loops: dict[str, Callable[[Path], int]],
    options: argparse.Namespace,
    figures: dict[str, list[float]],
) -> None:
    """One round: CPU-seconds of the parts, videos a second of everything else, appended to `figures`."""
    read = [read_windows(clip, predictor.spec, options.windows).clips_BCTHW for clip in clips]
    figures["decode"].append(cpu_seconds(lambda clip: read_windows(clip, predictor.spec, options.windows), clips))
    # In the batches of the pipeline.
    together = max(1, options.batch // options.windows)
    batches = [np.concatenate(read[n : n + together]) for n in range(0, len(read) - together + 1, together)]
    figures["inference"].append(cpu_seconds(predictor.predict, batches) / together)
    rate, found = pipeline(predictor, clips * options.copies, options)
    figures["pipeline"].append(rate)
    began = time.perf_counter()
    expected = [
        predict_video(predictor, clip, windows=options.windows, top=len(predictor.spec.labels)) for clip in clips
    ]
    figures["in turn"].append(len(clips) / (time.perf_counter() - began))
    for ours, theirs in zip(found, expected, strict=False):
        scores = dict(zip(ours.labels, ours.scores, strict=True))
        # bfloat16 rounds otherwise in a batch of another size.
        if any(abs(scores[label] - score) > 2e-3 for label, score in zip(theirs.labels, theirs.scores, strict=True)):
            raise SystemExit(f"the pipeline gives other scores for {ours.video} than one video at a time")
    for name, loop in loops.items():
        loop(clips[0])
        began = time.perf_counter()
        for clip in clips:
            loop(clip)
        figures[name].append(len(clips) / (time.perf_counter() - began))


def make_loops(checkpoint: Path, windows: int) -> tuple[str, dict[str, Callable[[Path], int]]]:
    """What decodes in them, and both loops: a video's path to the index of its class."""
    decoder, decode = plain_decoder()
    eager = open_model(checkpoint, "pytorch")
    spec = eager.spec
    deployed = DeployedModel(load_checkpoint(checkpoint)).eval()

    def plain_loop(path: Path) -> int:
        windows_BCTHW = torch.from_numpy(video_clips(decode(path, spec), spec, windows))
        with torch.inference_mode():
            scores_BK = [deployed(window_CTHW[None])[0] for window_CTHW in windows_BCTHW]
        return int(torch.stack(scores_BK).mean(dim=0).argmax())

    def better_loop(path: Path) -> int:
        return int(eager.predict(video_clips(decode(path, spec), spec, windows)).mean(axis=0).argmax())

    return decoder, {"plain loop": plain_loop, "better loop": better_loop}


def report(middle: dict[str, float], decoder: str, loops: list[str], options: argparse.Namespace) -> None:
    """Print the medians and what follows from them."""
    bound = available_cores() / (middle["decode"] + middle["inference"])
    print(f"decoding              {1e3 * middle['decode']:7.1f} CPU-ms a video")
    print(f"inference             {1e3 * middle['inference']:7.1f} CPU-ms a video, {options.windows} windows")
    print(f"bound                 {bound:7.1f} videos/s")
    print(f"pipeline              {middle['pipeline']:7.1f} videos/s, {middle['pipeline'] / bound:.2f} of the bound")
    print(f"one video at a time   {middle['in turn']:7.1f} videos/s, the same runtime, no overlap")
    for name in loops:
        print(
            f"{name:21} {middle[name]:7.1f} videos/s ({decoder}, PyTorch eager); "
            f"the pipeline is {middle['pipeline'] / middle[name]:.1f} x that"
        )


def fresh_model(folder: Path) -> tuple[Path, Path]:
    """An untrained net for the 51 classes at 16 x 112 x 112, as ONNX and as checkpoint: as fast as a trained one."""
    import pytorch_lightning as pl

    from har_assets.dataset.classes import HMDB51_CLASSES
    from har_assets.export.onnx import export_onnx
    from har_assets.model.lightning import VideoActionModel
    from har_assets.model.spec import ModelSpec, Provenance

    torch.manual_seed(0)
    model = VideoActionModel.from_spec(ModelSpec(labels=tuple(HMDB51_CLASSES)), Provenance(dataset="bench"))
    checkpoint = folder / "model.ckpt"
    torch.save(
        {
            "state_dict": model.state_dict(),
            "hyper_parameters": dict(model.hparams),
            "pytorch-lightning_version": pl.__version__,  # type: ignore[attr-defined]
            "epoch": 0,
            "global_step": 0,
        },
        checkpoint,
    )
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


def pipeline(
    predictor: Predictor, paths: list[Path], options: argparse.Namespace
) -> tuple[float, list[VideoPrediction]]:
    """Videos a second, from the last result of the warm-up to the last one, and the predictions."""
    found: list[VideoPrediction] = []
    began = 0.0
    top = len(predictor.spec.labels)
    warmed = [*paths[:WARM_VIDEOS], *paths]
    for number, one in enumerate(
        predict_videos(predictor, warmed, windows=options.windows, batch=options.batch, top=top), 1
    ):
        if number == WARM_VIDEOS:
            began = time.perf_counter()
        if not isinstance(one, VideoPrediction):
            raise SystemExit(f"{one.video}: {one.reason}")
        found.append(one)
    return len(paths) / (time.perf_counter() - began), found[WARM_VIDEOS:]


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
        frames: list[NDArray[np.uint8]] = []
        while True:
            found, frame = capture.read()
            if not found:
                return np.stack(frames[:: spec.frame_stride])
            resized = cv2.resize(frame, (spec.decode_width, spec.decode_height), interpolation=cv2.INTER_LINEAR)
            frames.append(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB))

    return f"OpenCV {cv2.__version__}", with_opencv


if __name__ == "__main__":
    main()
