"""What `har status` says of the products that are not one latest version: splits and new videos."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from har_assets.store.folder import ArtifactFolder

SPLITS = ("1", "2", "3")
INCOMING = "incoming_video_predictions"


@dataclass(frozen=True)
class StatusRow:
    """One line of the table."""

    asset: str
    size: int
    """Bytes."""
    words: str


def partitioned(store: ArtifactFolder) -> Iterator[tuple[str, StatusRow | None]]:
    """Each partitioned asset, and what there is of it or None."""
    yield "split_evaluation", _splits(store)
    yield INCOMING, _incoming(store.root / INCOMING)


def _splits(store: ArtifactFolder) -> StatusRow | None:
    found = {split: store.below(f"split_evaluation/{split}").find_latest("test_predictions") for split in SPLITS}
    tested = {split: artifact for split, artifact in found.items() if artifact is not None}
    if not tested:
        return None
    newest = max(tested.values(), key=lambda artifact: artifact.record.created)
    words = f"{len(tested)} of {len(SPLITS)} splits; newest: {newest.record.headline}"
    return StatusRow("split_evaluation", sum(artifact.bytes for artifact in tested.values()), words)


def _incoming(home: Path) -> StatusRow | None:
    """From the table of all results, read a line at a time."""
    table = home / "predictions.csv"
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
