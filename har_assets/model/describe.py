"""Spec and provenance of a verified model file: one function a kind of file, named in the table of `files.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from har_assets.errors import ModelFileError
from har_assets.model.files import KINDS, sidecar_path
from har_assets.model.integrity import verify, verify_engine
from har_assets.model.spec import ModelSpec, Provenance, from_metadata


def describe_checkpoint(path: Path) -> tuple[ModelSpec, Provenance]:
    """Spec and provenance of a checkpoint, which is loaded on the CPU; ModelFileError as of `load_checkpoint`."""
    from har_assets.model.lightning import load_checkpoint

    model = load_checkpoint(path)
    return model.spec, model.provenance


def describe_onnx(path: Path) -> tuple[ModelSpec, Provenance]:
    """Spec and provenance of an ONNX file; ModelFileError as of `verify`, or where it carries none."""
    return from_metadata({entry.key: entry.value for entry in verify(path).metadata_props}, str(path))


def describe_engine(path: Path) -> tuple[ModelSpec, Provenance]:
    """Spec and provenance of an engine; ModelFileError as of `verify_engine`, or where its JSON carries none."""
    return described_in(verify_engine(path)[1], path)


def described_in(fields: dict[str, Any], engine: Path) -> tuple[ModelSpec, Provenance]:
    """Spec and provenance in the verified fields of an engine's JSON; ModelFileError where they are not there."""
    if "spec" not in fields:
        raise ModelFileError(
            f"{sidecar_path(engine)} is not of this har_assets (it has no field 'spec'): materialize "
            f"{KINDS['.engine'].asset} again."
        )
    spec = ModelSpec.from_json(json.dumps(fields["spec"]))
    return spec, Provenance.from_json(json.dumps(fields.get("provenance", {})))
