"""Whether a model file is byte for byte what was written: no library in C++ sees one that is not.

ONNX Runtime, OpenVINO, TensorRT and libtorch are not made for damaged files: some bytes take the process down,
and a flipped bit in a weight gives other scores without a word. So every file is verified in Python first:

    .ckpt          the CRC-32 that `torch.save` writes into its ZIP for each record, and that torch does not check
    .onnx          `har_assets.sha256` in its metadata, over the model without that entry
    .engine        `engine_sha256` in the JSON beside it, which carries `sidecar_sha256` over itself

These find accidents, not forgers: whoever can write the file can write its hash.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from har_assets.errors import ModelFileError
from har_assets.model.files import KINDS, ModelKind, sidecar_path
from har_assets.model.spec import ModelSpec, from_metadata

if TYPE_CHECKING:
    import onnx

SHA256_KEY = "har_assets.sha256"
"""Entry of an ONNX file's `metadata_props`."""

SIDECAR_KEY = "sidecar_sha256"
"""Field of an engine's JSON."""

_CHECKPOINT, _ONNX, _ENGINE = KINDS[".ckpt"], KINDS[".onnx"], KINDS[".engine"]


def seal(proto: onnx.ModelProto) -> None:
    """Add to a model, in its `metadata_props`, the SHA-256 of all the rest; an earlier entry is replaced.

    To be the last change before the file is written.
    """
    digest = _digest(proto)
    entry = proto.metadata_props.add()
    entry.key, entry.value = SHA256_KEY, digest


def verify(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and check its seal.

    What runs it should be given `SerializeToString()` of the result, so that it sees what was verified.

    Raises:
        ModelFileError: the file is missing, no ONNX, not of har_assets, without a seal, not what was sealed, or it
            names other files that hold its tensors.
    """
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        # Python's protobuf and not onnx.load, which would go on to open files that the model names.
        proto.ParseFromString(_content(path, _ONNX))
    except DecodeError:
        raise ModelFileError(f"{path} is not a readable ONNX model (damaged or cut off): export it again.") from None
    if not proto.HasField("graph"):
        raise ModelFileError(f"{path} is not a readable ONNX model (it holds no graph): export it again.")
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if SHA256_KEY not in metadata:
        from_metadata(metadata, str(path))
        raise ModelFileError(f"{path} carries no checksum ({SHA256_KEY}): export it again with this har_assets.")
    sealed = proto.metadata_props[-1]
    if sealed.key != SHA256_KEY or sealed.value != _digest(proto):
        raise ModelFileError(f"{path} is damaged (its checksum does not fit its content): export it again.")
    if _names_other_files(proto):
        raise ModelFileError(
            f"{path} keeps tensors in other files, which are never opened: export it again with har_assets."
        )
    seal(proto)
    return proto


def refuse_false_spec(proto: onnx.ModelProto, spec: ModelSpec, path: Path) -> None:
    """ModelFileError unless the graph takes the clips and gives the classes that the spec in its metadata says."""

    def shape_of(values: Any) -> list[int]:
        shape = values[0].type.tensor_type.shape if len(values) == 1 else None
        return [dimension.dim_value for dimension in shape.dim[1:]] if shape else []  # without the batch

    takes, gives = shape_of(proto.graph.input), shape_of(proto.graph.output)
    if takes != list(spec.clip_shape_CTHW) or gives != [spec.num_classes]:
        raise ModelFileError(
            f"{path} contradicts itself (its graph makes {gives} scores of clips {takes}, its spec says "
            f"{spec.num_classes} of {list(spec.clip_shape_CTHW)}): export it again."
        )


def _names_other_files(message: Any) -> bool:
    """Whether a tensor anywhere in an ONNX message, subgraphs included, lies in another file (`data_location`)."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        return bool(message.data_location == onnx.TensorProto.EXTERNAL or message.external_data)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else (value,):
            if _names_other_files(inner):
                return True
    return False


def _digest(proto: onnx.ModelProto) -> str:
    """SHA-256 of the deterministic serialization without the seal, which is taken out of `proto`."""
    for index in reversed(range(len(proto.metadata_props))):
        if proto.metadata_props[index].key == SHA256_KEY:
            del proto.metadata_props[index]
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def verify_checkpoint(path: Path) -> None:
    """Check every record of a checkpoint against the CRC-32 in its ZIP directory.

    Raises:
        ModelFileError: the file is missing, no ZIP, or a record is damaged.
    """
    if not path.is_file():
        raise _CHECKPOINT.missing(path)
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    # The ZIP reader of the standard library raises these of a damaged directory.
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        OverflowError,
    ) as error:
        raise ModelFileError(
            f"{path} is not a readable {_CHECKPOINT.noun} ({_first_line(error)}): train again or name another file."
        ) from None
    if broken is not None:
        raise ModelFileError(
            f"{path} is damaged (the record {broken} has another checksum): restore or train it again."
        )


def seal_sidecar(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an engine's JSON and, as `sidecar_sha256`, the hash of them; an earlier one is replaced."""
    content = {name: value for name, value in fields.items() if name != SIDECAR_KEY}
    return {**content, SIDECAR_KEY: _hash_of_json(content)}


def verify_engine(engine: Path) -> tuple[bytes, dict[str, Any]]:
    """Read an engine and the JSON beside it, and check both hashes.

    Returns:
        The bytes of the engine and the fields of the JSON.

    Raises:
        ModelFileError: one of the two is missing, damaged, or does not belong to the other.
    """
    content = _content(engine, _ENGINE)
    sidecar = sidecar_path(engine)
    again = f"materialize {_ENGINE.asset} again"
    if not sidecar.is_file():
        raise ModelFileError(
            f"{sidecar.name} is missing beside {engine}: copy it along, it says what the {_ENGINE.noun} runs on."
        )
    try:
        fields = json.loads(sidecar.read_bytes())
    except (ValueError, RecursionError):
        raise ModelFileError(f"{sidecar} is damaged (it is not JSON): {again}.") from None
    sealed = fields.pop(SIDECAR_KEY, None) if isinstance(fields, dict) else None
    if sealed is None:
        raise ModelFileError(f"{sidecar} carries no checksum ({SIDECAR_KEY}): {again}.")
    if sealed != _hash_of_json(fields):
        raise ModelFileError(f"{sidecar} is damaged (its checksum does not fit its content): {again}.")
    if hashlib.sha256(content).hexdigest() != fields.get("engine_sha256"):
        raise ModelFileError(
            f"{engine} is damaged, or {sidecar.name} belongs to another {_ENGINE.noun} (the SHA-256 differs): copy "
            f"both again or materialize {_ENGINE.asset}."
        )
    return content, fields


def _content(path: Path, kind: ModelKind) -> bytes:
    if not path.is_file():
        raise kind.missing(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}): mend that or name another file.") from None


def _hash_of_json(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
