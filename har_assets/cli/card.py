"""`har card`: the model card of any model file, for those that were published before cards were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from har_assets.model.files import KINDS, kind_of
from har_assets.store.record import FolderArtifact


def card(
    model: Annotated[Path, typer.Argument(help=f"A {' or '.join(KINDS)} file made here, of any version.")],
) -> None:
    """Print the model card (Markdown) of a model file: `har card FILE > README.md`. New versions bring theirs along."""
    from har_assets.model.networks import weights_licence
    from har_assets.report.card import model_card, training_facts

    spec, provenance = kind_of(model).describe(model)
    published = FolderArtifact.read(model.resolve().parent)
    facts = []
    if published is not None:
        record = published.record
        if record.asset == "trained_checkpoint":
            facts += training_facts(record.metadata, record.config)
        facts.append(("Published", f"{record.asset} of {record.created[:10]}: {record.headline}"))
    text = model_card(spec, provenance, file=model.name, weights_licence=weights_licence(spec.network), facts=facts)
    sys.stdout.buffer.write(text.encode())
