import io
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from har_assets.errors import ModelFileError
from har_assets.model.integrity import SHA256_KEY, seal, seal_sidecar, verify, verify_checkpoint, verify_engine


def test_a_sealed_file_is_verified_and_unchanged(tiny_onnx: Path) -> None:
    proto = verify(tiny_onnx)
    assert proto.SerializeToString(deterministic=True) == tiny_onnx.read_bytes()
    assert [entry.key for entry in proto.metadata_props].count(SHA256_KEY) == 1


def test_sealing_again_replaces_the_seal(tiny_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(tiny_onnx)
    proto.producer_name = "another"
    seal(proto)
    (tmp_path / "again.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    assert verify(tmp_path / "again.onnx").producer_name == "another"


def test_one_bit_of_a_weight_is_noticed(tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    weight = onnx.numpy_helper.to_array(max(onnx.load(tiny_onnx).graph.initializer, key=lambda w: len(w.raw_data)))
    for source, check in ((tiny_onnx, verify), (tiny_checkpoint, verify_checkpoint)):
        content = bytearray(source.read_bytes())
        place = content.find(np.ascontiguousarray(weight).tobytes()[:64])
        place = len(content) // 2 if place < 0 else place
        content[place] ^= 1
        damaged = tmp_path / f"damaged{source.suffix}"
        damaged.write_bytes(content)
        with pytest.raises(ModelFileError, match="is damaged"):
            check(damaged)


def test_a_file_without_a_seal_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(tiny_onnx)
    del proto.metadata_props[-1]
    onnx.save(proto, tmp_path / "unsealed.onnx")
    with pytest.raises(ModelFileError, match="carries no checksum"):
        verify(tmp_path / "unsealed.onnx")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelFileError, match="holds no graph"):
        verify(tmp_path / "empty.onnx")


def test_what_is_no_zip_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        verify_checkpoint(tmp_path / "text.ckpt")
    with pytest.raises(ModelFileError, match="There is no checkpoint"):
        verify_checkpoint(tmp_path / "none.ckpt")


def test_records_of_a_checkpoint_carry_checksums(tiny_checkpoint: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(tiny_checkpoint.read_bytes())) as archive:
        assert all(entry.CRC for entry in archive.infolist() if entry.file_size)


def test_an_engine_and_its_json_belong_together(tmp_path: Path) -> None:
    import hashlib

    engine, sidecar = tmp_path / "m.engine", tmp_path / "m.engine.json"
    engine.write_bytes(b"engine")
    with pytest.raises(ModelFileError, match=r"m\.engine\.json is missing"):
        verify_engine(engine)
    fields = {"builder": "tensorrt", "engine_sha256": hashlib.sha256(b"engine").hexdigest()}
    sidecar.write_text(json.dumps(seal_sidecar(fields), indent=2))
    assert verify_engine(engine) == (b"engine", fields)
    assert seal_sidecar(seal_sidecar(fields)) == seal_sidecar(fields)

    sidecar.write_text(sidecar.read_text().replace("tensorrt", "tensorr_"))
    with pytest.raises(ModelFileError, match="checksum does not fit"):
        verify_engine(engine)
    sidecar.write_text(json.dumps(fields))
    with pytest.raises(ModelFileError, match="carries no checksum"):
        verify_engine(engine)
    sidecar.write_text("[]")
    with pytest.raises(ModelFileError, match=r"not JSON|carries no checksum"):
        verify_engine(engine)
    sidecar.write_text(json.dumps(seal_sidecar(fields)))
    engine.write_bytes(b"Engine")
    with pytest.raises(ModelFileError, match="SHA-256 differs"):
        verify_engine(engine)
