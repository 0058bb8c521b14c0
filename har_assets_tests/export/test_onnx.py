import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from har_assets.errors import ModelFileError
from har_assets.export.onnx import export_onnx
from har_assets.model.spec import ModelSpec, from_metadata
from har_assets.runtime import open_model


def test_onnx_and_checkpoint_agree_at_every_batch_size(tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    parent, child = open_model(tiny_checkpoint), open_model(tiny_onnx, "onnxruntime_cpu")
    rng = np.random.default_rng(0)
    for batch in (0, 1, 2, 7, 33):
        clips_BCTHW = rng.integers(0, 256, (batch, *parent.spec.clip_shape_CTHW), dtype=np.uint8)
        scores_BK = child.predict(clips_BCTHW)
        assert scores_BK.shape == (batch, 3)
        assert scores_BK.dtype == np.float32
        np.testing.assert_allclose(scores_BK, parent.predict(clips_BCTHW), atol=1e-5)


def test_the_file_takes_uint8_and_carries_its_spec(tiny_onnx: Path, tiny_spec: ModelSpec) -> None:
    proto = onnx.load(tiny_onnx)
    clips = proto.graph.input[0].type.tensor_type
    assert clips.elem_type == onnx.TensorProto.UINT8
    dims = [dim.dim_param or dim.dim_value for dim in clips.shape.dim]
    assert dims == ["batch", 3, 4, 16, 16]
    spec, provenance = from_metadata({p.key: p.value for p in proto.metadata_props}, "x")
    assert spec == tiny_spec
    assert (provenance.dataset, provenance.split) == ("tiny", 1)


def test_bytes_do_not_depend_on_the_folder(tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another" / "folder"
    elsewhere.mkdir(parents=True)
    again = export_onnx(shutil.copy(tiny_checkpoint, elsewhere / "m.ckpt"), elsewhere / "m.onnx")
    assert again.read_bytes() == tiny_onnx.read_bytes()
    assert b"har_assets/model" not in tiny_onnx.read_bytes()


def test_a_foreign_or_damaged_onnx_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    foreign = onnx.load(tiny_onnx)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ModelFileError, match="carries no har_assets model spec"):
        open_model(tmp_path / "foreign.onnx")
    (tmp_path / "cut.onnx").write_bytes(tiny_onnx.read_bytes()[:-500])
    with pytest.raises(ModelFileError, match="not a readable ONNX model"):
        open_model(tmp_path / "cut.onnx")
    with pytest.raises(ModelFileError, match="There is no ONNX file"):
        open_model(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="no model file that can be run"):
        open_model(tmp_path / "model.txt")


def test_clips_of_another_shape_or_type_are_refused(tiny_onnx: Path) -> None:
    predictor = open_model(tiny_onnx, "onnxruntime_cpu")
    for clips in (np.zeros((1, 3, 4, 16, 17), np.uint8), np.zeros((1, 3, 4, 16, 16), np.float32)):
        with pytest.raises(ModelFileError, match=r"takes uint8 clips of shape \[batch, 3, 4, 16, 16\]"):
            predictor.predict(clips)
