"""The published onnx_model, read from its record: precisions, their files and their parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from har_assets.errors import HarError
from har_assets.model.files import ONNX
from har_assets.store.record import Artifact


def published_precisions(onnx: Artifact) -> dict[str, dict[str, Any]]:
    """Precision to `file` and parity of what onnx_model has published; HarError for one of an older version."""
    rows = onnx.record.metadata.get("precisions")
    if not rows:
        raise HarError("onnx_model was published by an older version: materialize it again.")
    return {row["precision"]: row for row in rows}


def deployed_precision(onnx: Artifact) -> str:
    """Precision of `video_action_model.onnx`."""
    return next(name for name, row in published_precisions(onnx).items() if row["file"] == ONNX)


def published_onnx(onnx: Artifact, precision: str = "") -> Path:
    """The ONNX file of a precision, or the deployed one; HarError, with the way to it, where it was not published."""
    if not precision:
        return onnx.file(ONNX)
    published = published_precisions(onnx)
    if precision not in published:
        raise HarError(
            f"onnx_model was published in {', '.join(published)}, not in {precision}: materialize it with "
            f"precision: {precision}, or with also: [{precision}]."
        )
    return onnx.file(published[precision]["file"])


def parity_of(onnx: Artifact, precision: str) -> dict[str, Any]:
    """Figures of the parity of one precision, JSON-ready."""
    return {name: value for name, value in published_precisions(onnx)[precision].items() if name != "file"}


def refuse_failed_parity(artifact: Artifact, precision: str = "") -> None:
    """HarError unless the parity that was published with a model, or with one of its precisions, passed."""
    parity = parity_of(artifact, precision) if precision else artifact.record.metadata.get("parity")
    if not (isinstance(parity, dict) and parity.get("passed")):
        raise HarError(
            f"{artifact.record.asset} did not pass its parity gate: materialize it again and look at its metadata."
        )
