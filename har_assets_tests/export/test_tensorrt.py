import hashlib
import json
from pathlib import Path

import pytest

from har_assets.errors import HarError, ModelFileError
from har_assets.export.tensorrt import EngineOptions, build_engine, choose_builder, sidecar_path
from har_assets.gpu import gpu_compute_capability


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


def test_a_gpu_without_the_operation_is_named(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="could not build an engine"):
        build_engine(tiny_onnx, tmp_path / "model.engine", EngineOptions(builder="tensorrt_rtx", targets=("7.5",)))
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"builder": "magic"}, "no builder 'magic'"),
        ({"opt_batch": 9, "max_batch": 8}, "choose 1 <= opt_batch <= max_batch"),
        ({"targets": ("9.0",)}, r"does not build for compute capability 9\.0"),
        ({"targets": ()}, "none given"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(HarError, match=words):
        EngineOptions(**options)  # type: ignore[arg-type]


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
