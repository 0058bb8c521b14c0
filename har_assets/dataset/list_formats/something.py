"""Lists of the Something-Something kind: train.json, validation.json and test.json, each a list of objects.

An object has the `id` of a video and its class, in `template` (`Holding [something]`, read without the brackets) or
else in `label`. labels.json, where it is there, has all classes as its keys. The test list of Something-Something has
no classes.
"""

import json
import re
from pathlib import Path
from typing import Any

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

_NAME = re.compile(r"(?P<before>.*[-_. ])?(?P<role>train|training|val|valid|validation|test|testing)\.json", re.I)
_KNOWN = "labels.json"


def _split(name: str) -> int | None:
    return 1 if _NAME.fullmatch(name) else None


def _rows(path: Path) -> list[Row]:
    match = _NAME.fullmatch(path.name)
    role = role_named(match["role"]) if match else None
    assert match is not None
    assert role is not None
    entries = _read(path)
    if not isinstance(entries, list):
        raise _no_list(path)
    labels_file = path.with_name((match["before"] or "") + _KNOWN)
    known = _known_labels(labels_file)
    rows = []
    for number, entry in enumerate(entries, start=1):
        where = f"entry {number} of {path.name}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), (str, int)):
            raise _no_list(path)
        label = entry.get("template") or entry.get("label") or ""
        if not isinstance(label, str):
            raise _no_list(path)
        label = _without_brackets(label)
        if label:
            checked_label(label, where)
            if known and label not in known:
                raise DatasetError(
                    f"{where} has the class {label!r}, which is not in {labels_file.name}: correct one of them."
                )
        rows.append(Row(label, checked_video(str(entry["id"]), where), role))
    return rows


def _known_labels(path: Path) -> set[str]:
    """Classes of labels.json; none without that file."""
    if not path.is_file():
        return set()
    found = _read(path)
    if not isinstance(found, (dict, list)) or not all(isinstance(label, str) for label in found):
        raise DatasetError(f"{path.name} is no object whose keys are the classes: correct it or remove it.")
    return {_without_brackets(label) for label in found}


def _read(path: Path) -> Any:
    try:
        return json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path.name} is no JSON ({error}): correct it or fetch it again.") from None


def _without_brackets(label: str) -> str:
    return label.replace("[", "").replace("]", "").strip()


def _no_list(path: Path) -> DatasetError:
    return DatasetError(
        f"{path.name} is no list of objects with `id` and `template` or `label`, as Something-Something has them: "
        "correct it, or write a CSV with the columns video, label and split."
    )


SOMETHING_LISTS = ListFormat(
    wanted="train.json, validation.json and test.json, as Something-Something has them",
    split_of=_split,
    classes=lambda path: labels_of(_rows(path)),
    rows=_rows,
    companion=_KNOWN,
    by_path=True,
    max_bytes=MAX_TABLE_BYTES,
)
