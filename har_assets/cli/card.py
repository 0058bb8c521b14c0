"""`har card`: the model card of any model file, or the latest model and its card on the Hugging Face Hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from har_assets.cli.output import Store
from har_assets.errors import HarError
from har_assets.model.files import KINDS, kind_of
from har_assets.store.opening import open_store
from har_assets.store.record import FolderArtifact


def card(
    model: Annotated[
        Path | None, typer.Argument(help=f"A {' or '.join(KINDS)} file made here, of any version.")
    ] = None,
    push: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="Repository of the Hugging Face Hub that gets the latest model.")
    ] = "",
    private: Annotated[bool, typer.Option("--private", help="Create that repository as a private one.")] = False,
    store: Store = "",
) -> None:
    """Print the model card (Markdown) of a model file: `har card FILE > README.md`. New versions bring theirs along.

    `har card --push OWNER/NAME` uploads the latest ONNX file and checkpoint with the card of evaluation_report.
    """
    if (model is None) != bool(push) or (private and not push):
        raise HarError("Name a model file, or a repository with --push (and --private), not both.")
    if model is None:
        from har_assets.export.hub import push_model

        print(push_model(open_store(store), push, private=private))
        return
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
