"""Lists that name the videos of a source by their paths, matched with the videos that are there."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from har_assets.dataset.list_formats.list_format import Row
from har_assets.dataset.lists import lists_below
from har_assets.errors import DatasetError


@dataclass(frozen=True)
class Matched:
    """What lists say of the videos of a source."""

    rows: dict[int, list[tuple[int, Row]]]
    """Number of a video to its rows, each with the number of a split."""
    absent: list[tuple[int, Row]]
    """The same of videos that are not there, under names that no video has."""


@dataclass
class Listing:
    """The rows of all lists of a source."""

    shown: str
    """Names of the files, for messages."""
    by_path: bool
    """Whether the lists tell the class of a video wherever it lies; HMDB51's expect it in the folder of its class."""
    rows: list[tuple[int, Row]]
    """Number of a split and what it says of a video."""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, label: str) -> Listing:
        """Read the lists below a folder, as far as `label` wants to know. Raises DatasetError."""
        lists = lists_below(folder)
        by_path = any(of.by_path for _, of, _ in lists)
        shown = ", ".join(path.name for path, _, _ in lists[:3]) + (", ..." if len(lists) > 3 else "")
        wanted = lists if by_path or label == "csv" else []
        rows = [(number, row) for path, of, number in wanted for row in of.rows(path)]
        told = [(number, row) for number, row in rows if row.label]
        listing = cls(shown, by_path, told)
        if len(told) < len(rows):
            listing.notes.append(
                f"{len(rows) - len(told)} videos of {shown} have no class there (the test list of Something-Something "
                "has none) and are left out."
            )
        listing._refuse_likely_slips()
        return listing

    @cached_property
    def labels(self) -> set[str]:
        """Every class."""
        return {row.label for _, row in self.rows}

    def match(self, paths: Sequence[tuple[str, ...]], root: int, source: str) -> Matched:
        """Find the videos of the rows: each has one class in all splits and one role in each.

        Args:
            paths: parts of the path of each video, those of the source before them.
            root: how many parts are those of the source.
            source: its name, for messages.

        Raises:
            DatasetError: no listed video is there, none of a class, a path fits several videos, or two rows of one
                video disagree.
        """
        index = _Index(paths, root)
        found: dict[int, dict[int, Row]] = defaultdict(dict)
        absent: list[tuple[int, Row]] = []
        present: set[str] = set()
        for number, row in self.rows:
            fits = index.find(row.video)
            if not fits:
                absent.append((number, row._replace(video=f"{row.video.replace('/', '_')} (absent)")))
            if len(fits) > 1:
                first, second = ("/".join(paths[at][root:]) for at in fits[:2])
                raise DatasetError(
                    f"{self.shown} lists {row.video}, which may be {first} or {second}: write the folder too."
                )
            for at in fits:
                present.add(row.label)
                for other_number, other in found[at].items():
                    if row.label != other.label or (number == other_number and row[2:] != other[2:]):
                        raise DatasetError(
                            f"{self.shown} lists {row.video} twice, as {_told(other)} and as {_told(row)}: keep one "
                            "of the lines."
                        )
                found[at][number] = row
        if not found:
            first = "/".join(paths[0][root:]) if paths else "none"
            raise DatasetError(
                f"None of the {len(self.rows)} videos that {self.shown} lists is in {source} (the first listed is "
                f"{self.rows[0][1].video}, the first there {first}): name the lists of this data set."
                if self.rows
                else f"{self.shown} tells the class of no video: add the classes."
            )
        if missing := sorted(self.labels - present):
            names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DatasetError(
                f"{self.shown} lists {len(missing)} classes of which {source} holds no video ({names}): add the videos "
                "or remove these lines."
            )
        return Matched({at: sorted(by_split.items()) for at, by_split in found.items()}, absent)

    def _refuse_likely_slips(self) -> None:
        by_folded: dict[str, str] = {}
        for label in sorted(self.labels):
            if (other := by_folded.setdefault(label.casefold(), label)) != label:
                raise DatasetError(f"{self.shown} has the classes {other} and {label}: write one of them throughout.")


class _Index:
    """Videos by the end of their path, with or without the ending of the file name."""

    def __init__(self, paths: Sequence[tuple[str, ...]], root: int) -> None:
        self._root = root
        self._paths = [tuple(map(composed, path)) for path in paths]
        self._at: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, path in enumerate(self._paths):
            for name in {path[-1], path[-1].rpartition(".")[0]}:
                self._at[(name,)].append(number)
                self._at[(*path[-2:-1], name)].append(number)

    def find(self, video: str) -> list[int]:
        """Numbers of the videos that a path may mean; the one that lies there from the root on goes before others."""
        *folders, name = composed(video).split("/")
        wanted = tuple(folders)
        near = self._at.get((*wanted[-1:], name), [])
        fits = [at for at in near if self._paths[at][:-1][len(self._paths[at]) - 1 - len(wanted) :] == wanted]
        exact = [at for at in fits if len(self._paths[at]) - 1 - len(wanted) == self._root]
        return exact if len(exact) == 1 else fits


def composed(text: str) -> str:
    """Text in one of the two forms that Unicode has for letters with accents: macOS writes names in the other."""
    return unicodedata.normalize("NFC", text)


def _told(row: Row) -> str:
    return " ".join(filter(None, (row.label, row.role, row.group)))
