"""Products of onnx_model and trt_engine, built from a tiny network without Dagster."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from har_assets.errors import HarError
from har_assets.export.deploy import build_onnx, build_trt_engine
from har_assets.export.options import OnnxOptions, TrtEngineOptions
from har_assets.export.precision import precision_of
from har_assets.export.tensorrt import engine_holds
from har_assets.model.files import CHECKPOINT, ENGINE, ONNX, onnx_name, reference_path, sidecar_path
from har_assets.runtime.parity import ParityError
from har_assets.store.product import Build
from har_assets.system.gpu import gpu_compute_capability
from har_assets_tests.builds import build_of, data_of, published

LOOSE = {"top1_agreement": {"fp16": 0.8, "int8": 0.8}}
"""The tiny network is untrained: its scores are nearly equal, so that rounding may change the highest."""


@pytest.fixture
def from_checkpoint(tmp_path: Path, tiny_checkpoint: Path, tiny_cache: Path) -> Build:
    checkpoint = published(tmp_path, "trained_checkpoint", {CHECKPOINT: tiny_checkpoint})
    return build_of(tmp_path, checkpoint, *data_of(tmp_path, tiny_cache))


@pytest.fixture
def from_onnx(tmp_path: Path, tiny_onnx: Path, tiny_cache: Path) -> Build:
    rows = [{"precision": "fp32", "file": ONNX, "passed": True}]
    model = published(tmp_path, "onnx_model", {ONNX: tiny_onnx}, metadata={"precisions": rows})
    return build_of(tmp_path, model, *data_of(tmp_path, tiny_cache))


def test_a_product_is_an_onnx_file_a_precision_and_a_card_with_its_parity(from_checkpoint: Build) -> None:
    said: list[str] = []
    product = build_onnx(from_checkpoint, OnnxOptions(precision="int8", **LOOSE), said.append)
    assert sorted(path.name for path in from_checkpoint.folder.iterdir()) == ["README.md", onnx_name("fp32"), ONNX]
    assert precision_of(onnx.load(from_checkpoint.folder / ONNX)) == "int8"
    assert product.headline.startswith("int8, parity on 15 windows: max |difference| ")
    assert product.clips == product.metadata["parity"]["clips"] == 15
    assert product.metadata["notes"] == ["int8 was calibrated on 15 windows of the val videos"]
    assert product.metadata["compared"].endswith("on 15 windows of the test videos")
    check = product.checks["parity_with_checkpoint"]
    assert [(row["precision"], row["file"]) for row in check["precisions"]] == [
        ("fp32", onnx_name("fp32")),
        ("int8", ONNX),
    ]
    assert " of 15 windows, max " in (from_checkpoint.folder / "README.md").read_text()
    assert said[0] == "Comparing fp32, int8 on 15 windows of the test videos."


def test_a_gate_that_does_not_hold_ends_the_build(from_checkpoint: Build) -> None:
    with pytest.raises(ParityError, match=r"The int8 model differs from its parent .* of 15 windows .* not published"):
        build_onnx(from_checkpoint, OnnxOptions(also=["int8"], max_difference={"int8": 1e-9}), print)


def test_an_impossible_option_ends_the_build_before_any_work(from_checkpoint: Build) -> None:
    with pytest.raises(HarError, match="choose 1 or more, or 0 for every window"):
        build_onnx(from_checkpoint, OnnxOptions(parity_windows=-1), print)
    assert list(from_checkpoint.folder.iterdir()) == []


def engine_options(**fields: Any) -> TrtEngineOptions:
    return TrtEngineOptions(builder="tensorrt_rtx", targets=["8.6"], **LOOSE, **fields)


def test_an_engine_has_its_sidecar_and_a_reference(from_onnx: Build) -> None:
    product = build_trt_engine(from_onnx, engine_options(), timing_caches=None, log=print)
    path = from_onnx.folder / ENGINE
    sidecar = json.loads(sidecar_path(path).read_text())
    assert product.headline.startswith("tensorrt_rtx ")
    assert product.headline.endswith(" kB, for SM 8.6")
    assert product.metadata["onnx"] == ONNX
    assert product.metadata["engine_sha256"] == sidecar["engine_sha256"]
    with np.load(reference_path(path)) as reference:
        assert reference["clips_BCTHW"].shape == (8, 3, 4, 16, 16)
    if gpu_compute_capability() is None:
        assert product.metadata["parity"] == f"not measured: {sidecar['parity']['reason']}"
        check = product.checks["parity_with_onnx"]
        assert (check["passed"], check["warning"], check["measured"]) == (False, True, False)
        assert engine_holds(published(from_onnx.work, "trt_engine", {}, metadata=product.metadata))


def test_an_engine_of_an_unpublished_precision_is_built_from_an_onnx_file_of_its_own(from_onnx: Build) -> None:
    product = build_trt_engine(from_onnx, engine_options(precision="int8"), timing_caches=None, log=print)
    assert (from_onnx.folder / onnx_name("int8")).is_file()
    assert product.metadata["onnx"] == onnx_name("int8")
    assert product.metadata["onnx_parity"]["passed"]
    calibrated, compared = product.metadata["notes"]
    assert calibrated == "int8 was calibrated on 15 windows of the val videos"
    assert compared.startswith(f"int8 from {ONNX} of onnx_model on 15 windows of the test videos: same top-1 ")


def test_an_impossible_engine_is_refused_before_any_work(from_onnx: Build) -> None:
    with pytest.raises(HarError, match="choose 1 <= min_batch"):
        build_trt_engine(from_onnx, engine_options(min_batch=9), timing_caches=None, log=print)
    assert list(from_onnx.folder.iterdir()) == []


def test_an_engine_that_was_not_compared_is_made_again_where_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from har_assets.runtime import tensorrt

    figures = {"builder": "tensorrt_rtx", "builder_version": "1", "compute_capabilities": ["8.6"], "parity": "not"}
    engine = published(tmp_path, "trt_engine", {}, metadata=figures)
    monkeypatch.setattr(tensorrt, "_why_not_installed", lambda *_: "")
    monkeypatch.setattr(tensorrt, "gpu_compute_capability", lambda: (8, 6))
    assert not engine_holds(engine)
    monkeypatch.setattr(tensorrt, "gpu_compute_capability", lambda: (9, 0))
    assert engine_holds(engine)
    monkeypatch.setattr(tensorrt, "gpu_compute_capability", lambda: (8, 6))
    compared = published(tmp_path / "compared", "trt_engine", {}, metadata={**figures, "parity": {"passed": True}})
    assert engine_holds(compared)
