"""A format of lists: how its files are told by their names, and what one line says of a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from har_assets.errors import DatasetError

MAX_LIST_BYTES = 5_000_000
"""No list with one line a video of a class is larger: the largest official one of HMDB51 has 44 kB."""

MAX_TABLE_BYTES = 200_000_000
"""No list of a whole data set is larger: Something-Something's train.json has 30 MB."""

_ROLE_OF_WORD = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class Row(NamedTuple):
    """One video of a list."""

    label: str
    """Class; empty where the list has the video and keeps its class to itself."""
    video: str
    """File name, or a path in the source, with `/`; the ending may be missing."""
    role: str = ""
    """`train`, `val`, `test`, `unused`; empty where the list does not divide its videos."""
    group: str = ""
    """Recording; empty where the list does not tell it."""

    @property
    def name(self) -> str:
        """The file name."""
        return self.video.rpartition("/")[2]


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
    companion: str = ""
    """End of the name of a file that the lists need beside them; empty: there is none."""
    by_path: bool = False
    """Its rows tell the class of each video wherever that lies, not only of those in folders of their classes."""
    max_bytes: int = MAX_LIST_BYTES
    """A larger file is no such list."""

    def holds(self, name: str) -> bool:
        """Whether a file is one of the lists or stands beside them."""
        return self.split_of(name) is not None or bool(self.companion and name.endswith(self.companion))


def role_named(word: str) -> str | None:
    """The role that a word for a split means, in any case: `Training` is `train`; None for any other word."""
    return _ROLE_OF_WORD.get(word.casefold())


def text_of(path: Path) -> str:
    """The text of a list; DatasetError where it is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(
            f"{path.name} is not a text in UTF-8: save it as UTF-8, or fetch the split lists again."
        ) from None
    if "\0" in text:
        raise DatasetError(
            f"{path.name} is not a text in UTF-8 (it holds zero bytes): save it as UTF-8, or fetch it again."
        )
    return text


def labels_of(rows: list[Row]) -> set[str]:
    """The classes of some rows."""
    return {row.label for row in rows if row.label}


def checked_label(label: str, where: str) -> str:
    """A class name that can be the name of a folder; DatasetError for any other, found at `where`."""
    if not label:
        raise DatasetError(f"{where} names no class: write it, or remove the line.")
    if label.startswith(".") or "/" in label or "\\" in label or not label.isprintable():
        raise DatasetError(
            f"{where} names the class {label!r}, which cannot be the name of a folder: write another name."
        )
    if len(label.encode("utf-8", "surrogatepass")) > 255:
        raise DatasetError(f"{where} names a class of more than 255 bytes, {label[:40]!r}...: shorten it.")
    return label


def checked_video(video: str, where: str) -> str:
    """Path of a video in a list, with `/`; DatasetError where there is none."""
    parts = [part for part in video.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise DatasetError(f"{where} names the video {video!r}, which is no path in the source: correct it.")
    return "/".join(parts)
