"""`har status`: a line for every asset, and where its report and its engine are."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from har_assets import settings
from har_assets.cli.output import Store, printable
from har_assets.graph.stage import STAGES
from har_assets.incoming.results import PREDICTIONS
from har_assets.model.files import ENGINE
from har_assets.report.options import PAGE
from har_assets.store import protocol
from har_assets.store.opening import open_store
from har_assets.store.record import Artifact
from har_assets.system.files import format_bytes

SPLITS = ("1", "2", "3")
INCOMING = "incoming_video_predictions"


@dataclass(frozen=True)
class StatusRow:
    """One line of the table."""

    asset: str
    size: int
    """Bytes."""
    words: str


def partitioned(store: protocol.Store) -> Iterator[tuple[str, StatusRow | None]]:
    """Each partitioned asset, and what there is of it or None."""
    yield "split_evaluation", _splits(store)
    yield INCOMING, _incoming(store.root / INCOMING)


def _splits(store: protocol.Store) -> StatusRow | None:
    found = {split: store.below(f"split_evaluation/{split}").find_latest("test_predictions") for split in SPLITS}
    tested = {split: artifact for split, artifact in found.items() if artifact is not None}
    if not tested:
        return None
    newest = max(tested.values(), key=lambda artifact: artifact.record.created)
    words = f"{len(tested)} of {len(SPLITS)} splits; newest: {newest.record.headline}"
    return StatusRow("split_evaluation", sum(artifact.bytes for artifact in tested.values()), words)


def _incoming(home: Path) -> StatusRow | None:
    """From the table of all results, read a line at a time."""
    table = home / PREDICTIONS.file
    videos: set[str] = set()
    without = 0
    newest: dict[str, str] = {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["current"] != "true":
                    continue
                videos.add(row["partition"])
                without += not row["label"]
                if row["given"] >= newest.get("given", ""):
                    newest = row
    except FileNotFoundError:
        return None
    if not newest:
        return None
    answer = f"{newest['label']} {float(newest['score']):.2f}" if newest["label"] else f"none: {newest['reason']}"
    bad = f", {without:,} results without an answer" if without else ""
    words = (
        f"{len(videos):,} videos{bad}; newest, {newest['given'][:16].replace('T', ' ')}: {newest['video']}: {answer}"
    )
    return StatusRow(INCOMING, table.stat().st_size, words)


def status(store: Store = "") -> None:
    """Show every product: when it was made, how long that took, its size and its headline figure."""
    folder = open_store(store)
    found = {asset: folder.find_latest(asset) for asset, stage in STAGES.items() if not stage.partitioned}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, justify in (("asset", "left"), ("time", "right"), ("size", "right"), ("what it is", "left")):
        table.add_column(column, justify=justify, no_wrap=column != "what it is")  # type: ignore[arg-type]
    for asset, artifact in found.items():
        if artifact is None:
            table.add_row(asset, "", "", "[dim]not materialized[/dim]")
        else:
            record = artifact.record
            table.add_row(asset, f"{record.seconds:.1f} s", _size(artifact), record.headline)
    for asset, row in partitioned(folder):
        size = format_bytes(row.size) if row else ""
        table.add_row(asset, "", size, Text(printable(row.words)) if row else "[dim]not materialized[/dim]")
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    console.print(table)
    report = found["evaluation_report"]
    if report is not None:
        console.print(f"\nReport:       {report.file(PAGE)}", soft_wrap=True)
    engine = found["trt_engine"]
    if engine is not None:
        console.print(f"\nEngine:       {engine.file(ENGINE)}", soft_wrap=True)
        console.print("Predict:      har predict VIDEO...")
        console.print("Web UI:       dagster dev            then http://127.0.0.1:3000/asset-groups")
        uri = settings.read().mlflow_uri
        if "://" in uri and not uri.startswith("http"):
            uri = f"mlflow ui --backend-store-uri {uri} --port 8080"
        console.print(f"Experiments:  {uri}", markup=False, soft_wrap=True)
        if engine.record.lineage.get("synthetic"):
            console.print("\nThe videos are the built-in synthetic sample: the figures say nothing about real ones.")


def _size(artifact: Artifact) -> str:
    count = artifact.bytes + artifact.record.metadata.get("video_bytes", 0)  # the videos themselves lie in data/
    return format_bytes(count)
