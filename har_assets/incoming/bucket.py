"""New videos in a bucket: listed by their names, sizes, ETags and times, and copied here to be decoded.

    s3://camera/new/day 1/clip.mp4                       an object, complete or absent: S3 shows no half of one
    artifacts/incoming_video_predictions/.copies-x1y2/   of one run, held by a lock, gone with it
      clip-3f0c9a1b2d4e.mp4                              while it waits for its decoder; its name is not the object's

Copies are made some at once and a little ahead of the decoders. They take no more disk together than MOST_COPIED: a
run stops copying there, and goes on when what is copied has been predicted.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Self

from har_assets import settings
from har_assets.errors import HarError, VideoError
from har_assets.incoming.folder import GoneError, LocalVideo, Signature, VideoNames, Wanted
from har_assets.store.remote_folder import PARTS_AT_ONCE, RemoteFolder
from har_assets.system.files import DISK_FULL_ERRNOS, Log, format_bytes, require_space, sha256_of, silent
from har_assets.system.locks import FolderLock
from har_assets.video.walk import junk_of, left_out

COPIES_PREFIX = ".copies-"

LISTING_S = 40.0
"""Longest time of a listing, 1,000 objects a request: Dagster ends a tick of a sensor after 60 s."""


class VideoBucket(RemoteFolder):
    """The videos below an address; a `with` block around it removes its copies."""

    needs_stillness = False

    def __init__(self, address: str, home: Path, most_copied: int) -> None:
        """Names an address, and the folder below which copies may take `most_copied` bytes together.

        HarError for what is no address of S3.
        """
        if address.partition("://")[0] not in ("s3", "s3a") or not address.partition("://")[2].strip("/"):
            raise HarError(
                f"{address!r} is no place of new videos: name a folder or s3://bucket/prefix in {settings.INCOMING}."
            )
        super().__init__(address, settings.INCOMING)
        self._home, self._most = home, most_copied
        self._sizes: dict[bytes, Signature] = {}
        """Sizes in the listing."""
        self._held: dict[Path, int] = {}
        """Copies that are there or under way, and their bytes."""
        self._folder: Path | None = None
        self._lock: FolderLock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove all copies."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
        self._folder, self._lock, self._held = None, None, {}

    def scan(self, suffixes: Iterable[str], note: Log = silent) -> dict[bytes, Signature]:
        """Name, relative to the address and in UTF-8, to signature of every video, by the rules of a folder.

        Raises StorageError, also where there is no such bucket; a prefix without objects is an empty folder.
        """
        from fsspec.asyn import sync

        names, junk = VideoNames(suffixes), list[str]()
        place = self._place()
        with self._faults("list"):
            try:
                listed = sync(self._remote.loop, self._remote._find, place, detail=True, timeout=LISTING_S)
            except FileNotFoundError:
                listed = {}
        self._refuse_missing_bucket(listed)
        found: dict[bytes, Signature] = {}
        for path, entry in listed.items():
            if not path.startswith(f"{place}/"):
                continue  # an object that has the name of the folder
            name = path.removeprefix(f"{place}/")
            parts = tuple(name.split("/"))
            if left := junk_of(parts):
                junk.append(left)
            elif parts[-1] and names.is_video(parts[-1]):
                found[name.encode()] = _signature(entry)
        for sentence in left_out(names.left_out, junk):
            note(sentence)
        self._sizes = found
        return found

    def read(self, wanted: Wanted) -> Iterator[tuple[str, bytes, LocalVideo | GoneError | VideoError]]:
        """Copies, several at once; see Videos. HarError for a full disk, StorageError for a bucket that fails."""
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="copies") as pool:
            waiting: deque[tuple[str, bytes, Future[LocalVideo | GoneError | VideoError]]] = deque()
            try:
                while True:
                    while wanted and len(waiting) < PARTS_AT_ONCE and self._has_room(wanted[0][1]):
                        partition, name = wanted.popleft()
                        path = self._copy_of(partition, name)
                        self._held[path] = self._size(name)  # before it is there, so that all of them count
                        waiting.append((partition, name, pool.submit(self._fetched, name, path)))
                    if not waiting:
                        return
                    partition, name, future = waiting.popleft()
                    yield partition, name, future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def read_again(self, video: LocalVideo) -> Path:
        """The copy once more."""
        self._held[video.path] = video.signature[0]
        again = self._fetched(video.name, video.path)
        if isinstance(again, VideoError):
            raise again
        if isinstance(again, GoneError) or again.content != video.content:
            raise GoneError("the object was replaced or removed before it was read")
        return again.path

    def is_unchanged(self, video: LocalVideo) -> bool:
        """A copy changes no more; what becomes of the object meanwhile is for the next tick."""
        return True

    def release(self, video: LocalVideo) -> None:
        """Remove the copy."""
        self._drop(video.path)

    def _drop(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._held.pop(path, None)

    def _size(self, name: bytes) -> int:
        return self._sizes[name][0] if name in self._sizes else 0

    def _has_room(self, name: bytes) -> bool:
        """Whether one more copy may be begun. The first always may: `_fetched` refuses one that is too large alone."""
        held = tuple(self._held.values())  # at once, as copies that fail are taken out by other threads
        return not held or sum(held) + self._size(name) <= self._most

    def _copy_of(self, partition: str, name: bytes) -> Path:
        """Where the copy of an object lies; its own name may be anything."""
        if self._folder is None:
            self._sweep()
            self._home.mkdir(parents=True, exist_ok=True)
            while self._folder is None or not self._folder.exists():  # swept before it was locked
                self._folder = Path(tempfile.mkdtemp(prefix=COPIES_PREFIX, dir=self._home))
                self._lock = FolderLock.shared(self._folder)
        return self._folder / f"{partition}{PurePosixPath(name.decode()).suffix.lower()}"

    def _sweep(self) -> None:
        """Remove the copies of runs that were killed: no process holds their folders."""
        for folder in self._home.glob(f"{COPIES_PREFIX}*"):
            lock = FolderLock.exclusive(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()

    def _fetched(self, name: bytes, path: Path) -> LocalVideo | GoneError | VideoError:
        """Copy one object, whole and of one version, or say why not. HarError for what concerns all."""
        before = self._sizes.get(name)
        if before is None:
            self._drop(path)
            return GoneError(f"its video is gone from {self._address}")
        if before[0] > self._most:
            self._drop(path)
            return VideoError(
                f"the object has {format_bytes(before[0])} and {format_bytes(self._most)} may be copied: raise "
                "most_copied of `incoming`"
            )
        place = self._place(name.decode())
        try:
            require_space(path.parent, before[0], f"A copy of {self.address_of(place)}", HarError)
            refused = self._download(place, path)
            if refused:
                self._drop(path)
                return VideoError(f"the object may not be read: {refused}")
            after = self._look(place)
            if after is None or after[:2] != before[:2] or path.stat().st_size != before[0]:
                self._drop(path)
                return GoneError("the object was replaced or removed while it was read")
            return LocalVideo(name, path, sha256_of(path), before)
        except BaseException:
            self._drop(path)
            raise

    def _download(self, place: str, path: Path) -> str:
        """Copy an object; returns why that is not allowed, or nothing. One that is gone leaves an empty file."""
        with self._faults("read"):
            try:
                self._remote.get_file(place, str(path))
            except FileNotFoundError:
                self._refuse_missing_bucket(())
                path.touch()
            except PermissionError as error:  # of this object, or kept where it has to be restored first
                return " ".join(str(error).split())[:200] or type(error).__name__
            except OSError as error:
                if error.errno in DISK_FULL_ERRNOS:
                    raise HarError(
                        f"The disk became full while {self.address_of(place)} was copied to {self._home}: free some "
                        "space, or lower most_copied of `incoming`."
                    ) from None
                raise
        return ""

    def _look(self, place: str) -> Signature | None:
        """The signature of an object as it is now; None where it is gone."""
        with self._faults("look at"):
            try:
                return _signature(self._remote.info(place))
            except FileNotFoundError:
                return None


def _signature(entry: dict[str, Any]) -> Signature:
    """Size, a number made of the ETag (63 bits, as SQLite keeps it), and time of the last change in nanoseconds."""
    mark = hashlib.sha256(str(entry.get("ETag", "")).strip('"').encode()).digest()
    changed = entry.get("LastModified")
    changed_ns = int(changed.timestamp()) * 10**9 if isinstance(changed, datetime) else 0
    return int(entry.get("size") or 0), int.from_bytes(mark[:8]) >> 1, changed_ns
