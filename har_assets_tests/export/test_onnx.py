import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from har_assets.errors import HarError, ModelFileError
from har_assets.export.onnx import converted, export_onnx
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
    with pytest.raises(ModelFileError, match="is no model file: name one"):
        open_model(tmp_path / "model.txt")


def test_clips_of_another_shape_or_type_are_refused(tiny_onnx: Path) -> None:
    predictor = open_model(tiny_onnx, "onnxruntime_cpu")
    for clips in (np.zeros((1, 3, 4, 16, 17), np.uint8), np.zeros((1, 3, 4, 16, 16), np.float32)):
        with pytest.raises(ModelFileError, match=r"takes uint8 clips of shape \[batch, 3, 4, 16, 16\]"):
            predictor.predict(clips)


def test_an_operator_without_onnx_is_named_in_a_sentence() -> None:
    import torch

    class Airy(torch.nn.Module):
        def forward(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
            return torch.special.airy_ai(clips_BCTHW.float().mean((1, 2, 3, 4)))

    with pytest.raises(HarError) as caught:
        converted(Airy(), torch.zeros((2, 3, 2, 4, 4), dtype=torch.uint8), "airy")
    assert str(caught.value) == (
        "The network airy uses the operator aten.special_airy_ai, which cannot be exported to ONNX (opset 20): write "
        "it with other operators in har_assets/model/networks.py, or choose another network, and train again."
    )


def test_a_network_that_branches_on_values_is_refused_in_a_sentence() -> None:
    import torch

    class Branching(torch.nn.Module):
        def forward(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
            return clips_BCTHW.float() if clips_BCTHW.sum() > 0 else clips_BCTHW.float() * 2

    with pytest.raises(
        HarError, match=r"^The network moody cannot be exported to ONNX .* may not branch on values"
    ) as e:
        converted(Branching(), torch.zeros((2, 3, 2, 4, 4), dtype=torch.uint8), "moody")
    assert "\n" not in str(e.value)


def test_a_real_checkpoint_of_such_a_network_fails_in_that_sentence(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from har_assets.model.lightning import DeployedModel

    forward = DeployedModel.forward

    def unsupported(self: DeployedModel, clips_BCTHW: torch.Tensor) -> torch.Tensor:
        return torch.special.airy_ai(forward(self, clips_BCTHW))

    monkeypatch.setattr(DeployedModel, "forward", unsupported)
    with pytest.raises(HarError, match=r"uses the operator aten\.special_airy_ai"):
        export_onnx(tiny_checkpoint, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
