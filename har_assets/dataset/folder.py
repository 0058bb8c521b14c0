"""The data folder: videos, split lists and what data set they are.

data/
  dataset.json          name, whether it is synthetic, class names in index order
  videos/<class>/<clip>
  splits/<class>_test_split<k>.txt    absent where the source has no lists
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from har_assets.dataset.classes import HMDB51_CLASSES, HMDB51_CLIPS
from har_assets.errors import DatasetError

DATASET_FILE = "dataset.json"
VIDEOS = "videos"
SPLITS = "splits"


@dataclass(frozen=True)
class Dataset:
    """What `dataset.json` says."""

    name: str
    """`sample`, `hmdb51`, or the stem of the user's own archive or folder."""
    synthetic: bool
    """True for the built-in sample, False for everything filmed."""
    classes: tuple[str, ...]
    """Class names in index order."""
    complete: bool
    """True when this claims to be all of HMDB51 (6,766 clips): gaps are then errors, not notes."""

    def write(self, data: Path) -> None:
        """Write `dataset.json` into a data folder, the same bytes for the same data set."""
        (data / DATASET_FILE).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, data: Path) -> Self:
        """Read it; DatasetError where there is none."""
        path = data / DATASET_FILE
        try:
            fields: dict[str, Any] = json.loads(path.read_text())
            return cls(**{**fields, "classes": tuple(fields["classes"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{path} cannot be read ({type(error).__name__}): materialize video_clips with force: true."
            ) from error


def class_list(name: str, found: tuple[str, ...], listed: tuple[str, ...]) -> tuple[str, ...]:
    """Class names in index order.

    HMDB51 has its constant list, also where some classes are absent on disk (`found`); so has every
    other data set whose folders are HMDB51 classes and whose split lists are HMDB51's. Any other takes
    the classes of its source, sorted.
    """
    if name == "hmdb51" or (set(found) <= set(HMDB51_CLASSES) and set(listed) == set(HMDB51_CLASSES)):
        return HMDB51_CLASSES
    return tuple(sorted(found))


def is_complete(name: str, found: tuple[str, ...], listed: tuple[str, ...], clips: int) -> bool:
    """True when a data set claims to be all of HMDB51: by its name, or by its classes, lists and size."""
    return name == "hmdb51" or (set(found) == set(listed) == set(HMDB51_CLASSES) and clips >= HMDB51_CLIPS)
