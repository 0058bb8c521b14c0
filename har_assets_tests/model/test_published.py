from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError
from har_assets.model.files import ONNX
from har_assets.model.published import (
    deployed_precision,
    parity_of,
    published_onnx,
    published_precisions,
    refuse_failed_parity,
)
from har_assets.store.record import Artifact
from har_assets_tests.builds import published

ROWS = [
    {"precision": "fp32", "file": "video_action_model.fp32.onnx", "clips": 9, "passed": True},
    {"precision": "fp16", "file": ONNX, "clips": 9, "passed": True},
    {"precision": "int8", "file": "video_action_model.int8.onnx", "clips": 9, "passed": False},
]


@pytest.fixture
def onnx(tmp_path: Path, tiny_onnx: Path) -> Artifact:
    files = {str(row["file"]): tiny_onnx for row in ROWS}
    return published(tmp_path, "onnx_model", files, metadata={"precisions": ROWS, "parity": {"passed": True}})


def test_the_deployed_file_and_each_precision_are_found(onnx: Artifact) -> None:
    assert list(published_precisions(onnx)) == ["fp32", "fp16", "int8"]
    assert deployed_precision(onnx) == "fp16"
    assert published_onnx(onnx) == published_onnx(onnx, "fp16") == onnx.folder / ONNX
    assert published_onnx(onnx, "int8") == onnx.folder / "video_action_model.int8.onnx"
    assert parity_of(onnx, "int8") == {"precision": "int8", "clips": 9, "passed": False}


def test_a_precision_that_was_not_published_is_a_sentence_with_the_way_to_it(tmp_path: Path, tiny_onnx: Path) -> None:
    alone = {"precision": "fp32", "file": ONNX, "passed": True}
    onnx = published(tmp_path, "onnx_model", {ONNX: tiny_onnx}, metadata={"precisions": [alone]})
    with pytest.raises(HarError, match=r"published in fp32, not in int8: .* precision: int8, or with also: \[int8\]"):
        published_onnx(onnx, "int8")


def test_a_failed_gate_is_refused_by_precision(onnx: Artifact) -> None:
    refuse_failed_parity(onnx)
    refuse_failed_parity(onnx, "fp16")
    with pytest.raises(HarError, match="onnx_model did not pass its parity gate"):
        refuse_failed_parity(onnx, "int8")


@pytest.mark.parametrize("parity", [None, "not measured", {}, {"passed": False}])
def test_a_model_without_a_passed_gate_is_refused(tmp_path: Path, parity: Any) -> None:
    engine = published(tmp_path, "trt_engine", {}, metadata={"parity": parity})
    with pytest.raises(HarError, match="trt_engine did not pass its parity gate: materialize it again"):
        refuse_failed_parity(engine)


def test_a_record_of_an_older_version_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HarError, match="published by an older version: materialize it again"):
        deployed_precision(published(tmp_path, "onnx_model", {}))
