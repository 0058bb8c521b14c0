"""What fp16 and int8 change on the built-in sample, and what they cost: agreement, latency, size, build times.

    python -m benchmarks.precision_parity           about four minutes on two cores

Needs the sample pipeline up to trained_checkpoint (`make demo`). Windows are all there are in the test videos,
those from odd frames of the file too, which frame_cache does not keep.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from har_assets.dataset.manifests import read_manifest
from har_assets.export.engine_options import EngineOptions
from har_assets.export.onnx import export_onnx, read_onnx, write_onnx
from har_assets.export.precision import Calibration, imitate_fp16, to_fp16, to_int8
from har_assets.export.tensorrt import build_engine, choose_builder
from har_assets.model.files import CHECKPOINT
from har_assets.model.spec import ModelSpec
from har_assets.model.windows import spread_windows
from har_assets.runtime.checkpoint import CheckpointPredictor
from har_assets.runtime.onnx import OnnxPredictor
from har_assets.runtime.parity import compare
from har_assets.runtime.predictor import Predictor
from har_assets.runtime.video import video_clips
from har_assets.store.folder import ArtifactFolder
from har_assets.video.decode import decode_video
from har_assets.video.frame_cache import FrameCache
from har_assets.video.sampling import Clips

CALIBRATIONS = {
    "int8": Calibration(),
    "int8, percentile 100": Calibration(percentile=100),
    "int8, percentile 99.999": Calibration(percentile=99.999),
    "int8, percentile 99.9": Calibration(percentile=99.9),
    "int8, entropy": Calibration(method="entropy"),
}
CALIBRATION_WINDOWS = 128
ROUNDS = 30
TARGETS = ("8.6", "8.9", "12.0")


def all_windows(folder: Path, clips: list[str], spec: ModelSpec) -> Clips:
    """Every window of every video, at every phase of the stride: uint8 [N, 3, T, H, W]."""
    windows = []
    for clip in clips:
        video = decode_video(folder / clip, size=(spec.decode_height, spec.decode_width))
        for phase in range(spec.frame_stride):
            frames_THWC = video.frames_THWC[phase :: spec.frame_stride]
            if len(frames_THWC) >= spec.num_frames:
                windows.append(video_clips(frames_THWC, spec, len(frames_THWC) - spec.num_frames + 1))
    return np.concatenate(windows)


def latencies(models: dict[str, Predictor], clips_BCTHW: Clips) -> dict[str, float]:
    """Median milliseconds of one call with these clips, models interleaved, three calls to warm up."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(ROUNDS + 3):
        for name, model in models.items():
            started = time.perf_counter()
            model.predict(clips_BCTHW)
            if number >= 3:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print a table of parity, one of latency and size, one of build times."""
    store = ArtifactFolder(Path("artifacts"))
    checkpoint = store.latest("trained_checkpoint").file(CHECKPOINT)
    cache = FrameCache(store.latest("frame_cache").folder)
    manifests = {role: read_manifest(store.latest(f"{role}_manifest").file(f"{role}.csv")) for role in ("val", "test")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        proto, spec, provenance = read_onnx(export_onnx(checkpoint, folder / "fp32.onnx"))
        files = {"fp32": folder / "fp32.onnx"}

        def add(label: str, converted: onnx.ModelProto) -> None:
            files[label] = write_onnx(converted, spec, provenance, folder / f"{len(files)}.onnx")

        add("fp16", to_fp16(proto))
        add("fp16, every result rounded", imitate_fp16(proto))
        calibration = spread_windows(manifests["val"], cache, spec, CALIBRATION_WINDOWS)
        for label, settings in CALIBRATIONS.items():
            add(label, to_int8(proto, (clips_BCTHW for clips_BCTHW, _ in calibration.batches()), settings))
        models: dict[str, Predictor] = {label: OnnxPredictor(path, provider="CPU") for label, path in files.items()}
        windows_BCTHW = all_windows(Path("data/videos"), list(manifests["test"]["clip"]), spec)
        parent_BK = CheckpointPredictor(checkpoint, device="cpu").predict(windows_BCTHW)
        print(f"{len(windows_BCTHW):,} windows of {len(manifests['test'])} test videos, against the checkpoint")
        for label, model in models.items():
            parity = compare(parent_BK, model.predict(windows_BCTHW))
            print(f"  {label:28} {parity.words}, mean {parity.mean_difference:.1e}", flush=True)

        timed = {label: models[label] for label in ("fp32", "fp16", "int8")}
        print(f"{models['fp32'].runtime}, median of {ROUNDS} calls, milliseconds")
        for batch in (1, 8):
            figures = latencies(timed, windows_BCTHW[:batch])
            print(f"  batch {batch}: " + ", ".join(f"{label} {value:.2f}" for label, value in figures.items()))
        print("ONNX files: " + ", ".join(f"{label} {files[label].stat().st_size / 1e3:.0f} kB" for label in timed))

        builder, why = choose_builder("auto")
        print(f"engines by {builder} ({why}); seconds of the first and second build, the second with its timing cache")
        for label in timed:
            for target in TARGETS if builder == "tensorrt_rtx" else ("",):
                options = EngineOptions(targets=[target]) if target else EngineOptions()
                caches = folder / f"timings {label}"
                builds = [
                    build_engine(files[label], folder / "engine", options, timing_caches=caches) for _ in range(2)
                ]
                print(
                    f"  {label} SM {', '.join(builds[0]['compute_capabilities'])}: "
                    f"{builds[0]['build_seconds']:.2f}, {builds[1]['build_seconds']:.2f} "
                    f"(timing cache {builds[1]['timing_cache']}), {builds[0]['engine_bytes'] / 1e3:.0f} kB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
