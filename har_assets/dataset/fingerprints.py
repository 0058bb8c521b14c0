"""Fingerprints of videos: the background of each in a few numbers, computed once for each content."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from har_assets.dataset.dvc import FileHash
from har_assets.dataset.folder import VIDEOS, clips_below
from har_assets.errors import VideoError
from har_assets.system.files import Log, sha256_of, written_whole
from har_assets.video.decode import VideoReader
from har_assets.video.workers import decode_many

_HEIGHT, _WIDTH, _CELL = 48, 64, 8
VALUES = _HEIGHT // _CELL * _WIDTH // _CELL * 3
"""Values of a fingerprint."""
_FRAMES = 16
_LONGEST = 1500
"""Frames that are looked at, from the first on: a film of hours is no clip of an action."""
_SAVE_EVERY_S = 60.0
FILE = "fingerprints.npz"


@dataclass(frozen=True)
class Content:
    """What is known of the content of the videos, and where fingerprints are kept."""

    hashes: Mapping[str, str]
    """`<class>/<file>` to a hash of the bytes."""
    work: Path
    """Folder that keeps fingerprints between runs."""
    log: Log
    workers: int | None = None
    timeout_s: float = 120

    @classmethod
    def of(cls, data: Path, files: Iterable[FileHash], work: Path, log: Log) -> Self:
        """The content of a data folder by the hashes of its published files; other videos in it are hashed here."""
        hashes = {each["relpath"]: each["md5"] for each in files}
        found = {}
        for path in clips_below(data):
            name = path.relative_to(data).as_posix()
            found[name.removeprefix(f"{VIDEOS}/")] = hashes.get(name) or sha256_of(path)
        return cls(found, work, log)

    def fingerprints(self, videos: Path, clips_N: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Fingerprints uint8 [N, VALUES] of videos, and whether each gave one; those of before are not decoded again.

        Raises:
            HarError: the workers do not run, or the disk is full.
        """
        kept = _read(self.work / FILE)
        missing = list(dict.fromkeys(self.hashes[clip] for clip in clips_N if self.hashes[clip] not in kept))
        if missing:
            self.log(f"Fingerprints of {len(missing)} videos are computed, to find videos of one recording.")
            self._compute(videos, {self.hashes[clip]: clip for clip in reversed(clips_N)}, missing, kept)
        found_N = [kept[self.hashes[clip]] for clip in clips_N]
        prints_NF = np.stack([np.zeros(VALUES, np.uint8) if found is None else found for found in found_N])
        return prints_NF, np.array([found is not None for found in found_N])

    def _compute(
        self, videos: Path, clips: Mapping[str, str], missing: list[str], kept: dict[str, NDArray[np.uint8] | None]
    ) -> None:
        results = decode_many(
            (videos / clips[key] for key in missing), fingerprint, workers=self.workers, timeout_s=self.timeout_s
        )
        saved_at = time.monotonic()
        with contextlib.closing(results):
            for position, result in results:
                kept[missing[position]] = None if isinstance(result, VideoError) else result
                if time.monotonic() > saved_at + _SAVE_EVERY_S:
                    _write(self.work / FILE, kept)
                    saved_at = time.monotonic()
        _write(self.work / FILE, kept)


def fingerprint(path: Path) -> NDArray[np.uint8]:
    """The middle value over some frames of each cell of the picture, uint8 [VALUES]: what moves is mostly left out.

    Raises:
        VideoError: the file gives no frame.
    """
    frames: list[NDArray[np.uint8]] = []
    step = 1
    for number, frame in enumerate(islice(VideoReader(path, size=(_HEIGHT, _WIDTH)), _LONGEST)):
        if number % step == 0:
            frames.append(frame)
            if len(frames) == 2 * _FRAMES:
                frames, step = frames[::2], 2 * step
    middle_HWC = np.median(np.stack(frames), axis=0)
    cells = middle_HWC.reshape(_HEIGHT // _CELL, _CELL, _WIDTH // _CELL, _CELL, 3).mean(axis=(1, 3))
    print_F: NDArray[np.uint8] = np.rint(cells).astype(np.uint8).ravel()
    return print_F


def _read(path: Path) -> dict[str, NDArray[np.uint8] | None]:
    """Fingerprints by content, None for a video without; none where the file is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as found:
            keys, prints_NF, seen_N = found["keys"], found["prints"], found["seen"]
        if prints_NF.shape == (len(keys), VALUES) and seen_N.shape == (len(keys),):
            rows = zip(keys.tolist(), prints_NF, seen_N, strict=True)
            return {str(key): row if seen else None for key, row, seen in rows}
    except Exception:  # noqa: BLE001 - a damaged file of this kind raises anything; it is computed again
        pass
    return {}


def _write(path: Path, kept: Mapping[str, NDArray[np.uint8] | None]) -> None:
    rows = [np.zeros(VALUES, np.uint8) if row is None else row for row in kept.values()]
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            keys=np.array(list(kept), dtype=np.str_),
            prints=np.stack(rows),
            seen=np.array([row is not None for row in kept.values()]),
        )
