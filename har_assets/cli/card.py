"""`har card`: the model card of any model file, for those that were published before cards were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from har_assets.errors import HarError
from har_assets.store.record import FolderArtifact

if TYPE_CHECKING:
    from har_assets.model.spec import ModelSpec, Provenance


def card(
    model: Annotated[Path, typer.Argument(help="A .onnx or .ckpt file made here, of any version.")],
) -> None:
    """Print the model card (Markdown) of a model file: `har card FILE > README.md`. New versions bring theirs along."""
    from har_assets.model.networks import weights_licence
    from har_assets.report.card import model_card, training_facts

    spec, provenance = _described(model)
    published = FolderArtifact.read(model.resolve().parent)
    facts = []
    if published is not None:
        record = published.record
        if record.asset == "trained_checkpoint":
            facts += training_facts(record.metadata, record.config)
        facts.append(("Published", f"{record.asset} of {record.created[:10]}: {record.headline}"))
    text = model_card(spec, provenance, file=model.name, weights_licence=weights_licence(spec.network), facts=facts)
    sys.stdout.buffer.write(text.encode())


def _described(model: Path) -> tuple[ModelSpec, Provenance]:
    """What a model file says of itself; HarError where it is none."""
    if not model.is_file():
        raise HarError(f"{model} is no file: name a .onnx or .ckpt file.")
    if model.suffix == ".onnx":
        from har_assets.export.onnx import read_onnx

        _, spec, provenance = read_onnx(model)
        return spec, provenance
    if model.suffix == ".ckpt":
        from har_assets.model.lightning import load_checkpoint

        loaded = load_checkpoint(model, device="cpu")
        return loaded.spec, loaded.provenance
    raise HarError(f"{model} is no .onnx and no .ckpt file: name the one that it was made from.")
