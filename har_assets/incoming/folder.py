"""The videos of a folder that others write into: what counts as one, and its name as a partition."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from har_assets.errors import HarError, VideoError
from har_assets.system.files import sha256_of

UNFINISHED = rb"(?:~|\.(?:tmp|temp|part|partial|download|crdownload|filepart))"
"""Ends of names, before the suffix, that programs give to files which they have not finished."""

SLUG_CHARACTERS = 40
HASH_DIGITS = 12
"""Digits of the hash in a partition key: of 100,000 names with one slug two collide with a probability of 2e-5."""


Signature = tuple[int, int, int]
"""Facts that change with the content of a file, without reading it: its size in bytes, the time of the last write
(which copying programs set back) and that of the last change of anything (which the kernel keeps), in nanoseconds.
Of an object in a bucket the second is a number made of its ETag. A bare tuple, as a tick makes one of every file."""


def signature_of(path: Path) -> Signature:
    """The signature of a file, links followed; OSError where there is none."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def name_tests(suffixes: Iterable[str]) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any]]:
    """Two functions of a file's name without its folder: is it a video's, and is it one that is not finished?"""
    endings = b"|".join(re.escape(os.fsencode(suffix)) for suffix in suffixes)
    return (
        re.compile(rb"(?![.~]).*(?:" + endings + rb")$", re.IGNORECASE | re.DOTALL).match,
        re.compile(UNFINISHED + rb"(?:" + endings + rb")$", re.IGNORECASE).search,
    )


def scan(folder: Path, suffixes: Iterable[str]) -> dict[bytes, Signature]:
    """Name, relative to the folder and as the file system has it, to signature of every video in it, at any depth.

    A video is a regular file, or a link to one, with one of the suffixes (`.mp4`, in any case). Hidden files and
    folders, names of unfinished files, links to folders and everything that cannot be looked at are left out.

    Raises:
        HarError: there is no such folder, or it may not be read.
    """
    is_wanted, is_unfinished = name_tests(suffixes)
    is_regular = stat.S_ISREG
    root = os.fsencode(folder)
    found: dict[bytes, Signature] = {}
    waiting = [(root, b"")]
    while waiting:
        path, prefix = waiting.pop()
        try:
            entries = os.scandir(path)
        except OSError as error:
            if path == root:
                raise HarError(
                    f"The folder of new videos {folder} cannot be read ({error.strerror}): make it, or name another "
                    "one in HAR_INCOMING."
                ) from None
            continue
        with entries:
            for entry in entries:
                # This loop is what a tick costs: one system call a file, and little else.
                name = entry.name
                if is_wanted(name) and not is_unfinished(name):
                    try:
                        status = entry.stat()
                    except OSError:
                        continue  # removed since, or a link to nothing
                    if is_regular(status.st_mode):
                        found[prefix + name] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                        continue
                if entry.is_dir(follow_symlinks=False) and not name.startswith(b"."):
                    waiting.append((os.path.join(path, name), prefix + name + b"/"))
    return found


def partition_key(name: bytes) -> str:
    """The partition of a video: what is readable of its name, and a hash of all of it (`clip_07-3f0c9a1b2d4e`)."""
    stem = os.path.splitext(os.path.basename(name))[0].decode("utf-8", "ignore")
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:SLUG_CHARACTERS].strip("_") or "video"
    return f"{slug}-{hashlib.sha256(name).hexdigest()[:HASH_DIGITS]}"


def printable(name: bytes) -> str:
    """A file name for people, tables and JSON: what is not UTF-8 is written as `\\xff`."""
    return name.decode("utf-8", "backslashreplace")


class GoneError(HarError):
    """A video that was removed or replaced before it could be read."""


@dataclass(frozen=True)
class LocalVideo:
    """A video whose bytes are at hand."""

    name: bytes
    path: Path
    content: str
    """SHA-256."""
    signature: Signature
    """As it was before it was read."""


Wanted = deque[tuple[str, bytes]]
"""Partition and name of videos that are still to be read."""


class Videos(Protocol):
    """Where new videos are: a folder, or a bucket of which copies are made."""

    @property
    def address(self) -> str:
        """For people."""

    needs_stillness: bool
    """A file may be there before it is complete."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def scan(self, suffixes: Iterable[str]) -> dict[bytes, Signature]:
        """Name to signature of every video that is there. Raises HarError."""

    def read(self, wanted: Wanted) -> Iterator[tuple[str, bytes, LocalVideo | GoneError | VideoError]]:
        """Take videos off the left of `wanted`, in order, and make them readable; each is to be released.

        Ends before `wanted` does where no room is left for copies until some are released: then call it again.
        Raises HarError for what concerns all of them.
        """

    def read_again(self, video: LocalVideo) -> Path:
        """Path of a video that was released. Raises HarError, GoneError where it is not the same any more."""

    def is_unchanged(self, video: LocalVideo) -> bool:
        """Whether what lies at its path is still what was read first."""

    def release(self, video: LocalVideo) -> None:
        """Its path is not needed for now."""


class VideoFolder:
    """A folder of this machine: nothing is copied."""

    needs_stillness = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = str(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to clean."""

    def scan(self, suffixes: Iterable[str]) -> dict[bytes, Signature]:
        """See `scan`."""
        return scan(self.path, suffixes)

    def read(self, wanted: Wanted) -> Iterator[tuple[str, bytes, LocalVideo | GoneError | VideoError]]:
        """Where they lie, with the hash of their content."""
        while wanted:
            partition, name = wanted.popleft()
            path = self.path / os.fsdecode(name)
            found: LocalVideo | GoneError | VideoError
            try:
                signature = signature_of(path)
                found = LocalVideo(name, path, sha256_of(path), signature)
            except FileNotFoundError:
                found = GoneError(f"its video is gone from {self.path}")
            except OSError as error:
                found = VideoError(f"the file cannot be read: {error.strerror}")
            yield partition, name, found

    def read_again(self, video: LocalVideo) -> Path:
        """Its path."""
        return video.path

    def is_unchanged(self, video: LocalVideo) -> bool:
        """By its signature."""
        try:
            return signature_of(video.path) == video.signature
        except OSError:
            return False

    def release(self, video: LocalVideo) -> None:
        """Nothing to remove."""
