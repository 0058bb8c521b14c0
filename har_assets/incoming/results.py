"""Results of all videos: a JSON file each, kept for good, and one table of all.

    artifacts/incoming_video_predictions/
      3f0c9a1b2d4e/                              one model, scored in one way
        recipe.json                              which, and how
        7c/7c40...e1.clip_07-9b2a11c0d4f3.json   content hash, partition: what it says of that video
        unread/clip_08-51c0aa09b7d2.json         videos that could not even be read: why
      sheets/7c/7c40...e1.jpg                    contact sheet of a content
      predictions.csv                            a line a video, content and model

What was predicted is kept for good, so a new model leaves the results of the old one where they are. Each file is
written under another name first: it is complete or absent.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets.system.files import Log, hash_of, write_text_whole, written_whole
from har_assets.system.locks import locked
from har_assets.system.tables import Column, Table

TOP = 5
"""Classes that are kept of a video."""

UNREAD = "unread"

CLOCK_STEP_S = 10
"""A result file that is so little older than the table may have come after it: clocks of file systems differ."""

LEFT_OVER_S = 3600
"""Age at which a half-written file is that of a killed run: they are written in milliseconds."""
PREDICTIONS = Table(
    "predictions.csv",
    {
        "video": Column("str", "Path below the folder of new videos."),
        "partition": Column("str", "Partition key: name and a hash of the path."),
        "current": Column("bool", "Whether it is what this model said last under the partition."),
        "label": Column("str", "Most likely class; empty where nothing could be decoded."),
        "score": Column("float", "Its score, 0 to 1."),
        **{
            f"{what}_{rank}": column
            for rank in range(2, TOP + 1)
            for what, column in (
                ("label", Column("str", f"Class number {rank} by score.")),
                ("score", Column("float", "Its score, 0 to 1.")),
            )
        },
        "segments": Column("int?", "Segments of the timeline of a film; missing for a short video."),
        "reason": Column("str", "Why there is no answer; empty where there is one."),
        "note": Column("str", "Remark on the decoding."),
        "frames": Column("int", "Frames of the video; 0 where nothing could be decoded."),
        "content_sha256": Column("str", "SHA-256 of the file; empty where it could not be read."),
        "model_version": Column("str", "Version of onnx_model."),
        "model_sha256": Column("str", "SHA-256 of its ONNX file."),
        "runtime": Column("str", "Engine that gave the scores."),
        "predicted": Column("str", "UTC time at which the content was predicted."),
        "given": Column("str", "UTC time at which this video was asked for."),
        "result": Column("str", "JSON file of the result, below the folder of this table."),
    },
)
COLUMNS = tuple(PREDICTIONS.columns)
PARTITION, MODEL, CURRENT, GIVEN = map(COLUMNS.index, ("partition", "model_version", "current", "given"))


@dataclass(frozen=True)
class Results:
    """The results of one model, scored in one way, in a folder of its own."""

    home: Path
    """Folder of all models' results."""
    recipe: dict[str, Any]
    """All that decides a result besides the video: the model's SHA-256, windows, version of the code."""

    @functools.cached_property
    def key(self) -> str:
        """Hash of the recipe, 64 hexadecimal digits; the folder is named by its first twelve."""
        return hash_of(self.recipe)

    @functools.cached_property
    def folder(self) -> Path:
        """Folder of this model's results."""
        return self.home / self.key[:12]

    def path(self, content: str, partition: str) -> Path:
        """File of the result of a content (its SHA-256; empty where it could not be read) under a partition."""
        if not content:
            return self.folder / UNREAD / f"{partition}.json"
        return self.folder / content[:2] / f"{content}.{partition}.json"

    def find(self, content: str, partition: str) -> dict[str, Any] | None:
        """The known result of a content: under this partition, else under another one, else None."""
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
            write_text_whole(about, _json(self.recipe))
        path = self.path(fields["content_sha256"], fields["partition"])
        write_text_whole(path, _json(fields))
        if fields["content_sha256"]:
            self.path("", fields["partition"]).unlink(missing_ok=True)  # it can be read now
        return path

    def sheet(self, content: str) -> Path:
        """Where the contact sheet of a content lies, if there is one; the same for every model."""
        return self.home / "sheets" / content[:2] / f"{content}.jpg"


def update_table(home: Path, log: Log) -> Path:
    """Bring `predictions.csv` up to date with the results of all models; return its path.

    Only results that came or changed since are read; the others are listed, and the table is replaced as a whole, by
    one run at a time: two seconds with 100,000 lines, once a run, however many are new. `current` is true for the
    result that a model gave last under a partition.
    """
    target = home / PREDICTIONS.file
    home.mkdir(parents=True, exist_ok=True)
    with locked(target, log):
        began_ns = time.time_ns()
        before, made_ns = _rows_of(target)
        rows: dict[str, list[str]] = {}
        for name, entry in _result_files(home):
            row = before.get(name)
            if row is None or entry.stat().st_mtime_ns > made_ns - CLOCK_STEP_S * 1_000_000_000:
                fields = _read(Path(entry.path))
                row = _row(fields, name) if fields is not None else None
            if row is not None:
                rows[name] = row
        newest: dict[tuple[str, str], tuple[str, str]] = {}
        for name, row in rows.items():
            under = row[PARTITION], row[MODEL]
            newest[under] = max(newest.get(under, ("", "")), (row[GIVEN], name))
        for name, row in rows.items():
            row[CURRENT] = "true" if newest[row[PARTITION], row[MODEL]][1] == name else "false"
        ordered = sorted(rows.values(), key=lambda row: (row[0], row[GIVEN]))
        if rows != before or not target.exists():
            with written_whole(target) as temporary:
                with temporary.open("w", newline="", encoding="utf-8") as file:
                    table = csv.writer(file, lineterminator="\n")
                    table.writerow(COLUMNS)
                    table.writerows(ordered)
                os.utime(temporary, ns=(began_ns, began_ns))
        else:
            os.utime(target, ns=(began_ns, began_ns))
    return target


def _rows_of(table: Path) -> tuple[dict[str, list[str]], int]:
    """Result file to line of the table, and when it was made, nanoseconds; nothing where there is no sound one."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != COLUMNS:
                return {}, 0
            rows = {row[-1]: row for row in reader if len(row) == len(COLUMNS)}
            return rows, os.fstat(file.fileno()).st_mtime_ns
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}, 0  # made again from the results


def _result_files(home: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Name below `home` and entry of every result; half-written files of killed runs are removed on the way."""
    oldest = time.time() - LEFT_OVER_S
    for folder in sorted(path for path in home.iterdir() if path.is_dir()):
        has_results = (folder / "recipe.json").is_file()
        for part in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if not part.is_dir():
                continue
            with os.scandir(part.path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):  # its run has just finished it
                            if entry.stat().st_mtime < oldest:
                                os.unlink(entry.path)
                    elif has_results and entry.name.endswith(".json"):
                        yield f"{folder.name}/{part.name}/{entry.name}", entry


def _row(fields: dict[str, Any], name: str) -> list[str]:
    row = dict.fromkeys(COLUMNS, "")
    for rank, answer in enumerate(fields["top"], 1):
        end = "" if rank == 1 else f"_{rank}"
        row[f"label{end}"], row[f"score{end}"] = answer["label"], f"{answer['score']:.6f}"
    for column in ("video", "partition", "reason", "note", "frames", "content_sha256", "runtime", "predicted"):
        row[column] = str(fields[column])
    row["model_version"], row["model_sha256"] = fields["model"]["version"], fields["model"]["sha256"]
    row["segments"] = str(len(fields["timeline"]["segments"])) if fields["timeline"] else ""
    row["given"] = fields.get("given") or fields["predicted"]
    row["result"] = name
    return list(row.values())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None  # absent, or damaged by something else than a killed run: predicted again
    return fields if isinstance(fields, dict) else None


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields) + "\n"  # an indent is written by Python code: two milliseconds a video
