"""Which runtime runs a model file here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from har_assets.errors import HarError, ModelFileError
from har_assets.model.files import ModelKind, kind_of
from har_assets.model.spec import ModelSpec
from har_assets.runtime import checkpoint, onnx, openvino, tensorrt
from har_assets.runtime.predictor import Predictor, Runtime, Scores
from har_assets.video.sampling import Clips

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
    """Suffix of the model files that it runs."""
    available: bool
    reason: str
    """Why it cannot, a clause with the remedy; empty where it can."""


RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        # Fastest first, as measured on an H100 and on 2 cores (benchmarks/bench_gpu_inference.py, `har bench`).
        tensorrt.TENSORRT,
        tensorrt.TENSORRT_RTX,
        checkpoint.COMPILED,
        onnx.CUDA,
        openvino.BFLOAT16,
        openvino.FLOAT32,
        onnx.CPU,
        checkpoint.EAGER,
    )
}
"""Name -> runtime. A later runtime of a kind is a plainer one: what it says is wrong with a file counts."""

SHORTHANDS = {onnx.CUDA_OR_CPU.name: onnx.CUDA_OR_CPU}
"""Names that stand for one of several runtimes. `open_model` takes them too; they are not measured."""


def available_runtimes(path: Path | str) -> list[RuntimeChoice]:
    """Every runtime, those that can run this file here first, each other one with the reason why not.

    Looks at the suffix, the machine and what is installed, and at an engine's JSON; does not load the file.

    Raises:
        ModelFileError: there is no such file, or it is of an unknown kind.
    """
    path = Path(path)
    kind = kind_of(path)
    choices = []
    for name, runtime in RUNTIMES.items():
        reason = runtime.why_not(path) if runtime.suffix == kind.suffix else f"it runs {runtime.suffix} files"
        choices.append(RuntimeChoice(name, runtime.suffix, not reason, reason))
    return sorted(choices, key=lambda choice: not choice.available)


def runtime_named(name: str) -> Runtime:
    """The runtime of a name that `open_model` takes besides `auto`; HarError where there is none."""
    named = {**SHORTHANDS, **RUNTIMES}
    if name not in named:
        raise HarError(f"There is no runtime {name!r}: choose auto, {', '.join(named)}.")
    return named[name]


def open_model(path: Path | str, runtime: str = "auto", *, threads: int = 0) -> Predictor:
    """Load a model file: a .ckpt in PyTorch, an .onnx in ONNX Runtime or OpenVINO, an .engine in TensorRT.

    Labels, frame count and preprocessing come from the file.

    Args:
        path: a file that trained_checkpoint, onnx_model or trt_engine published.
        runtime: one of RUNTIMES; `onnxruntime` for CUDA where it works and else the CPU; or `auto` for the
            fastest that works here: of several, each answers the same few clips, and one that computes in less
            than float32 has to agree with it. Those of a checkpoint go by their order in RUNTIMES, unmeasured.
            The result's `runtime` and `why` say which and why.
        threads: CPU threads of the runtime; 0 takes every core.

    Raises:
        ModelFileError: in a sentence, the file is missing, damaged, foreign, of an unknown kind or made for
            another machine, or the runtime cannot run it here.
        HarError: there is no runtime of that name.
    """
    path = Path(path)
    kind = kind_of(path)
    if runtime == "auto":
        return _fastest(path, kind, threads)
    chosen = runtime_named(runtime)
    if chosen.suffix != kind.suffix:
        fitting = [name for name, other in RUNTIMES.items() if other.suffix == kind.suffix]
        raise ModelFileError(
            f"The runtime {runtime} runs {chosen.suffix} files and {path} is none: choose {' or '.join(fitting)}."
        )
    reason = chosen.why_not(path)
    if reason:
        _refuse(path, kind, f"in {runtime}", reason)
    return chosen.load(path, threads)


def read_spec(path: Path | str) -> ModelSpec:
    """The spec in a model file, without a runtime; the file is verified.

    Raises:
        ModelFileError: the file is missing, damaged, foreign or of an unknown kind.
    """
    return kind_of(Path(path)).describe(Path(path))[0]


def _refuse(path: Path, kind: ModelKind, where: str, reason: str) -> NoReturn:
    """Raise ModelFileError for a file that cannot run: with the damage where it is damaged, else with the reason."""
    kind.verify(path)
    raise ModelFileError(f"{path} cannot run {where}, as {reason}.")


def _fastest(path: Path, kind: ModelKind, threads: int) -> Predictor:
    """The runtime that `auto` takes."""
    rows = [runtime for runtime in RUNTIMES.values() if runtime.suffix == kind.suffix]
    # A file that is meant for none of them, as far as can be seen, gets the reasons of all.
    rows = [runtime for runtime in rows if runtime.made_for(path)] or rows
    reasons = {runtime.name: runtime.why_not(path) for runtime in rows}
    usable = {runtime.name: runtime for runtime in rows if not reasons[runtime.name]}
    if not usable:
        _refuse(path, kind, "here", "; ".join(dict.fromkeys(reasons.values())))
    if kind.measured and len(usable) > 1:
        return _fastest_measured(path, kind, usable, threads)
    predictor = next(iter(usable.values())).load(path, threads)
    if predictor.why == Predictor.why:
        predictor.why = f"the first in the order of speed: {', '.join(usable)}" if len(usable) > 1 else _only_one(kind)
    return predictor


def _only_one(kind: ModelKind) -> str:
    return f"the only one that works here for this {kind.noun}"


def _fastest_measured(path: Path, kind: ModelKind, usable: dict[str, Runtime], threads: int) -> Predictor:
    """The fastest of several whose scores agree with those of the plainest one that computes in float32."""
    predictors: dict[str, Predictor] = {}
    failed: dict[str, str] = {}
    for name in reversed(usable):  # the plainest first: it says what is wrong with the file
        try:
            predictors[name] = usable[name].load(path, threads)
        except ModelFileError as error:
            if not predictors:
                raise
            failed[name] = str(error)
    plainest, *others = predictors
    best, why = plainest, _only_one(kind)
    if others:
        exact = next((name for name in predictors if usable[name].exact), plainest)
        best, why = _compared(predictors, exact)
    predictor = predictors[best]
    predictor.why = "; ".join([why, *(f"{name} failed: {reason}" for name, reason in failed.items())])
    return predictor


def _compared(predictors: dict[str, Predictor], exact: str) -> tuple[str, str]:
    """The fastest predictor that agrees with the exact one, and why: its times and those of the others."""
    seconds, scores = measure(predictors, _probe_clips(predictors[exact]))
    difference = {name: float(np.abs(scores_BK - scores[exact]).max()) for name, scores_BK in scores.items()}
    fit = [name for name in predictors if difference[name] <= AUTO_MAX_DIFFERENCE]
    best = min(fit, key=lambda name: seconds[name])
    times = ", ".join(
        f"{name} {1e3 * seconds[name]:.1f} ms a clip"
        + ("" if name in fit else f" but scores off by {difference[name]:.2g}")
        for name in sorted(seconds, key=lambda name: seconds[name])
    )
    why = f"the fastest here, measured on {PROBE_CLIPS} clips: {times}"
    if difference[best] > 1e-4:
        why += f"; its scores are within {difference[best]:.1g} of float32's"
    return best, why


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
