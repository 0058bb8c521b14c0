"""Manifests: the clips of one role in a split as a table, one row a clip, sorted by `clip`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from har_assets.errors import DatasetError
from har_assets.store.record import Artifact
from har_assets.system.tables import Column, Table

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("train", "val", "test")

MANIFESTS = {
    role: Table(
        f"{role}.csv",
        {
            "clip": Column("str", "Path below the video folder, `<class>/<file>`."),
            "label": Column("str", "Class name."),
            "label_index": Column("int", "Place of the class in the class list."),
            "film": Column("str", "Source film; `<class>/<stem>` where the file name does not tell one."),
            "split": Column("int", "Number of the split."),
            "role": Column("str", "`train`, `val` or `test`."),
            "bytes": Column("int", "File size."),
        },
    )
    for role in ROLES
}
"""Role to its table."""

MANIFEST_COLUMNS = MANIFESTS["train"].types
"""Columns of a manifest and their types in pandas, in order."""

TEST_FRACTION = 0.3
"""Share of each class that tests: 30 of 100 in the official lists, and in the split made without lists."""


@dataclass(frozen=True)
class Manifests:
    """The three tables of one split and what was counted while they were made."""

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    """Holds every test clip on disk, those included that may later prove undecodable."""
    summary: dict[str, Any]
    """JSON-ready: split, source, seed, listed, found, absent, unused, unlisted, train, val, test, per_class,
    films, notes (plain sentences)."""

    def items(self) -> tuple[tuple[str, pd.DataFrame], ...]:
        """Return (role, table) of all three."""
        return (("train", self.train), ("val", self.val), ("test", self.test))


def write_manifest(manifest: pd.DataFrame, path: Path) -> None:
    """Write a manifest as CSV, the same bytes for the same table."""
    manifest[list(MANIFEST_COLUMNS)].to_csv(path, index=False, lineterminator="\n")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read what `write_manifest` wrote; a class named `nan` or `NA` stays a text.

    Raises:
        DatasetError: no such file, or columns are missing.
    """
    if not Path(path).is_file():
        raise DatasetError(f"there is no manifest {path}: materialize train_manifest again.")
    return MANIFESTS["train"].read(path)[list(MANIFEST_COLUMNS)]


def read_manifest_of(artifact: Artifact, role: str) -> pd.DataFrame:
    """The table of a published manifest; `role` is one of ROLES."""
    return read_manifest(artifact.file(MANIFESTS[role].file))


def films_with_labels(part: pd.DataFrame) -> set[str]:
    """Films of a table, each with every class that it shows."""
    return set(part["film"] + " (" + part["label"] + ")")
