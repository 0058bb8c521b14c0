"""The product of evaluation_report: a page about a model's test figures, its model card, and PNGs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from har_assets.dataset.groups import INFERRED, UNKNOWN, knowledge_of
from har_assets.dataset.manifests import read_manifest
from har_assets.model.files import CARD, CHECKPOINT, CURVES, ONNX
from har_assets.model.lightning import load_checkpoint
from har_assets.model.networks import weights_licence
from har_assets.model.saliency import why_no_saliency
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.report.card import model_card, training_facts
from har_assets.report.cards import Card, choose_clips, make_card
from har_assets.report.content import Evaluation, Report, evaluate_with_intervals
from har_assets.report.html import render_page
from har_assets.report.options import PAGE, PREDICTION_TABLE, PREDICTIONS, ReportOptions
from har_assets.report.plots import plot_class_accuracy, plot_reliability, plot_strips
from har_assets.runtime.evaluation import evaluate
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact, refuse_other_parents
from har_assets.system.files import Log
from har_assets.video.frame_cache import FrameCache

RELIABILITY = "reliability.png"
CLASS_ACCURACY = "class_accuracy.png"
MISTAKES = "mistakes.png"
SHEET_CLIPS = 4
"""Mistakes in the picture for the web UI."""


@dataclass(frozen=True)
class Links:
    """Addresses that the page shows."""

    asset: Callable[[str], str]
    """Page of an asset, by its name."""
    mlflow_run: Callable[[str], str]
    """Page of an MLflow run, by its id; empty where there is none."""
    dagster_run: str
    """Page of the run that makes the report."""


def build_report(
    build: Build, options: ReportOptions, *, videos: Callable[[], Path], links: Links, log: Log
) -> Product:
    """The product of evaluation_report.

    Args:
        build: inputs test_predictions, onnx_model, trained_checkpoint, test_manifest and frame_cache.
        options: what is shown of single videos.
        videos: gives the folder that the names of clips are relative to; asked where videos are shown.
        links: addresses that the page shows.
        log: takes a line a step.

    Raises:
        HarError: the inputs were not made from each other, or there is no test video.
    """
    inputs = build.inputs
    parents = [("test_predictions", parent) for parent in ("onnx_model", "test_manifest", "frame_cache")]
    pairs = [*parents, ("onnx_model", "trained_checkpoint")]
    refuse_other_parents([(inputs[child], inputs[parent]) for child, parent in pairs], "evaluation_report")
    found, spec, provenance, cards = _evaluate(inputs, options, videos, log)
    title = f"{spec.network} on {found.videos:,} test videos{' (synthetic data)' if provenance.synthetic else ''}"
    pictures = _draw(build.folder, found, cards.wrong, title)
    checkpoint = inputs["trained_checkpoint"].record
    training = training_facts(checkpoint.metadata, checkpoint.config)
    _write_page(build, found, spec, provenance, cards, training, links)
    _write_card(build, found, spec, provenance, training, pictures)
    figures = found.figures()
    build.run.tags({"groups": found.groups})
    build.run.metrics({f"test_video_{name}": value for name, value in figures.items()})
    for name in (PAGE, CARD, *pictures):
        build.run.file(build.folder / name)
    top1 = found.top1
    return Product(
        headline=f"test top-1 {top1.value:.3f} (95 % interval {top1.low:.3f} to {top1.high:.3f}), "
        f"{found.wrong:,} wrong of {title.partition(' on ')[2]}{_films(found)}",
        metadata={
            **figures,
            "videos": found.videos,
            **({"films": found.films} if found.groups != UNKNOWN else {}),
            "groups": found.groups,
            "groups_found": found.groups_found,
            "wrong": found.wrong,
            "quarantined": found.quarantined,
            "confusions": [dataclasses.asdict(each) for each in found.confusions],
            "page_bytes": (build.folder / PAGE).stat().st_size,
        },
        pictures=pictures,
    )


def _films(found: Evaluation) -> str:
    """From how many films the videos are, as far as that is known."""
    if found.groups == UNKNOWN:
        return ", split by file: expect less on new recordings"
    return f" of {found.films:,} {'inferred recordings' if found.groups == INFERRED else 'films'}"


@dataclass(frozen=True)
class _Cards:
    """Cards of single videos, and why they do not show what spoke for the answer."""

    wrong: list[Card]
    right: list[Card]
    windows: int
    no_saliency: str


def _evaluate(
    inputs: Mapping[str, Artifact], options: ReportOptions, videos: Callable[[], Path], log: Log
) -> tuple[Evaluation, ModelSpec, Provenance, _Cards]:
    """Everything that is computed: figures, and what spoke for some answers."""
    predicted = inputs["test_predictions"]
    predictions = PREDICTION_TABLE.read(predicted.file(PREDICTIONS))
    scores_NK = np.load(predicted.file("scores.npy"))
    model = load_checkpoint(
        inputs["trained_checkpoint"].file(CHECKPOINT), device="cuda" if torch.cuda.is_available() else "cpu"
    )
    labels = model.spec.labels
    _, confusion_KK = evaluate(predictions, labels)
    knowledge = knowledge_of(inputs["test_manifest"].record.metadata)
    found = evaluate_with_intervals(predictions, _test_manifest(inputs), labels, confusion_KK, knowledge)
    why_not = why_no_saliency(model.spec.network) if options.saliency else "that was switched off"
    wrong, right = choose_clips(predictions, labels, options.mistakes, options.right)
    log(f"Pictures of {len(wrong)} wrong and {len(right)} right answers.")
    cache = FrameCache(inputs["frame_cache"].folder)
    windows = int(predicted.record.metadata["windows"])

    def cards(rows: list[int]) -> list[Card]:
        return [
            make_card(
                predictions.loc[row],
                scores_NK[row],
                model,
                cache,
                videos(),
                windows=windows,
                saliency=not why_not,
            )
            for row in rows
        ]

    return found, model.spec, model.provenance, _Cards(cards(wrong), cards(right), windows, why_not)


def _draw(folder: Path, found: Evaluation, mistakes: list[Card], title: str) -> tuple[str, ...]:
    """PNG files in the folder; returns their names."""
    plot_reliability(found.bins, found.calibration_error, folder / RELIABILITY, title=title)
    plot_class_accuracy(found.classes, folder / CLASS_ACCURACY, title=title)
    if not mistakes:
        return RELIABILITY, CLASS_ACCURACY
    strips = [(card.caption, card.picture_HWC) for card in mistakes[:SHEET_CLIPS]]
    plot_strips(strips, folder / MISTAKES, title=f"Most confident mistakes of {title}")
    return RELIABILITY, CLASS_ACCURACY, MISTAKES


def _write_page(
    build: Build,
    found: Evaluation,
    spec: ModelSpec,
    provenance: Provenance,
    cards: _Cards,
    training: list[tuple[str, str]],
    links: Links,
) -> None:
    inputs = build.inputs
    report = Report(
        spec=spec,
        provenance=provenance,
        evaluation=found,
        runtime=str(inputs["test_predictions"].record.metadata["runtime"]),
        windows=cards.windows,
        mistakes=cards.wrong,
        right=cards.right,
        pictures={
            RELIABILITY: (build.folder / RELIABILITY).read_bytes(),
            CURVES: inputs["trained_checkpoint"].file(CURVES).read_bytes(),
        },
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        no_saliency=cards.no_saliency,
        quarantine=_quarantine(inputs),
        training=training,
        versions=[
            {
                "asset": name,
                "version": artifact.record.key[:12],
                "made": artifact.record.created[:16].replace("T", " "),
                "what": artifact.record.headline,
                "link": links.asset(name),
            }
            for name, artifact in inputs.items()
        ],
        links=[
            ("MLflow run", links.mlflow_run(provenance.mlflow_run_id) or "none: tracking is off"),
            ("Dagster run of this page", links.dagster_run),
        ],
    )
    (build.folder / PAGE).write_text(render_page(report), encoding="utf-8")


def _write_card(
    build: Build,
    found: Evaluation,
    spec: ModelSpec,
    provenance: Provenance,
    training: list[tuple[str, str]],
    pictures: Sequence[str],
) -> None:
    card = model_card(
        spec,
        provenance,
        file=ONNX,
        weights_licence=weights_licence(spec.network),
        facts=[*training, ("ONNX file", build.inputs["onnx_model"].record.headline)],
        evaluation=found,
        pictures=pictures,
    )
    (build.folder / CARD).write_text(card, encoding="utf-8")


def _quarantine(inputs: Mapping[str, Artifact]) -> list[tuple[str, str, str]]:
    """Clip, part and reason of every video without frames, test videos first."""
    test = set(_test_manifest(inputs)["clip"])
    rows = [
        (str(row["clip"]), "test" if row["clip"] in test else "train or validation", str(row["reason"]))
        for row in inputs["frame_cache"].record.metadata["quarantine"]
    ]
    return sorted(rows, key=lambda row: (row[1] != "test", row[0]))


def _test_manifest(inputs: Mapping[str, Artifact]) -> pd.DataFrame:
    return read_manifest(inputs["test_manifest"].file("test.csv"))
