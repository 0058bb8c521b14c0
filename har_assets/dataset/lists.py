"""Split lists: which file is one, which split and classes it is of, and what it says of each clip.

A format of lists is one row of FORMATS and a module of har_assets.dataset.list_formats. The lists of a source are of
one format: of the first in the table that any of its files follows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from har_assets.dataset.list_formats.hmdb51 import HMDB51_LISTS
from har_assets.dataset.list_formats.list_format import MAX_LIST_BYTES, ListFormat, Row, text_of
from har_assets.dataset.list_formats.something import SOMETHING_LISTS
from har_assets.dataset.list_formats.table import TABLE_LISTS, write_table
from har_assets.dataset.list_formats.ucf101 import UCF101_LISTS
from har_assets.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FORMATS",
    "LABELS",
    "MAX_LIST_BYTES",
    "ListFormat",
    "Row",
    "are_by_folders",
    "format_among",
    "format_of",
    "listed_classes",
    "lists_below",
    "read_split_lists",
    "replace_lists",
    "text_of",
    "wanted_lists",
]

FORMATS: tuple[ListFormat, ...] = (HMDB51_LISTS, UCF101_LISTS, SOMETHING_LISTS, TABLE_LISTS)
"""Every format that is read; a file is of the first whose scheme its name follows. CSV, the least telling, is last."""


BY_FOLDERS = "folders_"
"""Begins the name of a list that was made from the folders of a source."""


LABELS = ("auto", "parent", "top", "csv")
"""What may name the class of a video: see `label` of raw_archive."""


def format_of(name: str) -> tuple[ListFormat, int] | None:
    """The format of a file name and the number of its split; None where the file is no split list."""
    for each in FORMATS:
        if (split := each.split_of(name)) is not None:
            return each, split
    return None


def format_among(names: Iterable[str]) -> ListFormat | None:
    """The format of the lists among some file names; None where there is no list."""
    found = [of for of, _ in filter(None, map(format_of, names))]
    return next((each for each in FORMATS if each in found), None)


def wanted_lists() -> str:
    """Which files are split lists, for a sentence."""
    return " or ".join(each.wanted for each in FORMATS)


def listed_classes(folder: Path) -> tuple[str, ...]:
    """The classes that the lists at or below a folder are about, sorted; none where there is no list."""
    return tuple(sorted({label for path, of, _ in lists_below(folder) for label in of.classes(path)}))


def read_split_lists(folder: Path, split: int | None = None) -> pd.DataFrame:
    """Read every split list at or below `folder`, or those of one split.

    Returns a table with one row a clip and split: label, name, split, role (`train`, `val`, `test`, `unused`, or empty
    in all rows of lists that do not divide their clips: these are lists of every split), and `group` where any is told.

    Raises:
        DatasetError: no list, none of that split, a line that is not of the format (for HMDB51 `NAME 0|1|2`), one
            clip with two roles in a split, roles for some clips only.
    """
    import pandas as pd

    lists = lists_below(folder)
    if not lists:
        raise DatasetError(f"{folder} holds no split list: expected {wanted_lists()}.")
    known = sorted({number for _, _, number in lists})
    chosen = [found for found in lists if split in (None, found[2])]
    rows = [(row, number) for path, of, number in chosen or lists for row in of.rows(path) if row.label]
    divided = {bool(row.role) for row, _ in rows}
    if not chosen and divided != {False}:
        raise DatasetError(f"there is no split {split} in {folder}: choose one of {', '.join(map(str, known))}.")
    if len(divided) > 1:
        raise DatasetError(f"the lists in {folder} give a split to some videos only: give one to all or to none.")
    cells = [(row.label, row.name, number if chosen else split, row.role, row.group) for row, number in rows]
    table = pd.DataFrame(cells, columns=["label", "name", "split", "role", "group"]).drop_duplicates()
    key = ["split", "label", "name"]
    twice = table[table.duplicated(key, keep=False)].sort_values([*key, "role"])
    if len(twice):
        first = twice.iloc[0]
        raise DatasetError(
            f"split {first['split']} lists {first['name']} of class {first['label']} twice with different "
            "marks: keep one of the lines."
        )
    if not table["group"].any():
        table = table.drop(columns="group")
    return table.sort_values(key, ignore_index=True)


def replace_lists(folder: Path, rows: Mapping[int, Iterable[Row]], *, by_folders: bool) -> None:
    """Make a folder hold one CSV a split and nothing else.

    Args:
        folder: of the lists.
        rows: number of a split to its list, the videos by their names in `videos/<class>/`.
        by_folders: the split, or the recordings, come from the folders of the source and not from lists.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    for number, listed in rows.items():
        write_table(folder / f"{BY_FOLDERS if by_folders else ''}split{number}.csv", listed)


def are_by_folders(folder: Path) -> bool:
    """Whether the lists in a folder were made from the folders of the source."""
    return any(path.name.startswith(BY_FOLDERS) for path in folder.glob("*.csv"))


def lists_below(folder: Path) -> list[tuple[Path, ListFormat, int]]:
    """Path, format and number of the split of every list at or below a folder, in the order of the paths."""
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    of = format_among(path.name for path in paths)
    return [(path, *found) for path in paths if (found := format_of(path.name)) and found[0] is of]
