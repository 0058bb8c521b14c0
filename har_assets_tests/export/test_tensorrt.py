import enum
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from har_assets.errors import HarError, ModelFileError
from har_assets.export import tensorrt
from har_assets.export.engine_options import EngineOptions
from har_assets.export.onnx import read_onnx, write_onnx
from har_assets.export.precision import to_fp16, to_int8
from har_assets.export.tensorrt import build_engine, choose_builder
from har_assets.model.files import sidecar_path
from har_assets.system.gpu import gpu_compute_capability


@pytest.mark.parametrize("target", ["8.0", "8.6", "8.9", "12.0"])
def test_an_engine_is_built_without_a_gpu(tiny_onnx: Path, tmp_path: Path, target: str) -> None:
    engine = tmp_path / "model.engine"
    sidecar = build_engine(tiny_onnx, engine, EngineOptions(builder="tensorrt_rtx", targets=(target,)))
    assert engine.stat().st_size > 100_000
    assert sidecar == json.loads(sidecar_path(engine).read_text())
    assert sidecar["compute_capabilities"] == [target]
    assert sidecar["precision"] == "fp32"
    assert sidecar["onnx_sha256"] == hashlib.sha256(tiny_onnx.read_bytes()).hexdigest()
    assert sidecar["engine_sha256"] == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert sidecar["provenance"]["dataset"] == "tiny"


def test_one_engine_for_several_gpus(tiny_onnx: Path, tmp_path: Path) -> None:
    sidecar = build_engine(tiny_onnx, tmp_path / "model.engine", EngineOptions(builder="tensorrt_rtx"))
    assert sidecar["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_has_the_precision_of_its_onnx(tiny_onnx: Path, tmp_path: Path, precision: str) -> None:
    proto, spec, provenance = read_onnx(tiny_onnx)
    clips_BCTHW = np.random.default_rng(0).integers(0, 256, (8, *spec.clip_shape_CTHW), dtype=np.uint8)
    converted = to_fp16(proto) if precision == "fp16" else to_int8(proto, [clips_BCTHW])
    source = write_onnx(converted, spec, provenance, tmp_path / "model.onnx")
    for target in ("8.6", "8.9", "12.0"):
        options = EngineOptions(builder="tensorrt_rtx", targets=(target,))
        assert build_engine(source, tmp_path / "model.engine", options)["precision"] == precision


def test_the_build_log_and_the_options_are_in_the_sidecar(tiny_onnx: Path, tmp_path: Path) -> None:
    options = EngineOptions(builder="tensorrt_rtx", min_batch=2, opt_batch=4, max_batch=8, workspace_mib=512, tf32=True)
    sidecar = build_engine(tiny_onnx, tmp_path / "model.engine", options, timing_caches=tmp_path / "caches")
    assert sidecar["batch"] == {"min": 2, "opt": 4, "max": 8}
    assert (sidecar["workspace_mib"], sidecar["tf32"]) == (512, True)
    assert any("Engine generation completed" in line for line in sidecar["log"])
    assert sidecar["timing_cache"] == "none: TensorRT-RTX times no kernels"
    assert not (tmp_path / "caches").exists()


def test_a_workspace_that_is_too_small_is_a_sentence(tiny_onnx: Path, tmp_path: Path) -> None:
    options = EngineOptions(builder="tensorrt_rtx", workspace_mib=1, max_batch=4096)
    with pytest.raises(ModelFileError, match="a larger workspace"):
        build_engine(tiny_onnx, tmp_path / "model.engine", options)


@pytest.mark.parametrize("option", [{"hardware_compatibility": "ampere_plus"}, {"version_compatible": True}])
def test_what_tensorrt_rtx_has_not_is_refused_not_ignored(
    tiny_onnx: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(HarError, match=r"^TensorRT-RTX .* or build with TensorRT"):
        build_engine(tiny_onnx, tmp_path / "model.engine", EngineOptions(builder="tensorrt_rtx", **option))


def test_a_gpu_without_the_operation_is_named(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="could not build an engine"):
        build_engine(tiny_onnx, tmp_path / "model.engine", EngineOptions(builder="tensorrt_rtx", targets=("7.5",)))
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"builder": "magic"}, "no builder 'magic'"),
        ({"opt_batch": 9, "max_batch": 8}, "choose 1 <= min_batch <= opt_batch <= max_batch"),
        ({"min_batch": 0}, "choose 1 <= min_batch"),
        ({"workspace_mib": -1}, "workspace_mib is -1"),
        ({"hardware_compatibility": "hopper"}, "choose ampere_plus or same_compute_capability"),
        ({"targets": ("9.0",)}, r"does not build for compute capability 9\.0"),
        ({"targets": ()}, "none given"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(HarError, match=words):
        EngineOptions(**options).check()


def test_a_missing_or_damaged_onnx_is_refused(tmp_path: Path, tiny_onnx: Path) -> None:
    with pytest.raises(ModelFileError, match="materialize onnx_model"):
        build_engine(tmp_path / "none.onnx", tmp_path / "model.engine", EngineOptions())
    (tmp_path / "cut.onnx").write_bytes(tiny_onnx.read_bytes()[:100])
    with pytest.raises(ModelFileError, match=r"cut\.onnx"):
        build_engine(tmp_path / "cut.onnx", tmp_path / "model.engine", EngineOptions())


@pytest.mark.skipif(gpu_compute_capability() is not None, reason="this machine has a GPU")
def test_without_a_gpu_auto_takes_tensorrt_rtx_and_says_why() -> None:
    assert choose_builder("auto") == ("tensorrt_rtx", "it builds without a GPU")
    with pytest.raises(HarError, match="TensorRT"):
        choose_builder("tensorrt")


class FakeTensorRT(SimpleNamespace):
    """What full TensorRT 10 and 11 differ in from each other and from TensorRT-RTX, and no more.

    TensorRT cannot be installed without a GPU machine of NVIDIA's network; the calls that all three share are
    tested on TensorRT-RTX above. Names are those of the documentation of 10.x and 11.x: 11 has no FP16 and INT8
    builder flags, and every network is strongly typed; it takes the flag STRONGLY_TYPED still and ignores it, here
    it is gone already.
    """

    def __init__(self, version: str) -> None:
        major = int(version.split(".", maxsplit=1)[0])
        self.__version__ = version
        flags = ["TF32", "VERSION_COMPATIBLE", *(["FP16", "INT8"] if major == 10 else [])]
        self.BuilderFlag = enum.Enum("BuilderFlag", flags)
        self.HardwareCompatibilityLevel = enum.Enum("Level", ["NONE", "AMPERE_PLUS"])
        self.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
        self.NetworkDefinitionCreationFlag = enum.IntEnum(
            "Flag", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1} if major == 10 else {"PREFER_JIT": 2}
        )
        self.ILogger = type("ILogger", (), {"Severity": enum.Enum("Severity", ["ERROR", "INFO", "VERBOSE"])})
        self.set: dict[str, Any] = {"flags": {"TF32"}}
        self.timed = 0
        self.config = SimpleNamespace(
            add_optimization_profile=lambda profile: None,
            set_memory_pool_limit=lambda pool, size: self.set.update({pool.name: size}),
            set_flag=lambda flag: self.set["flags"].add(flag.name),
            clear_flag=lambda flag: self.set["flags"].discard(flag.name),
            create_timing_cache=bytearray,
            set_timing_cache=self.take_timing_cache,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: self.timings),
        )
        self.timings = b""
        builder = SimpleNamespace(
            create_network=lambda flags: self.set.update(network=flags),
            create_builder_config=lambda: self.config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *shapes: None),
            build_serialized_network=self.build,
        )
        self.Builder = lambda logger: builder
        self.OnnxParser = lambda network, logger: SimpleNamespace(parse_from_file=lambda path: True)

    def take_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.timings = bytes(cache)
        return self.timings in (b"", b"timings")

    def build(self, network: object, config: object) -> bytes:
        self.timed += self.timings != b"timings"
        self.timings = b"timings"
        return b"engine"


@pytest.fixture(params=["10.14.1", "11.4.1"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    made = FakeTensorRT(request.param)
    monkeypatch.setattr(tensorrt, "choose_builder", lambda wanted: ("tensorrt", "as configured"))
    monkeypatch.setattr(tensorrt, "gpu_compute_capability", lambda: (9, 0))
    monkeypatch.setattr(tensorrt.importlib, "import_module", lambda name: made)
    return made


def test_tensorrt_10_and_11_build_strongly_typed_without_precision_flags(
    fake: FakeTensorRT, tiny_onnx: Path, tmp_path: Path
) -> None:
    options = EngineOptions(workspace_mib=64, hardware_compatibility="ampere_plus", version_compatible=True)
    sidecar = build_engine(tiny_onnx, tmp_path / "model.engine", options)
    assert fake.set["network"] == (2 if fake.__version__.startswith("10") else 0)
    assert fake.set["flags"] == {"VERSION_COMPATIBLE"}  # TF32, on by default, is off: float32 means float32
    assert fake.set["WORKSPACE"] == 64 << 20
    assert fake.config.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert sidecar["compute_capabilities"] == ["9.0"]
    assert (sidecar["hardware_compatibility"], sidecar["version_compatible"]) == ("ampere_plus", True)
    with pytest.raises(HarError, match="has no hardware_compatibility same_compute_capability"):
        build_engine(tiny_onnx, tmp_path / "m.engine", EngineOptions(hardware_compatibility="same_compute_capability"))


def test_the_timing_cache_is_kept_for_a_version_and_a_gpu(fake: FakeTensorRT, tiny_onnx: Path, tmp_path: Path) -> None:
    def build() -> str:
        options = EngineOptions()
        words = build_engine(tiny_onnx, tmp_path / "m.engine", options, timing_caches=tmp_path / "c")["timing_cache"]
        return str(words)

    assert build() == "0 bytes from earlier builds"
    cache = tmp_path / "c" / f"{fake.__version__}-sm9.0.cache"
    assert cache.read_bytes() == b"timings"
    assert build() == "7 bytes from earlier builds"
    assert fake.timed == 1
    cache.write_bytes(b"damaged")
    assert build() == "the earlier one did not fit and was replaced"
    assert cache.read_bytes() == b"timings"
    assert fake.timed == 2
