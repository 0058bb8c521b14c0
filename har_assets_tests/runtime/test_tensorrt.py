"""What of an engine can be tested without a GPU that runs it: every refusal, and the parity of the first load."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from har_assets.errors import ModelFileError
from har_assets.export.engine_options import EngineOptions
from har_assets.export.tensorrt import build_engine
from har_assets.model.files import sidecar_path
from har_assets.model.integrity import seal_sidecar, verify_engine
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.runtime import available_runtimes, open_model, read_spec, tensorrt
from har_assets.runtime.predictor import Predictor, Scores
from har_assets.runtime.tensorrt import EnginePredictor, why_not_engine
from har_assets.system.gpu import gpu_compute_capability
from har_assets.video.sampling import Clips

without_gpu = pytest.mark.skipif(gpu_compute_capability() is not None, reason="this machine has a GPU")


@pytest.fixture(scope="session")
def built_engine(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    build_engine(tiny_onnx, path, EngineOptions(builder="tensorrt_rtx", targets=("8.6", "8.9"), max_batch=8))
    return path


@pytest.fixture
def engine(built_engine: Path, tmp_path: Path) -> Path:
    shutil.copy(sidecar_path(built_engine), tmp_path)
    return Path(shutil.copy(built_engine, tmp_path))


def rewrite(engine: Path, **changed: Any) -> dict[str, Any]:
    """Other fields in the JSON, sealed again; returns them."""
    fields = {**json.loads(sidecar_path(engine).read_text()), **changed}
    sidecar_path(engine).write_text(json.dumps(seal_sidecar(fields)))
    return fields


@without_gpu
def test_without_a_gpu_an_engine_is_refused_in_a_sentence(engine: Path) -> None:
    for runtime in ("auto", "tensorrt_rtx"):
        with pytest.raises(ModelFileError, match=r"capability 8\.6, 8\.9 and there is no CUDA GPU .* run the ONNX"):
            open_model(engine, runtime)
    with pytest.raises(ModelFileError, match="cannot run in tensorrt, as it was built by TensorRT-RTX: choose"):
        open_model(engine, "tensorrt")
    reasons = {found.name: found.reason for found in available_runtimes(engine)}
    assert "no CUDA GPU" in reasons["tensorrt_rtx"]
    assert reasons["tensorrt"] == "it was built by TensorRT-RTX: choose the runtime tensorrt_rtx"
    assert reasons["openvino"] == "it runs .onnx files"


def test_the_spec_is_read_from_the_json(engine: Path, tiny_spec: ModelSpec) -> None:
    assert read_spec(engine) == tiny_spec


@pytest.mark.parametrize("damage", ["flip", "cut", "other", "json flip", "json cut", "no json"])
def test_a_damaged_engine_is_refused_before_anything_else(engine: Path, damage: str) -> None:
    target = sidecar_path(engine) if damage.startswith("json") else engine
    content = bytearray(target.read_bytes())
    if "flip" in damage:
        content[len(content) // 2] ^= 4
    elif "cut" in damage:
        del content[-100:]
    elif damage == "other":
        content = bytearray(b"another engine")
    target.write_bytes(content)
    if damage == "no json":
        sidecar_path(engine).unlink()
    for runtime in ("auto", "tensorrt", "tensorrt_rtx"):
        with pytest.raises(ModelFileError, match=r"damaged|missing beside"):
            open_model(engine, runtime)
    with pytest.raises(ModelFileError, match=r"damaged|missing beside"):
        read_spec(engine)


class TestFit:
    """Whether an engine fits a machine, on machines that it is told of."""

    @pytest.fixture
    def fields(self) -> dict[str, Any]:
        import tensorrt_rtx

        return {
            "builder": "tensorrt_rtx",
            "builder_version": tensorrt_rtx.__version__,
            "compute_capabilities": ["8.6", "8.9"],
        }

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        self.put = lambda capability: monkeypatch.setattr(tensorrt, "gpu_compute_capability", lambda: capability)
        self.put((8, 9))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def test_it_fits(self, fields: dict[str, Any]) -> None:
        assert why_not_engine(fields) == ""

    def test_another_gpu(self, fields: dict[str, Any]) -> None:
        self.put((9, 0))
        assert "8.6, 8.9 and this machine's has 9.0" in why_not_engine(fields)

    def test_ampere_plus_takes_later_gpus_and_no_earlier_ones(self, fields: dict[str, Any]) -> None:
        fields["hardware_compatibility"] = "ampere_plus"
        self.put((12, 0))
        assert why_not_engine(fields) == ""
        self.put((7, 5))
        assert "from compute capability 8.0 on" in why_not_engine(fields)

    def test_another_version(self, fields: dict[str, Any]) -> None:
        here = fields["builder_version"]
        fields["builder_version"] = here.split(".")[0] + ".0.0"
        assert f"and {here} is installed" in why_not_engine(fields)
        fields["version_compatible"] = True
        assert why_not_engine(fields) == ""
        fields["builder_version"] = "999.0"
        assert "was built by TensorRT-RTX 999.0" in why_not_engine(fields)

    def test_another_builder(self, fields: dict[str, Any]) -> None:
        assert "choose the runtime tensorrt_rtx" in why_not_engine(fields, "tensorrt")
        assert "which is not known" in why_not_engine({**fields, "builder": "magic"})
        assert "TensorRT is not installed" in why_not_engine({**fields, "builder": "tensorrt"})

    @pytest.mark.parametrize(
        "wrong", [{"builder": []}, {"builder": None}, {"compute_capabilities": 7}, {"compute_capabilities": [[]]}]
    )
    def test_fields_of_a_wrong_kind_are_a_reason_too(self, fields: dict[str, Any], wrong: dict[str, Any]) -> None:
        self.put((9, 0))
        assert why_not_engine({**fields, **wrong})


@without_gpu
def test_an_engine_of_an_unknown_builder_is_refused_once(engine: Path) -> None:
    rewrite(engine, builder="magic")
    with pytest.raises(
        ModelFileError, match="cannot run here, as it was built by magic, which is not known: mat"
    ) as found:
        open_model(engine)
    assert str(found.value).count("magic") == 1


@without_gpu
def test_fields_of_another_kind_are_refused(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "why_not_engine", lambda fields, name: "")
    fields = rewrite(engine)
    for name in ("batch", "spec", "input"):
        sidecar_path(engine).write_text(json.dumps(seal_sidecar({k: v for k, v in fields.items() if k != name})))
        with pytest.raises(ModelFileError, match=r"is not of this har_assets|spec cannot be read"):
            open_model(engine)


class Standing(EnginePredictor):
    """The comparison of the first load, with scores that are given instead of computed."""

    def __init__(self, spec: ModelSpec, scores_BK: Scores) -> None:
        Predictor.__init__(self, spec, Provenance())
        self.name, self.runtime = "tensorrt_rtx", "TensorRT-RTX 1.7 on a GPU"
        self.scores_BK, self.asked = scores_BK, 0

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        self.asked += 1
        return self.scores_BK


class TestFirstLoad:
    """The scores of an engine against those of its ONNX file."""

    @pytest.fixture
    def scores_BK(self, engine: Path, tiny_spec: ModelSpec) -> Scores:
        found_BK = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], np.float32)
        np.savez(
            engine.with_name("tiny.engine.reference.npz"),
            clips_BCTHW=np.zeros((2, *tiny_spec.clip_shape_CTHW), np.uint8),
            scores_BK=found_BK,
        )
        gates = {"measured": False, "reason": "no GPU", "max_difference_allowed": 0.01, "top1_agreement_required": 1.0}
        self.fields = rewrite(engine, parity=gates)
        return found_BK

    def test_equal_scores_are_written_down_and_not_compared_again(
        self, engine: Path, tiny_spec: ModelSpec, scores_BK: Scores
    ) -> None:
        predictor = Standing(tiny_spec, scores_BK + 0.005)
        for _ in range(2):
            predictor._compare_with_parent(engine, self.fields)
        assert predictor.asked == 1
        found = json.loads(engine.with_name("tiny.engine.parity.json").read_text())
        assert found["passed"] is True
        assert found["max_difference"] == pytest.approx(0.005, abs=1e-6)
        assert found["engine_sha256"] == hashlib.sha256(engine.read_bytes()).hexdigest()
        predictor.runtime = "another GPU"
        predictor._compare_with_parent(engine, self.fields)
        assert predictor.asked == 2

    def test_other_scores_are_refused_each_time(self, engine: Path, tiny_spec: ModelSpec, scores_BK: Scores) -> None:
        predictor = Standing(tiny_spec, scores_BK[::-1])
        for _ in range(2):
            with pytest.raises(ModelFileError, match=r"other scores than its ONNX file .* \(allowed 0\.01\)"):
                predictor._compare_with_parent(engine, self.fields)
        assert json.loads(engine.with_name("tiny.engine.parity.json").read_text())["passed"] is False

    def test_a_folder_that_cannot_be_written_is_no_hindrance(
        self, engine: Path, tiny_spec: ModelSpec, scores_BK: Scores, caplog: pytest.LogCaptureFixture
    ) -> None:
        # A folder in its place: permissions do not stop root.
        engine.with_name("tiny.engine.parity.json").mkdir()
        with caplog.at_level(logging.WARNING):
            Standing(tiny_spec, scores_BK)._compare_with_parent(engine, self.fields)
        assert "cannot be written" in caplog.text
        assert not list(engine.parent.glob("*.partial"))

    def test_a_missing_or_damaged_reference_is_refused(
        self, engine: Path, tiny_spec: ModelSpec, scores_BK: Scores
    ) -> None:
        reference = engine.with_name("tiny.engine.reference.npz")
        reference.write_bytes(reference.read_bytes()[:-40])
        with pytest.raises(ModelFileError, match="is damaged"):
            Standing(tiny_spec, scores_BK)._compare_with_parent(engine, self.fields)
        reference.unlink()
        with pytest.raises(ModelFileError, match="is missing, with which the engine is compared"):
            Standing(tiny_spec, scores_BK)._compare_with_parent(engine, self.fields)

    def test_one_that_was_measured_where_it_was_built_is_not_compared(
        self, engine: Path, tiny_spec: ModelSpec, scores_BK: Scores
    ) -> None:
        predictor = Standing(tiny_spec, scores_BK)
        predictor._compare_with_parent(engine, {**self.fields, "parity": {"measured": True}})
        assert predictor.asked == 0


@pytest.mark.gpu
def test_an_engine_gives_the_scores_of_its_onnx(tiny_onnx: Path, tmp_path: Path) -> None:
    capability = gpu_compute_capability()
    if capability is None:
        pytest.skip("there is no CUDA GPU")
    here = ".".join(map(str, capability))
    path = tmp_path / "here.engine"
    try:
        build_engine(tiny_onnx, path, EngineOptions(targets=(here,), max_batch=8))
    except Exception as error:  # noqa: BLE001 - a GPU that the builder does not know
        pytest.skip(str(error))
    parent, child = open_model(tiny_onnx, "onnxruntime_cpu"), open_model(path)
    clips_BCTHW = np.random.default_rng(0).integers(0, 256, (11, *parent.spec.clip_shape_CTHW), np.uint8)
    np.testing.assert_allclose(child.predict(clips_BCTHW), parent.predict(clips_BCTHW), atol=1e-4)


def test_the_sidecar_of_the_builder_is_sealed(built_engine: Path) -> None:
    _, fields = verify_engine(built_engine)
    assert fields["batch"] == {"min": 1, "opt": 8, "max": 8}
