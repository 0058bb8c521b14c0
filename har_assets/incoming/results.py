"""What was predicted of each video: a JSON file each, kept for good, and one table of all.

    artifacts/incoming_video_predictions/
      3f0c9a1b2d4e/                              one model, scored in one way
        recipe.json                              which, and how
        7c/7c40...e1.clip_07-9b2a11c0d4f3.json   content hash, partition: what it says of that video
        unread/clip_08-51c0aa09b7d2.json         videos that could not even be read: why
      sheets/7c/7c40...e1.jpg                    contact sheet of a content
      predictions.csv                            a line a video, content and model

A result never changes and is never removed, so a new model leaves those of the old one where they are. Each file is
written under another name first: it is complete or absent.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets.artifacts import hash_of
from har_assets.hmdb51._files import locked

TOP = 5
"""Classes that are kept of a video."""

TABLE = "predictions.csv"
UNREAD = "unread"
COLUMNS = (
    "video", "partition", "current", "label", "score",
    *(f"{what}_{rank}" for rank in range(2, TOP + 1) for what in ("label", "score")),
    "segments", "reason", "note", "frames",
    "content_sha256", "model_version", "model_sha256", "runtime", "predicted", "result",
)  # fmt: skip


@dataclass(frozen=True)
class Results:
    """The results of one model, scored in one way, in a folder of its own."""

    home: Path
    """Folder of all models' results."""
    recipe: dict[str, Any]
    """All that decides a result besides the video: the model's SHA-256, windows, version of the code."""

    @property
    def key(self) -> str:
        """Hash of the recipe, 64 hexadecimal digits; the folder is named by its first twelve."""
        return hash_of(self.recipe)

    @property
    def folder(self) -> Path:
        """Folder of this model's results."""
        return self.home / self.key[:12]

    def path(self, content: str, partition: str) -> Path:
        """File of the result of a content (its SHA-256; empty where it could not be read) under a partition."""
        if not content:
            return self.folder / UNREAD / f"{partition}.json"
        return self.folder / content[:2] / f"{content}.{partition}.json"

    def find(self, content: str, partition: str) -> dict[str, Any] | None:
        """What is known of a content: under this partition, else under another one, else None."""
        own = _read(self.path(content, partition))
        if own is not None:
            return own
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder / content[:2]) as entries:
            for entry in entries:
                if entry.name.startswith(content + ".") and (other := _read(Path(entry.path))) is not None:
                    return other
        return None

    def write(self, fields: dict[str, Any]) -> Path:
        """Keep the result of a video: `video`, `partition`, `content_sha256`, the rest as it is."""
        about = self.folder / "recipe.json"
        if not about.exists():
            write_whole(about, _json(self.recipe))
        path = self.path(fields["content_sha256"], fields["partition"])
        write_whole(path, _json(fields))
        if fields["content_sha256"]:
            self.path("", fields["partition"]).unlink(missing_ok=True)  # it can be read now
        return path

    def sheet(self, content: str) -> Path:
        """Where the contact sheet of a content lies, if there is one; the same for every model."""
        return self.home / "sheets" / content[:2] / f"{content}.jpg"


def update_table(home: Path, log: Callable[[str], None]) -> Path:
    """Bring `predictions.csv` up to date with the results of all models; return its path.

    What the table has is taken from it, the rest from the files; it is replaced as a whole, by one run at a time.
    `current` is true for the newest result that a model gave under a partition.
    """
    target = home / TABLE
    home.mkdir(parents=True, exist_ok=True)
    with locked(target, log):
        before = _rows_of(target)
        rows = {}
        for name, path in _result_files(home):
            row = before.get(name)
            if row is None:
                fields = _read(path)
                row = _row(fields, name) if fields is not None else None
            if row is not None:
                rows[name] = row
        if rows.keys() == before.keys() and target.exists():
            return target
        newest: dict[tuple[str, str], str] = {}
        for name, row in sorted(rows.items(), key=lambda item: item[1]["predicted"]):
            newest[row["partition"], row["model_version"]] = name
        for name, row in rows.items():
            row["current"] = str(newest[row["partition"], row["model_version"]] == name).lower()
        with replaced(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(sorted(rows.values(), key=lambda row: (row["video"], row["predicted"])))
    return target


def _rows_of(table: Path) -> dict[str, dict[str, str]]:
    """Result file to line of the table; empty where there is none, or one of other columns."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                return {}
            return {row["result"]: row for row in reader if None not in row.values() and None not in row}
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}


def _result_files(home: Path) -> Iterator[tuple[str, Path]]:
    """Name below `home` and path of every result."""
    for model in sorted(home.iterdir()):
        if not (model / "recipe.json").is_file():
            continue
        for part in sorted(os.scandir(model), key=lambda entry: entry.name):
            if part.is_dir():
                with os.scandir(part.path) as entries:
                    for entry in entries:
                        if entry.name.endswith(".json") and not entry.name.startswith("."):
                            yield f"{model.name}/{part.name}/{entry.name}", Path(entry.path)


def _row(fields: dict[str, Any], name: str) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "")
    for rank, answer in enumerate(fields["top"], 1):
        end = "" if rank == 1 else f"_{rank}"
        row[f"label{end}"], row[f"score{end}"] = answer["label"], f"{answer['score']:.6f}"
    for column in ("video", "partition", "reason", "note", "frames", "content_sha256", "runtime", "predicted"):
        row[column] = str(fields[column])
    row["model_version"], row["model_sha256"] = fields["model"]["version"], fields["model"]["sha256"]
    row["segments"] = str(len(fields["timeline"]["segments"])) if fields["timeline"] else ""
    row["result"] = name
    return row


def _read(path: Path) -> dict[str, Any] | None:
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None  # absent, or damaged by something else than a killed run: predicted again
    return fields if isinstance(fields, dict) else None


def _json(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1) + "\n").encode()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is complete or absent."""
    with replaced(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to, which then takes the place of `path`; nothing is left behind by an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
