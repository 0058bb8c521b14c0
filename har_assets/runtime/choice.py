"""Which runtime runs a model file here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from har_assets.errors import HarError, ModelFileError
from har_assets.model.integrity import verify, verify_engine
from har_assets.model.spec import ModelSpec, from_metadata
from har_assets.runtime.predictor import Clips, Predictor, Scores
from har_assets.system.gpu import gpu_compute_capability

AUTO_MAX_DIFFERENCE = 0.02
"""Largest difference of a score from float32's for which `auto` takes a runtime that computes in less; the gate of
an fp16 model."""

PROBE_CLIPS = 4
"""Clips on which `auto` measures."""
PROBE_ROUNDS = 3
"""How often each runtime answers them, in turn; its fastest time counts, as whatever else runs only adds to it."""
PROBE_SECONDS = 1.0
"""Where a runtime takes longer than this for its first clip, nothing more is measured."""


@dataclass(frozen=True)
class RuntimeChoice:
    """Whether a runtime can run a file on this machine."""

    name: str
    """As `open_model` takes it."""
    suffix: str
    """Of the model files that it runs."""
    available: bool
    reason: str
    """Why it cannot, a clause with the remedy; empty where it can."""


@dataclass(frozen=True)
class _Runtime:
    suffix: str
    why_not: Callable[[Path], str]
    load: Callable[[Path, int], Predictor]
    """From the path and the number of threads (0: every core)."""


def _nothing(path: Path) -> str:
    return ""


def _why_not_compiled(path: Path) -> str:
    # The driver's word first: importing torch takes seconds.
    if gpu_compute_capability() is None:
        return "there is no CUDA GPU on this machine: choose the runtime pytorch"
    import torch

    return "" if torch.cuda.is_available() else "the installed PyTorch has no CUDA: install a CUDA build of it"


def _why_not_cuda(path: Path) -> str:
    from har_assets.runtime.onnx import why_not_cuda

    return why_not_cuda()


def _why_not_openvino(name: str) -> Callable[[Path], str]:
    def why(path: Path) -> str:
        from har_assets.runtime.openvino import why_not

        return why_not(name)

    return why


def _why_not_engine(name: str) -> Callable[[Path], str]:
    def why(path: Path) -> str:
        from har_assets.runtime.tensorrt import sidecar_path, why_not_engine

        try:
            fields = json.loads(sidecar_path(path).read_bytes())
        except (OSError, ValueError):
            return f"{sidecar_path(path).name} beside it cannot be read: copy it along or materialize trt_engine"
        return why_not_engine(fields, name) if isinstance(fields, dict) else "the JSON beside it is not of trt_engine"

    return why


def _load_checkpoint(path: Path, threads: int) -> Predictor:
    from har_assets.runtime.checkpoint import CheckpointPredictor

    if threads:
        import torch

        torch.set_num_threads(threads)
    return CheckpointPredictor(path)


def _load_compiled(path: Path, threads: int) -> Predictor:
    from har_assets.runtime.checkpoint import CompiledPredictor

    return CompiledPredictor(path)


def _load_onnx(provider: str) -> Callable[[Path, int], Predictor]:
    def load(path: Path, threads: int) -> Predictor:
        from har_assets.runtime.onnx import OnnxPredictor

        return OnnxPredictor(path, provider=provider, threads=threads)

    return load


def _load_openvino(name: str) -> Callable[[Path, int], Predictor]:
    def load(path: Path, threads: int) -> Predictor:
        from har_assets.runtime.openvino import OpenVinoPredictor

        return OpenVinoPredictor(path, name=name, threads=threads)

    return load


def _load_engine(name: str) -> Callable[[Path, int], Predictor]:
    def load(path: Path, threads: int) -> Predictor:
        from har_assets.runtime.tensorrt import EnginePredictor

        return EnginePredictor(path, name=name)

    return load


_RUNTIMES = {
    # Fastest first, as measured on an H100 and on 2 cores (benchmarks/bench_gpu_inference.py, `har bench`).
    "tensorrt": _Runtime(".engine", _why_not_engine("tensorrt"), _load_engine("tensorrt")),
    "tensorrt_rtx": _Runtime(".engine", _why_not_engine("tensorrt_rtx"), _load_engine("tensorrt_rtx")),
    "pytorch_compiled": _Runtime(".ckpt", _why_not_compiled, _load_compiled),
    "onnxruntime_cuda": _Runtime(".onnx", _why_not_cuda, _load_onnx("CUDA")),
    "openvino_bf16": _Runtime(".onnx", _why_not_openvino("openvino_bf16"), _load_openvino("openvino_bf16")),
    "openvino": _Runtime(".onnx", _why_not_openvino("openvino"), _load_openvino("openvino")),
    "onnxruntime_cpu": _Runtime(".onnx", _nothing, _load_onnx("CPU")),
    "pytorch": _Runtime(".ckpt", _nothing, _load_checkpoint),
}

RUNTIMES = tuple(_RUNTIMES)
"""Names that `open_model` takes besides `auto` and `onnxruntime`."""

SUFFIXES = tuple(dict.fromkeys(runtime.suffix for runtime in _RUNTIMES.values()))
"""Kinds of model files."""


def available_runtimes(path: Path | str) -> list[RuntimeChoice]:
    """Every runtime, those that can run this file here first, each other one with the reason why not.

    Looks at the suffix, the machine and what is installed, and at an engine's JSON; does not load the file.

    Raises:
        ModelFileError: there is no such file, or it is of an unknown kind.
    """
    path = _known(path)
    choices = []
    for name, runtime in _RUNTIMES.items():
        reason = f"it runs {runtime.suffix} files" if runtime.suffix != path.suffix else runtime.why_not(path)
        choices.append(RuntimeChoice(name, runtime.suffix, not reason, reason))
    return sorted(choices, key=lambda choice: not choice.available)


def open_model(path: Path | str, runtime: str = "auto", *, threads: int = 0) -> Predictor:
    """Load a model file: a .ckpt in PyTorch, an .onnx in ONNX Runtime or OpenVINO, an .engine in TensorRT.

    Labels, frame count and preprocessing come from the file.

    Args:
        path: a file that trained_checkpoint, onnx_model or trt_engine published.
        runtime: one of RUNTIMES; `onnxruntime` for CUDA where it works and else the CPU; or `auto` for the
            fastest that works here: of several, each answers the same few clips, and one that computes in less
            than float32 has to agree with it. The result's `runtime` and `why` say which and why.
        threads: CPU threads of the runtime; 0 takes every core.

    Raises:
        ModelFileError: in a sentence, the file is missing, damaged, foreign, of an unknown kind or made for
            another machine, or the runtime cannot run it here.
        HarError: there is no runtime of that name.
    """
    path = _known(path)
    if runtime == "auto":
        return _fastest(path, threads)
    if runtime == "onnxruntime" and path.suffix == ".onnx":
        return _cuda_or_cpu(path, threads)
    runtime = "onnxruntime_cpu" if runtime == "onnxruntime" else runtime
    if runtime not in _RUNTIMES:
        raise HarError(f"There is no runtime {runtime!r}: choose auto, onnxruntime, {', '.join(RUNTIMES)}.")
    chosen = _RUNTIMES[runtime]
    if chosen.suffix != path.suffix:
        fitting = [name for name, other in _RUNTIMES.items() if other.suffix == path.suffix]
        raise ModelFileError(
            f"The runtime {runtime} runs {chosen.suffix} files and {path} is none: choose {' or '.join(fitting)}."
        )
    # An engine's own checks come first: of a damaged one everything else that its JSON says is worth nothing.
    reason = "" if path.suffix == ".engine" else chosen.why_not(path)
    if reason:
        raise ModelFileError(f"{path} cannot run in {runtime}, as {reason}.")
    return chosen.load(path, threads)


def read_spec(path: Path | str) -> ModelSpec:
    """What a model file expects of a video, without a runtime; the file is verified.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or of an unknown kind.
    """
    path = _known(path)
    if path.suffix == ".ckpt":
        from har_assets.model.lightning import load_checkpoint

        return load_checkpoint(path).spec
    if path.suffix == ".engine":
        from har_assets.runtime.tensorrt import sidecar_path

        _, fields = verify_engine(path, sidecar_path(path))
        return ModelSpec.from_json(json.dumps(fields.get("spec")))
    return from_metadata({entry.key: entry.value for entry in verify(path).metadata_props}, str(path))[0]


def _known(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ModelFileError(
            f"{path} is no model file that can be run here: name one that ends in {' or '.join(SUFFIXES)}."
        )
    if not path.is_file():
        kind, asset = {
            ".ckpt": ("checkpoint", "trained_checkpoint"),
            ".onnx": ("ONNX file", "onnx_model"),
            ".engine": ("engine", "trt_engine"),
        }[path.suffix]
        raise ModelFileError(f"There is no {kind} {path}: materialize {asset} or name another file.")
    return path


def _cuda_or_cpu(path: Path, threads: int) -> Predictor:
    from har_assets.runtime.onnx import OnnxPredictor, why_not_cuda

    reason = why_not_cuda()
    predictor = OnnxPredictor(path, provider="CPU" if reason else None, threads=threads)
    if predictor.name == "onnxruntime_cpu":
        predictor.why = reason or "its CUDA libraries could not be loaded"
    return predictor


def _fastest(path: Path, threads: int) -> Predictor:
    if path.suffix == ".engine":
        from har_assets.runtime.tensorrt import EnginePredictor

        predictor: Predictor = EnginePredictor(path)
        predictor.why = "the runtime of its builder"
        return predictor
    names = [choice.name for choice in available_runtimes(path) if choice.available]
    if path.suffix == ".ckpt":
        # By the table: compiling takes longer than a measurement of it is worth.
        predictor = _RUNTIMES[names[0]].load(path, threads)
        if predictor.why == "as asked":
            several = f"the faster on a GPU of {' and '.join(names)}"
            predictor.why = several if names[1:] else "the only one for a checkpoint on a CPU"
        return predictor
    return _fastest_measured(path, names, threads)


def _fastest_measured(path: Path, names: list[str], threads: int) -> Predictor:
    predictors: dict[str, Predictor] = {}
    failed: dict[str, str] = {}
    for name in reversed(names):  # the plainest first: it says what is wrong with the file
        try:
            predictors[name] = _RUNTIMES[name].load(path, threads)
        except ModelFileError as error:
            if not predictors:
                raise
            failed[name] = str(error)
    if len(predictors) == 1:
        (predictor,) = predictors.values()
        predictor.why = "the only one that works here for this file"
        return predictor
    seconds, scores = measure(predictors, _probe_clips(next(iter(predictors.values()))))
    exact_BK = scores["onnxruntime_cpu"]
    difference = {name: float(np.abs(scores_BK - exact_BK).max()) for name, scores_BK in scores.items()}
    fit = [name for name in predictors if difference[name] <= AUTO_MAX_DIFFERENCE]
    best = min(fit, key=lambda name: seconds[name])
    times = ", ".join(
        f"{name} {1e3 * seconds[name]:.1f} ms a clip"
        + ("" if name in fit else f" but scores off by {difference[name]:.2g}")
        for name in sorted(seconds, key=lambda name: seconds[name])
    )
    predictor = predictors[best]
    predictor.why = f"the fastest here, measured on {PROBE_CLIPS} clips: {times}"
    if difference[best] > 1e-4:
        predictor.why += f"; its scores are within {difference[best]:.1g} of float32's"
    for name, reason in failed.items():
        predictor.why += f"; {name} failed: {reason}"
    return predictor


def measure(predictors: dict[str, Predictor], clips_BCTHW: Clips) -> tuple[dict[str, float], dict[str, Scores]]:
    """Seconds a clip of each predictor, the fastest of several interleaved rounds, and its scores.

    Where one takes long for the first clip alone, that clip is all that is asked of each.
    """
    seconds, scores = {}, {}
    for name, predictor in predictors.items():
        seconds[name], scores[name] = _timed(predictor, clips_BCTHW[:1])
    if max(seconds.values()) > PROBE_SECONDS:
        return seconds, scores
    for _ in range(PROBE_ROUNDS):
        for name, predictor in predictors.items():
            taken, scores[name] = _timed(predictor, clips_BCTHW)
            seconds[name] = min(seconds[name], taken)
    return seconds, scores


def _timed(predictor: Predictor, clips_BCTHW: Clips) -> tuple[float, Scores]:
    """Seconds a clip, and the scores."""
    began = time.perf_counter()
    scores_BK = predictor.predict(clips_BCTHW)
    return (time.perf_counter() - began) / len(clips_BCTHW), scores_BK


def _probe_clips(predictor: Predictor) -> Clips:
    """Noise of growing contrast: no two of the clips alike, all of the range 0..255 used."""
    shape = (PROBE_CLIPS, *predictor.spec.clip_shape_CTHW)
    noise_BCTHW = np.random.default_rng(0).integers(-128, 128, shape)
    contrast_B111 = np.linspace(0.1, 1, PROBE_CLIPS).reshape(-1, 1, 1, 1, 1)
    return (128 + noise_BCTHW * contrast_B111).astype(np.uint8)
