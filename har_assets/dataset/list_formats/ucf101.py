"""UCF101's lists: `trainlist01.txt` and `testlist01.txt`, one line a video, `CLASS/VIDEO` and perhaps a class number.

`classInd.txt`, lines of `NUMBER CLASS`, says which class a number means. UCF101 names its videos
`v_<class>_g<group>_c<clip>.avi`; those of one group were cut from one film.
"""

import re
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

_NAME = re.compile(r"(?P<role>train|val|test)list(?P<split>\d+)\.txt", re.IGNORECASE)
_LINE = re.compile(r"(?P<video>.*?[/\\].*?)(?:\s+(?P<number>\d+))?")
_FILM = re.compile(r"v_(?P<label>.+)_g\d+(?=_c\d+(\.[^.]+)?$)")
CLASSES_FILE = "classInd.txt"


def _split(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match["split"]) if match else None


def _rows(path: Path) -> list[Row]:
    match = _NAME.fullmatch(path.name)
    role = role_named(match["role"]) if match else None
    assert role is not None
    numbers = _class_numbers(path.with_name(CLASSES_FILE))
    rows = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {path.name}"
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise DatasetError(
                f"{where} is {line!r}, not CLASS/VIDEO with or without the number of the class: correct it or fetch "
                "the split lists again."
            )
        video = checked_video(found["video"], where)
        if "/" not in video:
            raise DatasetError(f"{where} is {line!r}, a video without its class: write CLASS/VIDEO.")
        label = checked_label(video.split("/")[-2], where)
        if numbers and label not in numbers.values():
            raise DatasetError(f"{where} has the class {label}, which is not in {CLASSES_FILE}: correct one of them.")
        if numbers and found["number"] and numbers.get(int(found["number"])) != label:
            raise DatasetError(
                f"{where} gives the class {label} the number {found['number']}, and {CLASSES_FILE} another: correct "
                "one of them."
            )
        film = _FILM.match(video.rpartition("/")[2])
        rows.append(Row(label, video, role, film[0] if film else ""))
    return rows


def _class_numbers(path: Path) -> dict[int, str]:
    """Number to class as classInd.txt has them; empty without that file."""
    numbers: dict[int, str] = {}
    if not path.is_file():
        return numbers
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if not line.strip():
            continue
        index, *rest = line.split(maxsplit=1)
        if not index.isdecimal() or not rest or int(index) in numbers:
            raise DatasetError(
                f"line {number} of {path.name} is {line!r}, not a number of its own and a class: correct it or fetch "
                "the split lists again."
            )
        numbers[int(index)] = rest[0].strip()
    return numbers


UCF101_LISTS = ListFormat(
    wanted="files named trainlist01.txt and testlist01.txt, as UCF101 has them",
    split_of=_split,
    classes=lambda path: labels_of(_rows(path)),
    rows=_rows,
    companion=CLASSES_FILE,
    by_path=True,
    max_bytes=MAX_TABLE_BYTES,
)
