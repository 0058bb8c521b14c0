"""Every clip decoded once, to uint8 frames in memory-mapped packs.

A cache is a folder:

    params.json        how the frames were made (CacheParams)
    index.csv          clip, sha256, pack, first_frame, num_frames, fps, source_frames, decoder, note
    quarantine.csv     clip, reason: the clips that gave no frame
    frames-<id>.npy    packs: uint8 [frames, height, width, 3], for np.load(mmap_mode='r')

A clip is known by the SHA-256 of its file. Adding clips therefore decodes only these: the packs of the
earlier cache are hard-linked beside one with the new clips. Quarantined clips are tried again by every build.

While it is built, a pack lies in a work folder beside a journal with a line a clip, written after the clip's
frames. A build that was killed goes on after the last line whose frames are really there, and ends with the
same files as an undisturbed one, as clips get their places in the order of their names.

    workers ──a file of frames a clip──► places in a pack, in order ──► copied by threads ──► noted, in order
"""

import csv
import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from har_assets.errors import HarError, VideoError
from har_assets.video.decode import decode_video
from har_assets.video.workers import available_cores, decode_many

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

# The .npy header is written first and filled in last, so its length is fixed: 128 bytes hold any shape.
NPY_HEADER_BYTES = 128

# A pack ends at the clip that would make it larger. Small enough to copy and upload in one go.
PACK_BYTES = 2 << 30

# Bytes of frames after which pack and journal are forced to the disk.
SYNC_BYTES = 256 << 20

# Threads that copy frames into a pack: one copies some 200 clips a second, sixteen cores decode more.
COPIERS = 4

# Bytes that a copier holds at a time; they stay in the processor's cache.
COPY_BYTES = 1 << 20

# Clips that are decoded first to learn how many frames and seconds a clip takes; kept, not thrown away.
SAMPLE_CLIPS = 16

PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class CacheParams:
    """How the frames of a cache are made. A cache made with other parameters is another cache."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    stride: int = 1
    """Every how many-th frame of the file is kept."""
    max_frames: int | None = 64
    """Frames kept of a clip, from its start; None keeps all."""
    rule: str = "cover-bilinear-1"
    """The resize rule and the version of the code behind it: raise it when frames change."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.height * self.width * 3


@dataclass(frozen=True)
class CacheReport:
    """What a build did."""

    clips: int
    """Clips in the index."""
    decoded: int
    """Videos decoded by this call."""
    resumed: int
    """Videos taken over from a build that was interrupted."""
    reused: int
    """Videos taken over from the earlier cache."""
    quarantined: dict[str, str]
    """Clip name to reason."""
    notes: dict[str, str]
    """Clip name to what is odd about it, where something is."""
    frames: int
    """Frames that the index names, a video under two names counted once."""
    bytes: int
    """Size of the packs."""
    seconds: float
    """Wall-clock time of the call."""


@dataclass(frozen=True)
class _Entry:
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


@dataclass(frozen=True)
class _Decoded:
    """What a worker sends back: the frames lie in a file, only facts travel through the pipe."""

    num_frames: int
    fps: float
    source_frames: int
    decoder: str
    note: str
    crc32: int


def build_frame_cache(
    clips: Mapping[str, Path],
    *,
    params: CacheParams,
    folder: Path,
    work: Path,
    previous: Path | None = None,
    workers: int | None = None,
    timeout_s: float = 120,
    pack_bytes: int = PACK_BYTES,
    may_be_empty: bool = False,
    log: Callable[[str], None] = print,
) -> CacheReport:
    """Decode every clip into a cache in `folder`.

    Args:
        clips: clip name to video file.
        params: frame size, stride and frame count.
        folder: made or filled; the packs in it are hard links to those in `work`.
        work: kept between calls, so that a killed build is resumed; `clear_work` when the cache is published.
        previous: the folder of an earlier cache, whose packs are hard-linked where the parameters agree.
        workers: processes; None takes one a core.
        timeout_s: seconds that decoding one video may take.
        pack_bytes: a pack ends before the clip that would make it larger.
        may_be_empty: not one decodable clip is no error: this is a part of a cache.
        log: takes a line at a time: the need in disk and time, then progress every few seconds.

    Returns:
        Counts and the quarantine.

    Raises:
        HarError: no clips, not one decodable clip, too little disk, or another build at work in `work`.

    """
    if not clips:
        raise HarError("There are no clips to cache: the list of clips is empty.")
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work), _disk_errors_in_words(work), ExitStack() as opened:
        log(f"Hashing {len(clips):,} videos.")
        sha_of_clip, quarantine = _hash_all(clips, workers or available_cores())
        clip_of_sha: dict[str, str] = {}
        for clip in sorted(sha_of_clip):
            clip_of_sha.setdefault(sha_of_clip[clip], clip)

        reused = _reusable_entries(previous, params, set(clip_of_sha))
        journal = opened.enter_context(closing(_Journal(work, params, pack_bytes)))
        if journal.entries and all(sha in reused for sha in journal.entries):
            journal.start_again()  # what it holds is published
        done = {**journal.entries, **reused}
        plan = [
            (sha, clips[clip]) for sha, clip in clip_of_sha.items() if sha not in done and sha not in journal.reasons
        ]
        resumed = len(journal.entries.keys() & clip_of_sha.keys() - reused.keys())
        log(
            f"Frame cache of {params.height}x{params.width} frames: {len(plan):,} videos to decode, "
            f"{len(reused):,} reused, {resumed:,} resumed."
        )
        _decode_into(journal, plan, workers=workers, timeout_s=timeout_s, log=log)

        final_names = journal.seal()
        packs = {name: work / pack for pack, name in final_names.items()}
        if previous is not None:
            packs.update({entry.pack: previous / entry.pack for entry in reused.values()})
        entries = {
            **{sha: replace(entry, pack=final_names[entry.pack]) for sha, entry in journal.entries.items()},
            **reused,
        }
        for clip, sha in sha_of_clip.items():
            if sha not in entries:
                quarantine[clip] = journal.reasons[sha]
        rows = {clip: entries[sha] for clip, sha in sorted(sha_of_clip.items()) if sha in entries}
        if not rows and not may_be_empty:
            clip, reason = next(iter(sorted(quarantine.items())))
            raise HarError(
                f"None of the {len(clips):,} clips could be decoded; the first, {clip}: {reason}. "
                "Check the folder that the clips come from."
            )
        names = {entry.pack for entry in rows.values()}
        for name in names:
            _link_or_copy(packs[name], folder / name)
        _write_tables(folder, params, rows, quarantine)
    return CacheReport(
        clips=len(rows),
        decoded=len(plan),
        resumed=resumed,
        reused=len(reused),
        quarantined=dict(sorted(quarantine.items())),
        notes={clip: entry.note for clip, entry in rows.items() if entry.note},
        frames=sum(entries[sha].num_frames for sha in {entry.sha256 for entry in rows.values()}),
        bytes=sum((folder / name).stat().st_size for name in names),
        seconds=time.monotonic() - started,
    )


def merge_frame_caches(parts: list[Path], folder: Path, *, packs_elsewhere: bool = False) -> CacheReport:
    """One cache in `folder` from caches of different clips with the same parameters, whose packs are hard-linked.

    With `packs_elsewhere` none is: the parts are tables alone, and the caller sees to the packs.
    Returns counts and the quarantine. Raises HarError where parameters differ or no part has a clip.
    """
    caches = [FrameCache(part) for part in parts]
    if len({cache.params for cache in caches}) != 1:
        raise HarError("Frame caches that were made with different parameters cannot be merged: build them again.")
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, _Entry] = {}
    quarantine: dict[str, str] = {}
    for cache in caches:
        for row in cache.index.to_dict("records"):
            facts = {name: row[name] for name in INDEX_COLUMNS[1:]}
            rows[str(row["clip"])] = _Entry(**facts, crc32=0)
        quarantine.update(zip(cache.quarantine["clip"], cache.quarantine["reason"], strict=True))
        for name in [] if packs_elsewhere else cache._pack_names:
            _link_or_copy(cache.folder / name, folder / name)
    if not rows:
        clip, reason = next(iter(sorted(quarantine.items())))
        raise HarError(
            f"None of the {len(quarantine):,} clips could be decoded; the first, {clip}: {reason}. "
            "Check the folder that the clips come from."
        )
    _write_tables(folder, caches[0].params, dict(sorted(rows.items())), quarantine)
    frames = {entry.sha256: entry.num_frames for entry in rows.values()}
    return CacheReport(
        clips=len(rows),
        decoded=0,
        resumed=0,
        reused=0,
        quarantined=dict(sorted(quarantine.items())),
        notes={clip: entry.note for clip, entry in sorted(rows.items()) if entry.note},
        frames=sum(frames.values()),
        bytes=sum(pack.stat().st_size for pack in folder.glob("*.npy")),
        seconds=0.0,
    )


def clear_work(work: Path) -> None:
    """Remove what an interrupted or published build keeps in `work`; the cache's own links stay."""
    if work.exists():
        with _locked(work):
            for path in work.iterdir():
                if path.name != "lock":
                    path.unlink()


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
        self._pack_names = sorted({row["pack"] for row in rows})
        number_of_pack = {name: number for number, name in enumerate(self._pack_names)}
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
            self._packs[number] = np.load(self.folder / self._pack_names[number], mmap_mode="r").view(np.ndarray)
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
        return {self._pack_names[int(self.rows.pack[self.row(clip)])] for clip in clips}

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


# ------------------------------------------------------------------------------------------ building


@dataclass
class _Progress:
    """Says every few seconds how far the build is."""

    total: int
    log: Callable[[str], None]
    done: int = 0
    refused: int = 0
    first: float = 0.0
    """When the first video was done: until then the workers start, which says nothing of the rate."""
    said: float = field(default_factory=time.monotonic)

    @property
    def seconds_a_video(self) -> float:
        """Mean since the first one; 0.0 before the second."""
        return (time.monotonic() - self.first) / (self.done - 1) if self.done > 1 else 0.0

    def step(self, refused: bool) -> None:
        now = time.monotonic()
        self.first = self.first or now
        self.done += 1
        self.refused += refused
        pace = self.seconds_a_video
        if (now - self.said >= PROGRESS_SECONDS and pace) or self.done == self.total:
            self.said = now
            rate = f" {1 / pace:.1f} a second, {_duration((self.total - self.done) * pace)} left," if pace else ""
            self.log(f"{self.done:,} of {self.total:,} videos,{rate} {self.refused:,} quarantined.")


def _decode_into(
    journal: "_Journal",
    plan: list[tuple[str, Path]],
    *,
    workers: int | None,
    timeout_s: float,
    log: Callable[[str], None],
) -> None:
    """Decode the plan in parallel and append to the journal's packs in the order of the plan."""
    params = journal.params
    # A sample from all over the plan goes first; its frames wait on the disk for their turn.
    step = max(len(plan) // SAMPLE_CLIPS, 1)
    sample = list(range(0, len(plan), step))[:SAMPLE_CLIPS] if len(plan) > 2 * SAMPLE_CLIPS else []
    chosen = set(sample)
    order = sample + [position for position in range(len(plan)) if position not in chosen]
    tasks = ((os.fspath(plan[position][1]), os.fspath(journal.part(plan[position][0]))) for position in order)
    waiting: dict[int, _Decoded | VideoError] = {}
    sampled: list[int] = []
    progress = _Progress(len(plan), log)
    next_to_write = 0
    function = partial(_decode_to_file, params=params)
    decoding = decode_many(tasks, function, workers=workers, timeout_s=timeout_s, queued=2, pinned=True)
    with closing(decoding) as results:
        for number, result in results:
            waiting[order[number]] = result
            progress.step(isinstance(result, VideoError))
            if number < len(sample):
                sampled.append(0 if isinstance(result, VideoError) else result.num_frames)
                if len(sampled) == len(sample):
                    _say_need(journal, len(plan), sampled, len(plan) * progress.seconds_a_video, log)
            while next_to_write in waiting:
                ready = waiting.pop(next_to_write)
                sha = plan[next_to_write][0]
                if isinstance(ready, VideoError):
                    journal.refuse(sha, str(ready))
                else:
                    journal.append(sha, ready)
                next_to_write += 1


def _say_need(journal: "_Journal", clips: int, sampled: list[int], seconds: float, log: Callable[[str], None]) -> None:
    """Say the disk and the time that the build will take; raise where the disk has not got it."""
    need = int(clips * (sum(sampled) / len(sampled)) * journal.params.frame_bytes)
    have = shutil.disk_usage(journal.work).free
    log(
        f"Judged by {len(sampled)} clips, this needs {_gigabytes(need)} of disk "
        f"({_gigabytes(have)} are free) and {_duration(seconds)}."
    )
    if need > have:
        raise HarError(
            f"The frame cache needs {_gigabytes(need)} of disk and {_gigabytes(have)} are free in "
            f"{journal.work}: free some, or ask for smaller or fewer frames a clip."
        )


def _decode_to_file(task: tuple[str, str], *, params: CacheParams) -> _Decoded:
    """Decode one video in a worker process and leave its frames in a file."""
    video, part = task
    decoded = decode_video(
        Path(video),
        size=(params.height, params.width),
        stride=params.stride,
        max_frames=params.max_frames,
    )
    frames = memoryview(decoded.frames_THWC.data).cast("B")
    with _disk_errors_in_words(Path(part).parent), open(part, "wb", buffering=0) as file:
        _write_all(file, frames)
    return _Decoded(
        num_frames=len(decoded.frames_THWC),
        fps=decoded.fps,
        source_frames=decoded.num_source_frames,
        decoder=decoded.decoder,
        note=decoded.note,
        crc32=zlib.crc32(frames),
    )


class _Journal:
    """The work folder: packs under construction, and a line for every clip that is in one."""

    def __init__(self, work: Path, params: CacheParams, pack_bytes: int) -> None:
        self.work = work
        self.params = params
        self._max_frames_a_pack = max(pack_bytes // params.frame_bytes, 1)
        self._path = work / "journal.jsonl"
        self.entries: dict[str, _Entry] = {}
        self.reasons: dict[str, str] = {}
        self._frames_in_pack: dict[str, int] = {}
        self._sealed: set[str] = set()
        self._unsynced = 0
        self._pack: IO[bytes] | None = None
        self._journal: IO[bytes] | None = None
        self._threads = ThreadPoolExecutor(COPIERS, thread_name_prefix="frame-cache")
        self._copies: deque[tuple[_Entry, Future[None]]] = deque()
        """Clips that have their place; noted, in this order, when their frames are there."""
        self._syncing: tuple[int, Future[None]] | None = None
        """How many entries the disk is being made to keep."""
        self._resume()

    def part(self, sha: str) -> Path:
        """Where a worker leaves the frames of one video."""
        return self.work / f"{sha}.part"

    def append(self, sha: str, decoded: _Decoded) -> None:
        """Give a worker's frames the next place in the pack; they are copied there and then noted."""
        pack = self._pack_with_room(decoded.num_frames)
        assert self._pack is not None
        entry = _Entry(
            sha256=sha,
            pack=pack,
            first_frame=self._frames_in_pack[pack],
            num_frames=decoded.num_frames,
            fps=decoded.fps,
            source_frames=decoded.source_frames,
            decoder=decoded.decoder,
            note=decoded.note,
            crc32=decoded.crc32,
        )
        self._frames_in_pack[pack] += decoded.num_frames
        start = NPY_HEADER_BYTES + entry.first_frame * self.params.frame_bytes
        length = entry.num_frames * self.params.frame_bytes
        copy = self._threads.submit(_move_frames, self.part(sha), self._pack.fileno(), start, length)
        self._copies.append((entry, copy))
        self._note_copied(leave=2 * COPIERS)
        if self._unsynced >= SYNC_BYTES:
            self._start_sync()

    def _note_copied(self, *, leave: int) -> None:
        """Note the clips whose frames are in the pack; wait until at most `leave` are still to come."""
        while self._copies and (len(self._copies) > leave or self._copies[0][1].done()):
            entry, copy = self._copies.popleft()
            copy.result()
            self._note(asdict(entry))
            self.entries[entry.sha256] = entry
            self._unsynced += entry.num_frames * self.params.frame_bytes

    def refuse(self, sha: str, reason: str) -> None:
        """Note that a video gave no frame."""
        self.part(sha).unlink(missing_ok=True)
        self._note({"sha256": sha, "reason": reason})
        self.reasons[sha] = reason

    def seal(self) -> dict[str, str]:
        """Complete the packs, which are never written again; return their final names by the working ones."""
        self._close_pack()
        for pack in self._frames_in_pack.keys() - self._sealed:
            shape = (self._frames_in_pack[pack], self.params.height, self.params.width, 3)
            with (self.work / pack).open("r+b") as file:
                file.write(_npy_header(shape))
                file.flush()
                os.fsync(file.fileno())
        # From here on the packs may be shared with a published folder.
        self._note({"finished": True})
        self._close_files()
        return {pack: self._final_name(pack) for pack in self._frames_in_pack}

    def _final_name(self, pack: str) -> str:
        content = hashlib.sha256(json.dumps(asdict(self.params)).encode())
        for entry in self.entries.values():
            if entry.pack == pack:
                content.update(f"{entry.sha256} {entry.num_frames} {entry.crc32}\n".encode())
        return f"frames-{content.hexdigest()[:12]}.npy"

    def start_again(self) -> None:
        """Forget everything."""
        self._close_files()
        for path in self.work.iterdir():
            if path.name != "lock":
                path.unlink()
        self.entries, self.reasons, self._frames_in_pack, self._sealed = {}, {}, {}, set()
        self._open_journal()

    def _resume(self) -> None:
        """Read the journal up to a line that is torn or whose frames are not there; cut the rest off."""
        for part in self.work.glob("*.part"):
            part.unlink()
        (good_bytes, header), *lines = list(_whole_lines(self._path)) or [(0, {})]
        if header != self._header():
            self.start_again()
            return
        synced = max((line["synced"] for _, line in lines if "synced" in line), default=0)
        for end, line in lines:
            if not self._take(line, read=len(self.entries) >= synced):
                break
            good_bytes = end
        os.truncate(self._path, good_bytes)
        for pack in self.work.glob("building-*.npy"):
            if pack.name not in self._frames_in_pack:
                pack.unlink()
            elif pack.name not in self._sealed:
                size = NPY_HEADER_BYTES + self._frames_in_pack[pack.name] * self.params.frame_bytes
                if pack.stat().st_nlink > 1:  # part of a published cache, of which it must not cut a byte
                    copy = pack.with_suffix(".part")
                    shutil.copyfile(pack, copy)
                    copy.replace(pack)
                os.truncate(pack, size)
        self._open_journal()

    def _take(self, line: dict[str, Any], *, read: bool) -> bool:
        """Take one line of the journal over; False where it cannot be trusted."""
        if "synced" in line:
            return True
        if "finished" in line:
            self._sealed = set(self._frames_in_pack)
            self.reasons.clear()  # the next build tries quarantined videos again
            return True
        if "reason" in line:
            self.reasons[line["sha256"]] = line["reason"]
            return True
        try:
            entry = _Entry(**line)
        except TypeError:
            return False
        if not self._is_there(entry, read=read):
            return False
        self.entries[entry.sha256] = entry
        self._frames_in_pack[entry.pack] = entry.first_frame + entry.num_frames
        return True

    def _is_there(self, entry: _Entry, *, read: bool) -> bool:
        """Whether an entry's frames are in its pack; `read` also compares the checksum."""
        start = NPY_HEADER_BYTES + entry.first_frame * self.params.frame_bytes
        length = entry.num_frames * self.params.frame_bytes
        try:
            with (self.work / entry.pack).open("rb") as file:
                if file.seek(0, os.SEEK_END) < start + length:
                    return False
                if not read:
                    return True
                file.seek(start)
                return zlib.crc32(file.read(length)) == entry.crc32
        except FileNotFoundError:
            return False

    def _header(self) -> dict[str, Any]:
        return {"format": 2, "params": asdict(self.params), "frames_a_pack": self._max_frames_a_pack}

    def _open_journal(self) -> None:
        self._journal = self._path.open("ab", buffering=0)
        if self._journal.tell() == 0:
            self._note(self._header())

    def _note(self, line: dict[str, Any]) -> None:
        assert self._journal is not None
        _write_all(self._journal, memoryview((json.dumps(line) + "\n").encode()))

    def _pack_with_room(self, num_frames: int) -> str:
        """Name of the open pack that takes `num_frames` more; a full one is closed and the next begun."""
        pack = max(self._frames_in_pack, default="")
        room = self._max_frames_a_pack - self._frames_in_pack.get(pack, 0)
        if not pack or pack in self._sealed or num_frames > room:
            self._close_pack()
            pack = f"building-{len(self._frames_in_pack):04d}.npy"
            self._frames_in_pack[pack] = 0
        if self._pack is None:
            self._pack = (self.work / pack).open("r+b" if (self.work / pack).exists() else "w+b", buffering=0)
            if self._frames_in_pack[pack] == 0:
                _write_all(self._pack, memoryview(bytes(NPY_HEADER_BYTES)))
        return pack

    def _start_sync(self) -> None:
        """Force what is noted to the disk, in a thread; one at a time."""
        self._end_sync()
        assert self._pack is not None
        assert self._journal is not None
        self._unsynced = 0
        files = (self._pack.fileno(), self._journal.fileno())
        self._syncing = (len(self.entries), self._threads.submit(_sync_in_order, files))

    def _end_sync(self) -> None:
        if self._syncing is not None:
            entries, sync = self._syncing
            self._syncing = None
            sync.result()
            self._note({"synced": entries})

    def _close_pack(self) -> None:
        """Nothing more comes into the open pack: wait for its frames and force them to the disk."""
        if self._pack is not None:
            self._note_copied(leave=0)
            self._start_sync()
            self._end_sync()
            self._pack.close()
            self._pack = None

    def close(self) -> None:
        """Stop; what is not noted yet is lost. No thread writes into the work folder afterwards."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._close_files()

    def _close_files(self) -> None:
        for file in (self._pack, self._journal):
            if file is not None:
                file.close()
        self._pack = self._journal = None


# ------------------------------------------------------------------------------------------ helpers


def _hash_all(clips: Mapping[str, Path], threads: int) -> tuple[dict[str, str], dict[str, str]]:
    """SHA-256 of every video by clip name, and the reason where a file cannot be read."""

    def sha256(path: Path) -> str | VideoError:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return VideoError(f"the file cannot be read: {error.strerror}")

    with ThreadPoolExecutor(threads) as pool:
        results = dict(zip(clips, pool.map(sha256, clips.values()), strict=True))
    hashes = {clip: result for clip, result in results.items() if isinstance(result, str)}
    reasons = {clip: str(result) for clip, result in results.items() if isinstance(result, VideoError)}
    return hashes, reasons


def _reusable_entries(previous: Path | None, params: CacheParams, wanted: set[str]) -> dict[str, _Entry]:
    """Entries of an earlier cache for the wanted videos, from packs of which at least half is wanted."""
    if previous is None or not (previous / "index.csv").is_file():
        return {}
    earlier = FrameCache(previous)
    if earlier.params != params:
        return {}
    entries: dict[str, _Entry] = {}
    used: dict[str, int] = {}
    for row in earlier.index.to_dict("records"):
        sha, pack = str(row["sha256"]), str(row["pack"])
        if sha not in wanted or sha in entries or not (previous / pack).is_file():
            continue
        entries[sha] = _Entry(
            sha256=sha,
            pack=pack,
            first_frame=int(row["first_frame"]),
            num_frames=int(row["num_frames"]),
            fps=float(row["fps"]),
            source_frames=int(row["source_frames"]),
            decoder=str(row["decoder"]),
            note=str(row["note"]),
            crc32=0,
        )
        used[pack] = used.get(pack, 0) + int(row["num_frames"])
    sizes = {pack: (previous / pack).stat().st_size // params.frame_bytes for pack in used}
    return {sha: entry for sha, entry in entries.items() if 2 * used[entry.pack] >= sizes[entry.pack]}


def _write_tables(folder: Path, params: CacheParams, rows: Mapping[str, _Entry], quarantine: Mapping[str, str]) -> None:
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


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """A .npy header, version 1.0, of exactly NPY_HEADER_BYTES."""
    magic = np.lib.format.magic(1, 0)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = NPY_HEADER_BYTES - len(magic) - 2
    return magic + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"


def _whole_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON lines and the byte where each ends, up to the first that is torn."""
    end = 0
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            end += len(line)
            try:
                facts = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(facts, dict):
                return
            yield end, facts


def _write_all(file: IO[bytes], content: memoryview) -> None:
    while content:
        content = content[file.write(content) :]


_buffers = threading.local()


def _move_frames(part: Path, pack: int, start: int, length: int) -> None:
    """Copy a worker's file to byte `start` of the open file `pack`, then remove it."""
    if not hasattr(_buffers, "bytes"):
        _buffers.bytes = memoryview(bytearray(COPY_BYTES))
    end = start + length
    with part.open("rb", buffering=0) as source:
        while start < end:
            count = source.readinto(_buffers.bytes[: end - start])
            if count == 0:
                raise HarError("A file of decoded frames is shorter than its worker said: run the build again.")
            content = _buffers.bytes[:count]
            while content:
                written = os.pwrite(pack, content, start)
                content, start = content[written:], start + written
    part.unlink()


def _sync_in_order(files: tuple[int, ...]) -> None:
    for file in files:
        os.fsync(file)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    with (work / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HarError(f"Another frame cache is being built in {work}: wait until it has ended.") from None
        yield


@contextmanager
def _disk_errors_in_words(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        free = shutil.disk_usage(work).free
        raise HarError(
            f"The disk is full while the frame cache is built ({_gigabytes(free)} free in {work}): "
            "free some space and run the same command, which goes on from here."
        ) from None


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
