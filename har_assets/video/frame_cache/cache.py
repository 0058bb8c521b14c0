"""A finished frame cache: its tables, and the frames of each clip, mapped from the packs as they are used."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from har_assets.errors import HarError
from har_assets.video.resize import COVER
from har_assets.video.sampling import Sampling

if TYPE_CHECKING:
    import pandas as pd

INDEX_COLUMNS = [
    "clip",
    "sha256",
    "pack",
    "first_frame",
    "num_frames",
    "fps",
    "source_frames",
    "decoder",
    "note",
]

TABLES = ("params.json", "index.csv", "quarantine.csv")
"""Files of a cache that are no packs."""


@dataclass(frozen=True)
class CacheParams:
    """How the frames of a cache are made. A cache made with other parameters is another cache."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    stride: int = 1
    """Every how many frames of a video of `fps` frames a second one is kept."""
    max_frames: int | None = None
    """Frames kept of a clip, from its start, unless it is to be kept whole; None keeps all."""
    rule: str = "bilinear-2"
    """Version of the code that makes the frames: raise it when frames change."""
    fps: float = 30.0
    """Frames a second that `stride` counts in."""
    resize: str = COVER
    """Rule of `har_assets.video.resize`. Caches that were made before it was a field have `cover`."""

    @property
    def sampling(self) -> Sampling:
        """The moments of a video whose frames are kept."""
        return Sampling(self.stride, self.fps)

    def cuts(self, num_frames: int) -> bool:
        """Whether a clip of which so many frames are held may have more."""
        return self.max_frames is not None and num_frames == self.max_frames

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.height * self.width * 3


@dataclass(frozen=True)
class Entry:
    """A decoded video: a line of the journal and, with clip names, of the index."""

    sha256: str
    pack: str
    first_frame: int
    num_frames: int
    fps: float
    source_frames: int
    decoder: str
    note: str
    crc32: int


class FrameCache:
    """A finished cache, read only. Cheap to open and to send to another process (it travels as its path)."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            facts = json.loads((self.folder / "params.json").read_text())
            with (self.folder / "index.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise HarError(
                f"{self.folder} is no frame cache ({error.strerror}: {Path(error.filename).name})."
            ) from None
        self.params = CacheParams(**facts)
        self._row_of_clip = {row["clip"]: number for number, row in enumerate(rows)}
        self.pack_names = sorted({row["pack"] for row in rows})
        number_of_pack = {name: number for number, name in enumerate(self.pack_names)}
        self.rows = CacheRows(
            pack=np.array([number_of_pack[row["pack"]] for row in rows], dtype=np.int64),
            first_frame=np.array([int(row["first_frame"]) for row in rows], dtype=np.int64),
            num_frames=np.array([int(row["num_frames"]) for row in rows], dtype=np.int64),
            clips=tuple(self._row_of_clip),
        )
        self._packs: dict[int, NDArray[np.uint8]] = {}

    def pack(self, number: int) -> NDArray[np.uint8]:
        """Memory-mapped frames of one pack, by its number in `rows`: uint8 [frames, height, width, 3]."""
        if number not in self._packs:
            # As a plain array: slicing a memmap makes another memmap, in Python, for every window of every batch.
            self._packs[number] = np.load(self.folder / self.pack_names[number], mmap_mode="r").view(np.ndarray)
        return self._packs[number]

    def frames_of_row(self, row: int) -> NDArray[np.uint8]:
        """View of one clip by its row in `rows` and `index`: uint8 [frames, height, width, 3]."""
        first = int(self.rows.first_frame[row])
        return self.pack(int(self.rows.pack[row]))[first : first + int(self.rows.num_frames[row])]

    def frames(self, clip: str) -> NDArray[np.uint8]:
        """View of one clip's frames, read from the disk as they are used: uint8 [frames, height, width, 3].

        Raises:
            KeyError: the clip is not in the cache; a quarantined one is named with its reason.

        """
        if clip not in self._row_of_clip:
            reasons = dict(zip(self.quarantine["clip"], self.quarantine["reason"], strict=True))
            raise KeyError(f"{clip} is not in the frame cache: {reasons.get(clip, 'it was never added')}")
        return self.frames_of_row(self._row_of_clip[clip])

    def packs_of(self, clips: Iterable[str]) -> set[str]:
        """Names of the packs that hold these clips, which are in the cache."""
        return {self.pack_names[int(self.rows.pack[self.row(clip)])] for clip in clips}

    def row(self, clip: str) -> int:
        """Row of a clip in `rows` and `index`; KeyError where it is not in the cache."""
        return self._row_of_clip[clip]

    @cached_property
    def index(self) -> "pd.DataFrame":
        """One row a clip, sorted by name, with the columns INDEX_COLUMNS."""
        return _read_table(self.folder / "index.csv")

    @cached_property
    def quarantine(self) -> "pd.DataFrame":
        """The clips that gave no frame: columns clip, reason."""
        return _read_table(self.folder / "quarantine.csv")

    def __contains__(self, clip: object) -> bool:
        return clip in self._row_of_clip

    def __len__(self) -> int:
        return len(self._row_of_clip)

    def __reduce__(self) -> tuple[type["FrameCache"], tuple[Path]]:
        return FrameCache, (self.folder,)


@dataclass(frozen=True)
class CacheRows:
    """Where each clip lies, as arrays, for loaders that slice without pandas. Row i is row i of the index."""

    pack: NDArray[np.int64]
    """Number of the pack, for `FrameCache.pack`."""
    first_frame: NDArray[np.int64]
    num_frames: NDArray[np.int64]
    clips: tuple[str, ...]


def write_tables(folder: Path, params: CacheParams, rows: Mapping[str, Entry], quarantine: Mapping[str, str]) -> None:
    """Write TABLES: `rows` is clip name to entry, sorted; `quarantine` is clip name to reason."""
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(INDEX_COLUMNS)
        for clip, entry in rows.items():
            table.writerow([clip, *(getattr(entry, column) for column in INDEX_COLUMNS[1:])])
    with (folder / "quarantine.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["clip", "reason"])
        table.writerows(sorted(quarantine.items()))
    (folder / "params.json").write_text(json.dumps(asdict(params), indent=2) + "\n")


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    # A clip may be called 'NA' or '007': text columns are text.
    text = dict.fromkeys(["clip", "sha256", "pack", "decoder", "note", "reason"], str)
    return pd.read_csv(path, dtype=text, keep_default_na=False)
