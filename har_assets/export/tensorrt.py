"""ONNX to a TensorRT engine, by full TensorRT or by TensorRT-RTX, which needs no GPU to build.

Both share one API. Networks are strongly typed: the precision is that of the ONNX file. Beside the
engine lies `<engine>.json`, which says what it was made from and what it runs on; nothing is embedded
in the engine itself, so that `trtexec` and Triton read it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets.errors import HarError, ModelFileError
from har_assets.export.onnx import INPUT_NAME
from har_assets.gpu import gpu_compute_capability
from har_assets.model.integrity import seal_sidecar
from har_assets.model.spec import ModelSpec, from_metadata

BUILDERS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx"}
"""Name in the configuration -> Python module."""

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0")
"""Compute capabilities that TensorRT-RTX knows: Turing, Ampere, Ada, Blackwell. Not Hopper (9.0)."""

DEFAULT_TARGETS = ("8.0", "8.6", "8.9", "12.0")
"""All but Turing, for which TensorRT-RTX has no float32 3D convolution."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built."""

    builder: str = "auto"
    """`auto`, `tensorrt` or `tensorrt_rtx`."""
    targets: tuple[str, ...] = DEFAULT_TARGETS
    """Compute capabilities of a TensorRT-RTX engine; TensorRT builds for the GPU of this machine."""
    opt_batch: int = 8
    """Batch size that kernels are chosen for."""
    max_batch: int = 64
    """Largest batch size that the engine takes."""

    def __post_init__(self) -> None:
        if self.builder not in ("auto", *BUILDERS):
            raise HarError(f"There is no builder {self.builder!r}: choose auto, {' or '.join(BUILDERS)}.")
        if not 1 <= self.opt_batch <= self.max_batch:
            raise HarError(
                f"opt_batch is {self.opt_batch} and max_batch {self.max_batch}: choose 1 <= opt_batch <= max_batch."
            )
        unknown = sorted(set(self.targets) - set(RTX_CAPABILITIES))
        if unknown or not self.targets:
            raise HarError(
                f"TensorRT-RTX does not build for compute capability {', '.join(unknown) or '(none given)'}: "
                f"choose from {', '.join(RTX_CAPABILITIES)}."
            )


def choose_builder(wanted: str) -> tuple[str, str]:
    """The builder to use and why. HarError when the wanted one cannot run here."""
    has_tensorrt = importlib.util.find_spec("tensorrt") is not None
    has_gpu = gpu_compute_capability() is not None
    if wanted == "tensorrt":
        if not has_tensorrt:
            raise HarError("TensorRT is not installed: `pip install 'har_assets[tensorrt]'`, or choose tensorrt_rtx.")
        if not has_gpu:
            raise HarError("TensorRT builds on the GPU it is to run on and there is none here: choose tensorrt_rtx.")
        return "tensorrt", "as configured"
    if wanted == "tensorrt_rtx":
        return "tensorrt_rtx", "as configured"
    if has_tensorrt and has_gpu:
        return "tensorrt", "TensorRT is installed and there is a GPU"
    return "tensorrt_rtx", "it builds without a GPU" if not has_gpu else "TensorRT is not installed"


def build_engine(onnx_file: Path, target: Path, options: EngineOptions) -> dict[str, Any]:
    """Build an engine from an ONNX file that `export_onnx` made; returns what the sidecar `<target>.json` holds.

    Input `clips` uint8 [1..max_batch, 3, T, H, W], output `scores` float32 [batch, K].

    Raises:
        ModelFileError: the ONNX file is missing, foreign, or the builder refuses it (with its first error).
        HarError: the builder cannot run on this machine.
    """
    import onnx  # noqa: PLC0415

    if not onnx_file.is_file():
        raise ModelFileError(f"There is no ONNX file {onnx_file}: materialize onnx_model first.")
    try:
        proto = onnx.load(onnx_file, load_external_data=False)
    except Exception as error:
        raise ModelFileError(f"{onnx_file.name} is not a readable ONNX file: export it again.") from error
    spec, provenance = from_metadata({p.key: p.value for p in proto.metadata_props}, str(onnx_file))

    builder_name, why = choose_builder(options.builder)
    trt = importlib.import_module(BUILDERS[builder_name])
    started = time.monotonic()
    log = _BuildLog(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(onnx_file)):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise ModelFileError(f"{builder_name} cannot read {onnx_file.name} ({reason}): export the model again.")
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, spec, options))
    if builder_name == "tensorrt_rtx":
        config.num_compute_capabilities = len(options.targets)
        for index, capability in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)
        runs_on = list(options.targets)
    else:
        runs_on = [".".join(map(str, gpu_compute_capability() or ()))]
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ModelFileError(
            f"{builder_name} could not build an engine from {onnx_file.name} "
            f"({log.first_error or 'no reason given'}): look at the build log in the metadata."
        )
    engine = bytes(serialized)
    target.write_bytes(engine)
    sidecar = {
        "builder": builder_name,
        "builder_chosen_because": why,
        "builder_version": trt.__version__,
        "compute_capabilities": runs_on,
        "precision": _precision(proto),
        "input": INPUT_NAME,
        "batch": {"min": 1, "opt": options.opt_batch, "max": options.max_batch},
        "onnx_sha256": hashlib.sha256(onnx_file.read_bytes()).hexdigest(),
        "engine_sha256": hashlib.sha256(engine).hexdigest(),
        "engine_bytes": len(engine),
        "build_seconds": round(time.monotonic() - started, 2),
        "spec": json.loads(spec.to_json()),
        "provenance": dataclasses.asdict(provenance),
        "log": log.lines,
    }
    sidecar = seal_sidecar(sidecar)
    sidecar_path(target).write_text(json.dumps(sidecar, indent=2) + "\n")
    return sidecar


def sidecar_path(engine: Path) -> Path:
    """`x.engine` -> `x.engine.json`."""
    return engine.with_name(engine.name + ".json")


def _profile(builder: Any, spec: ModelSpec, options: EngineOptions) -> Any:
    profile = builder.create_optimization_profile()
    batches = (1, options.opt_batch, options.max_batch)
    profile.set_shape(INPUT_NAME, *[(batch, *spec.clip_shape_CTHW) for batch in batches])
    return profile


def _precision(proto: Any) -> str:
    """Type that the convolutions compute in, read from their weights: fp32, fp16 or int8."""
    import onnx  # noqa: PLC0415

    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        return "int8"
    types = {initializer.data_type for initializer in proto.graph.initializer if len(initializer.dims) > 1}
    return "fp16" if onnx.TensorProto.FLOAT16 in types else "fp32"


class _BuildLog:
    """Keeps the builder's warnings and errors instead of printing them."""

    def __init__(self, trt: Any) -> None:
        self.lines: list[str] = []
        self.first_error = ""
        outer = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            """The builder's view of this log."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                """Called by the builder with each message."""
                if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                    outer.first_error = outer.first_error or message
                if severity in (trt.ILogger.Severity.INFO, trt.ILogger.Severity.VERBOSE):
                    return
                outer.lines.append(f"{severity.name}: {message}")

        self.logger = Logger()
