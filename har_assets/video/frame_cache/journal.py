"""The work folder of a build: packs under construction, and a journal that says which frames are in them.

A clip gets a line in the journal after its frames are in a pack. A build that was killed goes on after the last line
whose frames are really there.
"""

import hashlib
import json
import os
import shutil
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from har_assets.errors import HarError
from har_assets.video.frame_cache.cache import CacheParams, Entry

LOCK = "lock"
"""Lock file of a work folder; it stays when the rest is removed."""

# The .npy header is written first and filled in last, so its length is fixed: 128 bytes hold any shape.
NPY_HEADER_BYTES = 128

# Bytes of frames after which pack and journal are forced to the disk.
SYNC_BYTES = 256 << 20

# Threads that copy frames into a pack: one copies some 200 clips a second, sixteen cores decode more.
COPIERS = 4

# Bytes that a copier holds at a time; they stay in the processor's cache.
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Decoded:
    """The reply of a worker: the frames lie in a file, only facts travel through the pipe."""

    num_frames: int
    fps: float
    source_frames: int
    decoder: str
    note: str
    crc32: int


class Journal:
    """The work folder: packs under construction, and a line for every clip that is in one."""

    def __init__(self, work: Path, params: CacheParams, pack_bytes: int) -> None:
        self.work = work
        self.params = params
        self._max_frames_a_pack = max(pack_bytes // params.frame_bytes, 1)
        self._path = work / "journal.jsonl"
        self.entries: dict[str, Entry] = {}
        self.reasons: dict[str, str] = {}
        self._frames_in_pack: dict[str, int] = {}
        self._sealed: set[str] = set()
        self._unsynced = 0
        self._pack: IO[bytes] | None = None
        self._journal: IO[bytes] | None = None
        self._threads = ThreadPoolExecutor(COPIERS, thread_name_prefix="frame-cache")
        self._copies: deque[tuple[Entry, Future[None]]] = deque()
        """Clips that have their place; noted, in this order, when their frames are there."""
        self._syncing: tuple[int, Future[None]] | None = None
        """How many entries the disk is being made to keep."""
        self._resume()

    def part(self, sha: str) -> Path:
        """Where a worker leaves the frames of one video."""
        return self.work / f"{sha}.part"

    def append(self, sha: str, decoded: Decoded) -> None:
        """Give a worker's frames the next place in the pack; they are copied there and then noted."""
        pack = self._pack_with_room(decoded.num_frames)
        assert self._pack is not None
        entry = Entry(
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
            if path.name != LOCK:
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
            entry = Entry(**line)
        except TypeError:
            return False
        if not self._is_there(entry, read=read):
            return False
        self.entries[entry.sha256] = entry
        self._frames_in_pack[entry.pack] = entry.first_frame + entry.num_frames
        return True

    def _is_there(self, entry: Entry, *, read: bool) -> bool:
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
        write_all(self._journal, memoryview((json.dumps(line) + "\n").encode()))

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
                write_all(self._pack, memoryview(bytes(NPY_HEADER_BYTES)))
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


def write_all(file: IO[bytes], content: memoryview) -> None:
    """Write all bytes: one call on an unbuffered file may take a part of them."""
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
