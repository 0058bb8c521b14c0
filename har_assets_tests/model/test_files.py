from pathlib import Path

import pytest

from har_assets.errors import ModelFileError
from har_assets.model.files import CHECKPOINT, ENGINE, KINDS, ONNX, kind_of, onnx_name
from har_assets.model.spec import ModelSpec


def test_names_that_published_products_have() -> None:
    assert {kind.asset: kind.file for kind in KINDS.values()} == {
        "onnx_model": "video_action_model.onnx",
        "trained_checkpoint": "video_action_model.ckpt",
        "trt_engine": "video_action_model.engine",
    }
    assert {kind.file for kind in KINDS.values()} == {CHECKPOINT, ONNX, ENGINE}
    assert onnx_name("int8") == "video_action_model.int8.onnx"


def test_a_file_is_of_a_kind_that_verifies_and_describes_it(
    tiny_checkpoint: Path, tiny_onnx: Path, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    for path in (tiny_checkpoint, tiny_onnx):
        kind = kind_of(path)
        assert kind.suffix == path.suffix
        kind.verify(path)
        spec, provenance = kind.describe(path)
        assert (spec, provenance.dataset) == (tiny_spec, "tiny")


@pytest.mark.parametrize("suffix", KINDS)
def test_every_kind_refuses_what_is_none_of_its_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    kind = KINDS[suffix]
    with pytest.raises(ModelFileError, match=f"There is no {kind.noun} .*: materialize {kind.asset} or name another"):
        kind_of(path)
    path.write_text("no model")
    for ask in (kind_of(path).verify, kind_of(path).describe):
        with pytest.raises(ModelFileError, match=f"{path.name}"):
            ask(path)


def test_other_files_are_of_no_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"is no model file: name one that ends in \.onnx or \.ckpt or \.engine"):
        kind_of(tmp_path / "none.pt2")
