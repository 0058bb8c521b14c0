"""ONNX to a TensorRT engine, by full TensorRT 10 or 11, or by TensorRT-RTX, which needs no GPU to build.

All share one API. Networks are strongly typed: the precision is that of the ONNX file, and no builder flag
changes it (TensorRT 11 has none of these flags any more). Beside the engine lies `<engine>.json`, which says
what it was made from and what it runs on; nothing is embedded in the engine itself, so that `trtexec` and
Triton read it.

References:
    TensorRT 10 to 11: https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x.html
    What TensorRT-RTX leaves out: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from har_assets.errors import HarError, ModelFileError
from har_assets.export.engine_options import BUILDERS, EngineOptions
from har_assets.export.onnx import INPUT_NAME, read_onnx
from har_assets.export.precision import precision_of
from har_assets.model.files import reference_path, sidecar_path
from har_assets.model.integrity import seal_sidecar
from har_assets.model.spec import ModelSpec
from har_assets.runtime.tensorrt import why_not_engine
from har_assets.runtime.tensorrt_log import TensorRTLog
from har_assets.store.record import Artifact
from har_assets.system.files import sha256_of, written_whole
from har_assets.system.gpu import gpu_compute_capability

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


LOG_LINES = 400
"""Lines of the build log that are kept: the first ones, and every warning and error."""


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


def builder_identity(wanted: str) -> dict[str, str]:
    """Identity of the builder: its name and version, and the GPU that it times on. It is part of the engine's key.

    HarError when the wanted builder cannot run here.
    """
    name, _ = choose_builder(wanted)
    capability = ".".join(map(str, gpu_compute_capability() or ())) if name == "tensorrt" else ""
    return {"builder": name, "version": importlib.import_module(BUILDERS[name]).__version__, "gpu": capability}


def engine_holds(engine: Artifact) -> bool:
    """Whether a published engine need not be made again: it was compared with its ONNX model, or cannot be here."""
    figures = engine.record.metadata
    return isinstance(figures.get("parity"), dict) or bool(why_not_engine(figures))


def build_engine(
    onnx_file: Path, target: Path, options: EngineOptions, *, timing_caches: Path | None = None
) -> dict[str, Any]:
    """Build an engine from an ONNX file of har_assets; returns what the sidecar `<target>.json` holds.

    Input `clips` uint8 [min_batch..max_batch, 3, T, H, W], output `scores` float32 [batch, K].

    Args:
        onnx_file: of any precision; the engine has the same.
        target: the engine file.
        options: checked first, against the builder too.
        timing_caches: folder in which TensorRT keeps the kernel timings of this GPU and version between builds;
            None measures all of them again. TensorRT-RTX times no kernels.

    Raises:
        ModelFileError: the ONNX file is missing, foreign, or the builder refuses it (with its first error).
        HarError: the builder cannot run on this machine, or has nothing for an option.
    """
    options.check()
    proto, spec, provenance = read_onnx(onnx_file)
    builder_name, why = choose_builder(options.builder)
    options.check_for(builder_name)
    trt = importlib.import_module(BUILDERS[builder_name])
    started = time.monotonic()
    lines = _Lines()
    log = TensorRTLog(trt, lines.tell)
    builder = trt.Builder(log.logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(onnx_file)):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise ModelFileError(f"{builder_name} cannot read {onnx_file.name} ({reason}): export the model again.")
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, spec, options))
    _set_options(trt, config, options)
    cache = _TimingCache(config, None)
    if builder_name == "tensorrt_rtx":
        config.num_compute_capabilities = len(options.targets)
        for index, capability in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)
        runs_on = list(options.targets)
    else:
        runs_on = [".".join(map(str, gpu_compute_capability() or ()))]
        if timing_caches is not None:
            cache = _TimingCache(config, timing_caches / f"{trt.__version__}-sm{runs_on[0]}.cache")
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ModelFileError(
            f"{builder_name} could not build an engine from {onnx_file.name} "
            f"({log.first_error or 'no reason given'}): choose another precision, other targets or a larger workspace."
        )
    cache.save()
    target.write_bytes(serialized)
    sidecar = {
        "builder": builder_name,
        "builder_chosen_because": why,
        "builder_version": trt.__version__,
        "compute_capabilities": runs_on,
        "hardware_compatibility": options.hardware_compatibility,
        "version_compatible": options.version_compatible,
        "precision": precision_of(proto),
        "tf32": options.tf32,
        "input": INPUT_NAME,
        "batch": {"min": options.min_batch, "opt": options.opt_batch, "max": options.max_batch},
        "workspace_mib": options.workspace_mib,
        "timing_cache": cache.words if builder_name == "tensorrt" else "none: TensorRT-RTX times no kernels",
        "onnx_sha256": sha256_of(onnx_file),
        "engine_sha256": sha256_of(target),
        "engine_bytes": target.stat().st_size,
        "build_seconds": round(time.monotonic() - started, 2),
        "spec": json.loads(spec.to_json()),
        "provenance": dataclasses.asdict(provenance),
        "log": list(lines),
    }
    return _write_sidecar(target, sidecar)


def write_reference(engine: Path, clips_BCTHW: NDArray[np.uint8], scores_BK: NDArray[np.float32]) -> Path:
    """Put a few clips and its parent's scores of them beside an engine; whoever loads it first compares."""
    import numpy as np

    path = reference_path(engine)
    np.savez_compressed(path, clips_BCTHW=clips_BCTHW, scores_BK=scores_BK)
    return path


def record_parity(engine: Path, parity: dict[str, Any]) -> None:
    """Write into the sidecar of an engine how it compares with its parent, under the key `parity`."""
    sidecar = json.loads(sidecar_path(engine).read_text())
    _write_sidecar(engine, {**sidecar, "parity": parity})


def _write_sidecar(engine: Path, sidecar: dict[str, Any]) -> dict[str, Any]:
    """Write the JSON beside an engine, here and nowhere else, with its checksum; returns what was written."""
    sidecar = seal_sidecar(sidecar)
    sidecar_path(engine).write_text(json.dumps(sidecar, indent=2) + "\n")
    return sidecar


def _strongly_typed(trt: Any) -> int:
    """Flags of a strongly typed network: asked for in TensorRT 10 and RTX, the only kind in 11."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _profile(builder: Any, spec: ModelSpec, options: EngineOptions) -> Any:
    profile = builder.create_optimization_profile()
    batches = (options.min_batch, options.opt_batch, options.max_batch)
    profile.set_shape(INPUT_NAME, *[(batch, *spec.clip_shape_CTHW) for batch in batches])
    return profile


def _set_options(trt: Any, config: Any, options: EngineOptions) -> None:
    if options.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.hardware_compatibility:
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper(), None)
        if level is None:
            raise HarError(
                f"TensorRT {trt.__version__} has no hardware_compatibility {options.hardware_compatibility}: choose "
                "ampere_plus, or leave it empty."
            )
        config.hardware_compatibility_level = level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    # On by default in every builder, which is why float32 engines are often off by 1e-3.
    (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)


class _TimingCache:
    """Kernel timings of TensorRT in a file, for one version and GPU: with them a build measures nothing again."""

    def __init__(self, config: Any, path: Path | None) -> None:
        self.config = config
        self.path = path
        self.cache: Any = None
        self.words = "none"
        if path is None:
            return
        known = path.read_bytes() if path.is_file() else b""
        self.words = f"{len(known)} bytes from earlier builds"
        # Held here: the configuration only points to it.
        self.cache = config.create_timing_cache(known)
        # False when the file is damaged or of another version: then it is measured and written anew.
        if not config.set_timing_cache(self.cache, False):
            self.words = "the earlier one did not fit and was replaced"
            self.cache = config.create_timing_cache(b"")
            config.set_timing_cache(self.cache, False)

    def save(self) -> None:
        """Write what is known now."""
        if self.path is None:
            return
        with written_whole(self.path) as partial:
            partial.write_bytes(self.config.get_timing_cache().serialize())


class _Lines(list[str]):
    """The builder's messages without chatter, and the first LOG_LINES lines of its reports."""

    def tell(self, severity: str, message: str) -> None:
        """One more message."""
        if severity != "VERBOSE" and (severity != "INFO" or len(self) < LOG_LINES):
            self.append(f"{severity}: {message}")
