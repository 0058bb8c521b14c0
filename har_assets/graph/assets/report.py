"""evaluation_report: one page about a model's test figures, and its model card."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from har_assets.cluster.needs import needs
from har_assets.dataset.folder import VIDEOS
from har_assets.dataset.manifests import read_manifest_of
from har_assets.errors import HarError
from har_assets.graph.assets.dataset import data_here
from har_assets.graph.assets.deployment import ONNX
from har_assets.graph.assets.training import CARD, CHECKPOINT, CURVES
from har_assets.graph.publishing import AssetConfig, publish
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact

if TYPE_CHECKING:
    from har_assets.model.spec import ModelSpec, Provenance
    from har_assets.report.cards import Card
    from har_assets.report.content import Evaluation

UPSTREAM = ("test_predictions", "onnx_model", "trained_checkpoint", "test_manifest", "frame_cache")

PAGE = "evaluation_report.html"
RELIABILITY = "reliability.png"
SHEET_CLIPS = 4
"""Mistakes in the picture for the web UI."""


class ReportConfig(AssetConfig):
    """What the page shows of single videos."""

    mistakes: int = 12
    """Wrong answers to show, the most confident first."""
    right: int = 4
    """Right answers to show, one a class."""
    saliency: bool = True
    """Show what spoke for each answer (Grad-CAM on the checkpoint); costs a forward and a backward pass a video."""


@dg.asset(
    deps=list(UPSTREAM),
    group_name="evaluation",
    kinds={"html"},
    code_version="1",
    pool="gpu",
    op_tags=needs(gpus=1),
    tags={"har/stage": "evaluation"},
)
def evaluation_report(
    context: dg.AssetExecutionContext, config: ReportConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`evaluation_report.html`: figures with intervals, confusions, mistakes and what the network looked at.

    One file that opens without a network. Beside it the model card (`README.md`) with the figures, and PNGs.
    """

    def product_of(build: Build) -> Product:
        from har_assets.report.card import training_facts

        _refuse_other_parents(build.inputs)
        found, spec, provenance, cards = _evaluate(build.inputs, config, store, context.log.info)
        title = f"{spec.network} on {found.videos:,} test videos{' (synthetic data)' if provenance.synthetic else ''}"
        pictures = _draw(build.folder, found, cards.wrong, title)
        checkpoint = build.inputs["trained_checkpoint"].record
        training = training_facts(checkpoint.metadata, checkpoint.config)
        _write_page(build, found, spec, provenance, cards, training, mlflow, mlflow.dagster_url(context.run.run_id))
        _write_card(build, found, spec, provenance, training)
        figures = found.figures()
        build.run.metrics({f"test_video_{name}": value for name, value in figures.items()})
        for name in (PAGE, CARD, *pictures):
            build.run.file(build.folder / name)
        top1 = found.top1
        return Product(
            headline=f"test top-1 {top1.value:.3f} (95 % interval {top1.low:.3f} to {top1.high:.3f}), "
            f"{found.wrong:,} wrong of {title.partition(' on ')[2]} of {found.films:,} films",
            metadata={
                **figures,
                "videos": found.videos,
                "films": found.films,
                "wrong": found.wrong,
                "quarantined": found.quarantined,
                "confusions": [dataclasses.asdict(each) for each in found.confusions],
                "page_bytes": (build.folder / PAGE).stat().st_size,
            },
            pictures=pictures,
        )

    return publish(context, store, config, product_of, upstream=UPSTREAM, mlflow=mlflow)


def _refuse_other_parents(inputs: dict[str, Artifact]) -> None:
    """HarError where the latest predictions are not those of the latest model, data and checkpoint."""
    for child, parents in (
        ("test_predictions", ("onnx_model", "test_manifest", "frame_cache")),
        ("onnx_model", ("trained_checkpoint",)),
    ):
        for parent in parents:
            if inputs[child].record.inputs.get(parent) != inputs[parent].record.data_version:
                raise HarError(
                    f"The latest {child} was made from another {parent} than the latest: "
                    f"`dagster asset materialize -m har_assets --select 'key:{child} or key:evaluation_report'`."
                )


@dataclasses.dataclass(frozen=True)
class _Cards:
    """Cards of single videos, and why they do not show what spoke for the answer."""

    wrong: "list[Card]"
    right: "list[Card]"
    windows: int
    no_saliency: str


def _evaluate(
    inputs: dict[str, Artifact], config: ReportConfig, store: ArtifactStore, log: Callable[[str], None]
) -> "tuple[Evaluation, ModelSpec, Provenance, _Cards]":
    """Everything that is computed: figures, and what spoke for some answers."""
    import numpy as np
    import pandas as pd
    import torch

    from har_assets.model.lightning import load_checkpoint
    from har_assets.model.saliency import why_no_saliency
    from har_assets.report.cards import choose_clips, make_card
    from har_assets.report.content import evaluate_with_intervals
    from har_assets.runtime.evaluation import evaluate
    from har_assets.video.frame_cache import FrameCache

    predicted = inputs["test_predictions"]
    # A class may be called NA or 1.
    table = pd.read_csv(predicted.file("test_predictions.csv"), keep_default_na=False, dtype=str)
    predictions = table.assign(correct=table["correct"] == "True")
    scores_NK = np.load(predicted.file("scores.npy"))
    model = load_checkpoint(
        inputs["trained_checkpoint"].file(CHECKPOINT), device="cuda" if torch.cuda.is_available() else "cpu"
    )
    labels = model.spec.labels
    _, confusion_KK = evaluate(predictions, labels)
    found = evaluate_with_intervals(
        predictions, read_manifest_of(inputs["test_manifest"], "test"), labels, confusion_KK
    )
    why_not = why_no_saliency(model.spec.network) if config.saliency else "that was switched off"
    wrong, right = choose_clips(predictions, labels, config.mistakes, config.right)
    log(f"Pictures of {len(wrong)} wrong and {len(right)} right answers.")
    cache = FrameCache(inputs["frame_cache"].folder)
    windows = int(predicted.record.metadata["windows"])

    def cards(rows: list[int]) -> "list[Card]":
        return [
            make_card(
                predictions.loc[row],
                scores_NK[row],
                model,
                cache,
                data_here(store) / VIDEOS,
                windows=windows,
                saliency=not why_not,
            )
            for row in rows
        ]

    return found, model.spec, model.provenance, _Cards(cards(wrong), cards(right), windows, why_not)


def _draw(folder: Path, found: "Evaluation", mistakes: "list[Card]", title: str) -> tuple[str, ...]:
    """PNG files in the folder; returns their names."""
    from har_assets.report.plots import plot_class_accuracy, plot_reliability, plot_strips

    plot_reliability(found.bins, found.calibration_error, folder / RELIABILITY, title=title)
    plot_class_accuracy(found.classes, folder / "class_accuracy.png", title=title)
    if not mistakes:
        return RELIABILITY, "class_accuracy.png"
    strips = [(card.caption, card.picture_HWC) for card in mistakes[:SHEET_CLIPS]]
    plot_strips(strips, folder / "mistakes.png", title=f"Most confident mistakes of {title}")
    return RELIABILITY, "class_accuracy.png", "mistakes.png"


def _write_page(
    build: Build,
    found: "Evaluation",
    spec: "ModelSpec",
    provenance: "Provenance",
    cards: _Cards,
    training: list[tuple[str, str]],
    mlflow: MlflowTracking,
    dagster_run: str,
) -> None:
    from har_assets.report.content import Report
    from har_assets.report.html import render_page

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
                "link": mlflow.dagster_asset_url(name),
            }
            for name, artifact in inputs.items()
        ],
        links=[
            ("MLflow run", mlflow.link(provenance.mlflow_run_id) or "none: tracking is off"),
            ("Dagster run of this page", dagster_run),
        ],
    )
    (build.folder / PAGE).write_text(render_page(report), encoding="utf-8")


def _write_card(
    build: Build,
    found: "Evaluation",
    spec: "ModelSpec",
    provenance: "Provenance",
    training: list[tuple[str, str]],
) -> None:
    from har_assets.model.networks import weights_licence
    from har_assets.report.card import model_card

    card = model_card(
        spec,
        provenance,
        file=ONNX,
        weights_licence=weights_licence(spec.network),
        facts=[*training, ("ONNX file", build.inputs["onnx_model"].record.headline)],
        evaluation=found,
    )
    (build.folder / CARD).write_text(card, encoding="utf-8")


def _quarantine(inputs: dict[str, Artifact]) -> list[tuple[str, str, str]]:
    """Clip, part and reason of every video without frames, test videos first."""
    test = set(read_manifest_of(inputs["test_manifest"], "test")["clip"])
    rows = [
        (str(row["clip"]), "test" if row["clip"] in test else "train or validation", str(row["reason"]))
        for row in inputs["frame_cache"].record.metadata["quarantine"]
    ]
    return sorted(rows, key=lambda row: (row[1] != "test", row[0]))
