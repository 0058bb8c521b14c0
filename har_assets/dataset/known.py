"""Published data sets: class order, counts and the rule for recordings of each. One row of KNOWN a data set."""

from __future__ import annotations

from dataclasses import dataclass

from har_assets.dataset.classes import (
    HMDB51_CLASSES,
    HMDB51_CLIPS,
    HMDB51_SPLITS,
    HMDB51_TEST_CLIPS,
    HMDB51_TRAIN_CLIPS,
    HMDB51_UNUSED_CLIPS,
)
from har_assets.dataset.groups import HMDB51_FILMS


@dataclass(frozen=True)
class KnownDataset:
    """Facts about a published data set, known before its files are read."""

    name: str
    """In `dataset.json`, and as a source of raw_archive where it can be downloaded."""
    title: str
    """For people."""
    classes: tuple[str, ...]
    """In index order."""
    clips: int
    train_clips: int
    """Training clips of each official split, validation included."""
    test_clips: int
    """Test clips of each official split."""
    unused_clips: int
    """Clips that each official split leaves out."""
    splits: tuple[int, ...]
    """Numbers of the official splits."""
    recordings: str
    """Name of the rule by which clips belong to one recording."""

    def is_meant(self, name: str, found: tuple[str, ...], listed: tuple[str, ...]) -> bool:
        """Whether a source is this data set or a part of it: by its name, or by its classes and split lists."""
        return name == self.name or (set(found) <= set(self.classes) and set(listed) == set(self.classes))

    def is_whole(self, name: str, found: tuple[str, ...], listed: tuple[str, ...], clips: int) -> bool:
        """Whether a source claims to be all of it: by its name, or by its classes, lists and size."""
        return name == self.name or (set(found) == set(listed) == set(self.classes) and clips >= self.clips)


HMDB51 = KnownDataset(
    name="hmdb51",
    title="HMDB51",
    classes=HMDB51_CLASSES,
    clips=HMDB51_CLIPS,
    train_clips=HMDB51_TRAIN_CLIPS,
    test_clips=HMDB51_TEST_CLIPS,
    unused_clips=HMDB51_UNUSED_CLIPS,
    splits=HMDB51_SPLITS,
    recordings=HMDB51_FILMS,
)

KNOWN: tuple[KnownDataset, ...] = (HMDB51,)


def recognized(name: str, found: tuple[str, ...], listed: tuple[str, ...]) -> KnownDataset | None:
    """The published data set that a source is, or is a part of.

    Args:
        name: of the source.
        found: classes of its videos.
        listed: classes of its split lists.
    """
    return next((known for known in KNOWN if known.is_meant(name, found, listed)), None)
