"""A CSV with one line a video: columns video and label, and if wanted split and group, in any order and case.

The separator is `,` or `;`, the text UTF-8 with or without a byte order mark. Without the column split, a file named
train.csv, val.csv or test.csv has the videos of that split. `..._split2.csv` is of split 2, any other of split 1.
"""

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from har_assets.dataset.list_formats.list_format import (
    MAX_TABLE_BYTES,
    ListFormat,
    Row,
    checked_label,
    checked_video,
    labels_of,
    role_named,
    text_of,
)
from har_assets.errors import DatasetError

COLUMNS = ("video", "label", "split", "group")
_NAME = re.compile(r"(.*[-_. ])?split[-_ ]?(?P<split>\d+)\.csv|.*\.csv", re.IGNORECASE | re.DOTALL)
_UNUSED = "unused"


def _split(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match["split"] or 1) if match else None


def _rows(path: Path) -> list[Row]:
    text = text_of(path)
    if not text.strip():
        raise DatasetError(
            f"{path.name} is empty: it needs a header with the columns video and label, and a line a video."
        )
    separator, header = _header(text, path)
    role_of_file = role_named(path.stem) or ""
    rows = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        next(cells for cells in reader if any(cell.strip() for cell in cells))
        for cells in reader:
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if not any(cell.strip() for cell in cells):
                continue
            where = f"line {reader.line_num} of {path.name}"
            if len(cells) != len(header):
                raise DatasetError(
                    f"{where} has {len(cells)} cells and the header {len(header)}: correct it, and put cells that "
                    f"hold a {separator!r} into double quotes."
                )
            values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            rows.append(
                Row(
                    checked_label(values["label"], where),
                    checked_video(values["video"], where),
                    _role(values["split"], where) if "split" in values else role_of_file,
                    values.get("group", ""),
                )
            )
    except csv.Error as error:
        raise DatasetError(
            f"line {reader.line_num} of {path.name} is no line of a CSV ({error}): correct it."
        ) from None
    if not rows:
        raise DatasetError(f"{path.name} has a header and no line below it: write a line a video.")
    return rows


def _header(text: str, path: Path) -> tuple[str, list[str]]:
    """The separator, and the names of the columns in lower case; DatasetError where video and label are not there."""
    first = next(line for line in text.splitlines() if line.strip())
    for separator in ",;":
        names = [name.strip().strip('"').strip().casefold() for name in first.split(separator)]
        while names and not names[-1]:
            names.pop()
        if {"video", "label"} <= set(names):
            if len(set(names)) != len(names):
                raise DatasetError(f"the header of {path.name} names a column twice ({first.strip()}): remove one.")
            return separator, names
    raise DatasetError(
        f"the first line of {path.name} is {first.strip()[:80]!r}, not a header with the columns video and label (and, "
        "if wanted, split and group): write one, or remove the file if it is no list of the videos."
    )


def _role(word: str, where: str) -> str:
    role = _UNUSED if word.casefold() == _UNUSED else role_named(word)
    if role is None:
        raise DatasetError(f"{where} has the split {word!r}: write train, val, test or unused.")
    return role


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as such a CSV, the same bytes for the same rows, in the order of the videos."""
    rows = sorted(rows)
    used = [name for name in COLUMNS if name in ("video", "label") or any(getattr(row, _FIELDS[name]) for row in rows)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(used)
        writer.writerows([getattr(row, _FIELDS[name]) for name in used] for row in rows)


_FIELDS = {"video": "video", "label": "label", "split": "role", "group": "group"}
"""Column to the field of a row."""

TABLE_LISTS = ListFormat(
    wanted="a CSV with the columns video, label and, if wanted, split and group",
    split_of=_split,
    classes=lambda path: labels_of(_rows(path)),
    rows=_rows,
    by_path=True,
    max_bytes=MAX_TABLE_BYTES,
)
