"""HMDB51's lists: 153 files `<class>_test_split<1|2|3>.txt`, lines `NAME 0|1|2` for unused, train and test."""

import re
from pathlib import Path

from har_assets.dataset.list_formats.list_format import ListFormat, Row, text_of
from har_assets.errors import DatasetError

_NAME = re.compile(r"(?P<label>.+)_test_split(?P<split>\d+)\.txt")
_ROLE_OF_MARK = {"0": "unused", "1": "train", "2": "test"}


def _split(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match["split"]) if match else None


def _classes(path: Path) -> set[str]:
    match = _NAME.fullmatch(path.name)
    return {match["label"]} if match else set()


def _rows(path: Path) -> list[Row]:
    (label,) = _classes(path)
    rows = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if not line.strip():
            continue
        name, *marks = line.rsplit(maxsplit=1)
        role = _ROLE_OF_MARK.get("".join(marks))
        if role is None:
            raise DatasetError(
                f"line {number} of {path} is {line!r}, not a file name and 1 (train), 2 (test) or 0 "
                "(unused): correct it or fetch the split lists again."
            )
        rows.append(Row(label, name.strip(), role))
    return rows


HMDB51_LISTS = ListFormat(
    wanted="files named CLASS_test_split1.txt, as in HMDB51's test_train_splits.rar",
    split_of=_split,
    classes=_classes,
    rows=_rows,
)
