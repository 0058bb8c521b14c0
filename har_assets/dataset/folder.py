"""The data folder: videos, split lists, what data set they are, and how one folder takes the place of another.

data/
  dataset.json          name, whether it is synthetic, class names in index order
  videos/<class>/<clip>
  splits/     HMDB51's lists as they came, or split<k>.csv made from other lists or from folders; absent without any
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from har_assets.dataset.dvc import FileHash, differences
from har_assets.dataset.groups import DEFAULT_RULE, RULES, Rule
from har_assets.dataset.known import HMDB51, KNOWN, KnownDataset, recognized
from har_assets.errors import DatasetError
from har_assets.store.record import Artifact
from har_assets.system.files import Log
from har_assets.video.walk import class_videos, walk_files

DATASET_FILE = "dataset.json"
VIDEOS = "videos"
SPLITS = "splits"

CLIP_HASHES = "clips.json"
"""md5 and path of every file of data/, in the format of DVC's own listings."""


@dataclass(frozen=True)
class Dataset:
    """The content of `dataset.json`."""

    name: str
    """`sample`, `hmdb51`, or the stem of the user's own archive or folder."""
    synthetic: bool
    """True for the built-in sample, False for everything filmed."""
    classes: tuple[str, ...]
    """Class names in index order."""
    complete: bool
    """True when this claims to be all of HMDB51 (6,766 clips): gaps are then errors, not notes."""
    recordings: str = DEFAULT_RULE
    """Name of the rule by which clips belong to one recording. Left out of the file while it is the default."""

    @classmethod
    def of(cls, name: str, *, synthetic: bool, found: tuple[str, ...], listed: tuple[str, ...], clips: int) -> Self:
        """The data set of a source: its class order, its rule for recordings, and whether it claims to be whole.

        HMDB51 has its constant list, also where some classes are absent on disk (`found`); so has every other source
        whose folders are HMDB51 classes and whose split lists (`listed`) are HMDB51's. Any other takes the classes of
        its source, sorted.
        """
        known = recognized(name, found, listed)
        if known is None:
            return cls(name, synthetic, tuple(sorted(found)), complete=False)
        return cls(name, synthetic, known.classes, known.is_whole(name, found, listed, clips), known.recordings)

    @property
    def claims(self) -> KnownDataset | None:
        """The published data set that this claims to be all of."""
        if not self.complete:
            return None
        # An older dataset.json with other classes claimed to be HMDB51, which its check then denies.
        return next((known for known in KNOWN if known.classes == self.classes), HMDB51)

    @property
    def rule(self) -> Rule:
        """The rule by which clips belong to one recording."""
        return RULES[self.recordings]

    def write(self, data: Path) -> None:
        """Write `dataset.json` into a data folder, the same bytes for the same data set."""
        fields = dataclasses.asdict(self)
        if self.recordings == DEFAULT_RULE:
            del fields["recordings"]
        (data / DATASET_FILE).write_text(json.dumps(fields, indent=2) + "\n")

    @classmethod
    def read(cls, data: Path) -> Self:
        """Read it; DatasetError where there is none."""
        path = data / DATASET_FILE
        try:
            fields: dict[str, Any] = json.loads(path.read_text())
            found = cls(**{**fields, "classes": tuple(fields["classes"])})
            RULES[found.recordings]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{path} cannot be read ({type(error).__name__}): materialize video_clips with force: true."
            ) from error
        return found


# --- the files of data/ ------------------------------------------------------------------------------


def clips_below(data: Path) -> list[Path]:
    """Every video of `data/`, in no order."""
    videos = data / VIDEOS
    return [path for path in walk_files(videos).files if path.is_file()] if videos.is_dir() else []


def videos_on_disk(videos: Path) -> list[tuple[str, str, int]]:
    """(class, file name, bytes) of every video of a folder of class folders; DatasetError where there is none."""
    if not videos.is_dir():
        raise DatasetError(f"there is no folder {videos}: unpack the videos first (asset video_clips).")
    rows = list(class_videos(videos))
    if not rows:
        raise DatasetError(f"{videos} holds no video in a class folder: unpack the videos again.")
    return rows


def changed_files(published: Artifact, data: Path) -> dict[str, list[str]]:
    """Names of the files of `data/` that are `changed`, `missing` or `new` since video_clips published it."""
    return differences(data, published_files(published))


def published_files(published: Artifact) -> list[FileHash]:
    """md5 and path of every file of `data/` as video_clips published it."""
    files: list[FileHash] = json.loads(published.file(CLIP_HASHES).read_text())
    return files


def is_still_there(published: Artifact, data: Path) -> bool:
    """True when `data/` is what video_clips published: same data set, same number and bytes of videos."""
    clips = clips_below(data)
    same_file = (data / DATASET_FILE).is_file() and (
        (data / DATASET_FILE).read_text() == published.file(DATASET_FILE).read_text()
    )
    return (
        same_file
        and len(clips) == published.record.metadata["clips"]
        and sum(path.stat().st_size for path in clips) == published.record.metadata["video_bytes"]
    )


# --- replacing it ------------------------------------------------------------------------------------


@contextmanager
def new_data(data: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `data/` when the block ends well; `recover_data` knows its steps."""
    staging, old = _staging(data), _replaced(data)
    staging.mkdir(parents=True)
    try:
        yield staging
        if data.exists():
            data.rename(old)
        staging.rename(data)
        _remove(old)
    finally:
        _remove(staging)


def recover_data(data: Path, log: Log) -> None:
    """Mend what a kill in the middle of replacing `data/` has left: the old folder is back, or the new one stays."""
    old, staging = _replaced(data), _staging(data)
    if old.exists() and not data.exists():
        log(f"a run was killed while it replaced {data}: the folder as it was before is put back")
        old.rename(data)
    for left in (old, staging):
        _remove(left)


def _staging(data: Path) -> Path:
    return data.with_name(f".{data.name}.staging")


def _replaced(data: Path) -> Path:
    return data.with_name(f".{data.name}.replaced")


def _remove(folder: Path) -> None:
    """Remove a tree whose files may be read-only."""
    if folder.exists():
        shutil.rmtree(folder)
