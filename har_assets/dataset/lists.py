"""Split lists: which file is one, which split and classes it is of, and what it says of each clip.

A format of lists is one row of FORMATS, and a module of its own where it takes more than a function. HMDB51's is here:
153 files `<class>_test_split<1|2|3>.txt`, one line a clip, `NAME 0|1|2` for unused, train and test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from har_assets.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd

MAX_LIST_BYTES = 5_000_000
"""No split list is larger: the largest official one has 44 kB."""

Row = tuple[str, str, str]
"""Class, file name of the clip, and its role: `train`, `test` or `unused`."""


@dataclass(frozen=True)
class ListFormat:
    """A scheme of split lists."""

    wanted: str
    """Which files these are, for a sentence."""
    split_of: Callable[[str], int | None]
    """Number of the split of a file name; None for a name outside the scheme."""
    classes: Callable[[Path], set[str]]
    """Classes that a list is about."""
    rows: Callable[[Path], list[Row]]
    """The content of a list. Raises DatasetError."""


_HMDB51_NAME = re.compile(r"(?P<label>.+)_test_split(?P<split>\d+)\.txt")
_ROLE_OF_MARK = {"0": "unused", "1": "train", "2": "test"}


def _hmdb51_split(name: str) -> int | None:
    match = _HMDB51_NAME.fullmatch(name)
    return int(match["split"]) if match else None


def _hmdb51_classes(path: Path) -> set[str]:
    match = _HMDB51_NAME.fullmatch(path.name)
    return {match["label"]} if match else set()


def _hmdb51_rows(path: Path) -> list[Row]:
    (label,) = _hmdb51_classes(path)
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
        rows.append((label, name.strip(), role))
    return rows


HMDB51_LISTS = ListFormat(
    wanted="files named CLASS_test_split1.txt, as in HMDB51's test_train_splits.rar",
    split_of=_hmdb51_split,
    classes=_hmdb51_classes,
    rows=_hmdb51_rows,
)

FORMATS: tuple[ListFormat, ...] = (HMDB51_LISTS,)
"""Every format that is read; a file is of the first whose scheme its name follows."""


def text_of(path: Path) -> str:
    """The text of a list; DatasetError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a text in UTF-8: fetch the split lists again.") from None


def format_of(name: str) -> tuple[ListFormat, int] | None:
    """The format of a file name and the number of its split; None where the file is no split list."""
    for each in FORMATS:
        if (split := each.split_of(name)) is not None:
            return each, split
    return None


def wanted_lists() -> str:
    """Which files are split lists, for a sentence."""
    return " or ".join(each.wanted for each in FORMATS)


def listed_classes(folder: Path) -> tuple[str, ...]:
    """The classes that the lists at or below a folder are about, sorted; none where there is no list."""
    return tuple(sorted({label for path, of, _ in _lists_below(folder) for label in of.classes(path)}))


def read_split_lists(folder: Path, split: int | None = None) -> pd.DataFrame:
    """Read every split list at or below `folder`, or those of one split.

    Returns a table with one row a clip and split: label, name, split, role (`train`, `test`, `unused`).

    Raises:
        DatasetError: no list, none of that split, a line that is not of the format (for HMDB51 `NAME 0|1|2`), one
            clip with two roles in a split.
    """
    import pandas as pd

    lists = list(_lists_below(folder))
    if not lists:
        raise DatasetError(f"{folder} holds no split list: expected {wanted_lists()}.")
    known = sorted({number for _, _, number in lists})
    if split is not None and split not in known:
        raise DatasetError(f"there is no split {split} in {folder}: choose one of {', '.join(map(str, known))}.")
    rows = [
        (label, name, number, role)
        for path, of, number in lists
        if split in (None, number)
        for label, name, role in of.rows(path)
    ]
    table = pd.DataFrame(rows, columns=["label", "name", "split", "role"]).drop_duplicates()
    key = ["split", "label", "name"]
    twice = table[table.duplicated(key, keep=False)].sort_values([*key, "role"])
    if len(twice):
        first = twice.iloc[0]
        raise DatasetError(
            f"split {first['split']} lists {first['name']} of class {first['label']} twice with different "
            "marks: keep one of the lines."
        )
    return table.sort_values(key, ignore_index=True)


def _lists_below(folder: Path) -> Iterable[tuple[Path, ListFormat, int]]:
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and (found := format_of(path.name)):
            yield path, *found
