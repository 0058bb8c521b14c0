"""The videos of a folder that others write into: what counts as one, and its name as a partition."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from har_assets.errors import HarError, VideoError
from har_assets.system.files import Log, sha256_of, silent
from har_assets.video.walk import Walk, ending_of, left_out

UNFINISHED = r"(?:~|\.(?:tmp|temp|part|partial|download|crdownload|filepart))"
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


class VideoNames:
    """Tells videos by the names of new files, and counts what is left out."""

    def __init__(self, suffixes: Iterable[str]) -> None:
        self._endings = tuple(suffix.lower() for suffix in suffixes)
        endings = "|".join(map(re.escape, self._endings))
        self._is_unfinished = re.compile(rf"{UNFINISHED}(?:{endings})\Z").search
        self.left_out: list[str] = []
        """Endings of files that are no videos."""

    def is_video(self, name: str) -> bool:
        """Whether a file name without its folder is that of a complete video."""
        lower = name.lower()
        kept_back = name[0] in ".~" or (lower.endswith(self._endings) and self._is_unfinished(lower))
        if lower.endswith(self._endings) and not kept_back:
            return True
        self.left_out.append("hidden or unfinished" if kept_back else ending_of(name))
        return False


def scan(folder: Path, suffixes: Iterable[str], note: Log = silent) -> dict[bytes, Signature]:
    """Name, relative to the folder and as the file system has it, to signature of every video in it, at any depth.

    A video is a regular file, or a link to one, with one of the suffixes (`.mp4`, in any case). Hidden files, names of
    unfinished files, junk (see `Walk`, which follows links to folders) and everything that cannot be looked at are left
    out; `note` takes sentences about them.

    Raises:
        HarError: there is no such folder, or it may not be read.
    """
    names, walk = VideoNames(suffixes), Walk(folder)
    is_video, is_regular, encoded = names.is_video, stat.S_ISREG, os.fsencode
    found: dict[bytes, Signature] = {}
    for path, entry in walk:
        # This loop is what a tick costs: one system call a file, and little else.
        if is_video(entry.name):
            with contextlib.suppress(OSError):  # removed since, or a link to nothing
                status = entry.stat()
                if is_regular(status.st_mode):
                    found[encoded(path + entry.name)] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                    continue
            names.left_out.append("without content")
    if reason := walk.unread.pop("", ""):
        raise HarError(
            f"The folder of new videos {folder} cannot be read ({reason}): make it, or name another one in "
            "HAR_INCOMING."
        )
    for path, reason in walk.unread.items():
        note(f"The folder {path} cannot be read ({reason}).")
    for sentence in left_out(names.left_out, walk.junk):
        note(sentence)
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

    def scan(self, suffixes: Iterable[str], note: Log = silent) -> dict[bytes, Signature]:
        """Name to signature of every video that is there; `note` takes sentences about other files. Raises HarError."""

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

    def scan(self, suffixes: Iterable[str], note: Log = silent) -> dict[bytes, Signature]:
        """See `scan`."""
        return scan(self.path, suffixes, note)

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
