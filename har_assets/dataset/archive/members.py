"""A file inside an archive: what a reader gives of it, how it is copied, and what is refused in one sentence."""

import gzip
import lzma
import re
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import rarfile

from har_assets.errors import ArchiveError
from har_assets.system.files import DISK_FULL_ERRNOS

CHUNK_BYTES = 1 << 20

_DAMAGE_ERRORS = (
    rarfile.Error,
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    RuntimeError,  # zipfile: a password, or a compression that Python does not know
    ValueError,
    OverflowError,
    MemoryError,  # a damaged header may declare a dictionary of many gigabytes
)


@dataclass(frozen=True)
class Member:
    """A regular file inside an archive. Its path has been checked: relative, no `..`."""

    parts: tuple[str, ...]
    size: int
    """Bytes, as the table of contents declares them; verified while copying."""
    key: Any
    """What the reader opens it by."""
    stored: bool
    """Not compressed: an archive inside can be read in place, without a copy."""

    @property
    def path(self) -> str:
        """The name inside the archive, with `/`."""
        return "/".join(self.parts)


class Stream(Protocol):
    """What copying needs of a file."""

    def read(self, count: int = ..., /) -> bytes:
        """The next bytes, `count` at most; none at the end."""
        ...

    def close(self) -> None:
        """Release what the file holds."""
        ...


class Reader(Protocol):
    """One archive or folder. Members are cheapest to open in the order of the list."""

    members: list[Member]
    one_pass: bool
    """Reading from the middle costs as much as reading from the start: do not divide among threads."""

    def open(self, member: Member) -> Stream:
        """Open a member to be read once, from its start."""
        ...

    def open_in_place(self, member: Member) -> IO[bytes]:
        """Open a stored member as a seekable file."""
        ...

    def finish(self) -> None:
        """Verify what can only be verified after the last member."""
        ...

    def close(self) -> None:
        """Close the archive."""
        ...


class CancelledError(Exception):
    """Another thread has failed; its error is the one to show."""


def ignore_count(count: int) -> None:
    """For `copy_member` where nobody shows progress."""


def copy_member(
    stream: Stream,
    path: Path,
    member: Member,
    cancelled: threading.Event,
    count: Callable[[int], None],
) -> None:
    """Write a member to a new read-only file; its length must be the declared one."""
    written = 0
    with path.open("xb") as file:
        while data := stream.read(CHUNK_BYTES):
            if cancelled.is_set():
                raise CancelledError
            written += len(data)
            if written > member.size:
                break
            file.write(data)
            count(len(data))
    if written != member.size:
        raise ValueError(f"{member.path} has not the {member.size:,} bytes that it declares")
    path.chmod(0o444)


@contextmanager
def damage_in_words(shown: str) -> Iterator[None]:
    """Turn what the readers raise on unsound archives into one sentence."""
    try:
        yield
    except ArchiveError:
        raise
    except rarfile.NeedFirstVolume:
        raise ArchiveError(f"{shown} is a later part of a RAR in parts: name its first part.") from None
    except _DAMAGE_ERRORS as error:
        if "next volume" in str(error):
            raise ArchiveError(
                f"{shown} is a RAR in parts, and the next part is not beside it: put all parts into one "
                "folder and name the first."
            ) from error
        raise damaged(shown, str(error) or type(error).__name__) from error
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise ArchiveError(
                f"the disk became full while {shown} was unpacked: free some space and run it again."
            ) from error
        if error.errno is None:  # bz2 and tarfile raise these for damaged data
            raise damaged(shown, str(error)) from error
        raise ArchiveError(f"{shown} could not be unpacked: {error}.") from error


def damaged(shown: str, reason: str) -> ArchiveError:
    """The error for an archive `shown` that is unsound, for a reason of any length."""
    reason = " ".join(reason.split())[:200].rstrip(".")
    return ArchiveError(f"{shown} is damaged or cut off ({reason}): fetch it again.")


def encrypted(shown: str) -> ArchiveError:
    """The error for an archive with a password."""
    return ArchiveError(f"{shown} is encrypted: unpack it with its password and name the folder instead.")


def not_a_file(name: str, shown: str) -> ArchiveError:
    """The error for a member that is a link or a device."""
    return ArchiveError(
        f"{shown} holds {name!r}, which is a link or a device and not a file: archives with links are "
        "refused, pack it again without."
    )


def checked_parts(name: str, shown: str) -> tuple[str, ...]:
    """Split a member's name; refuse one that could leave the target folder or cannot be written."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise ArchiveError(
            f"{shown} holds {name!r}, a name that points outside the archive: it is unsafe and refused, get "
            "the archive from another source."
        )
    try:
        too_long = any(len(part.encode()) > 255 for part in parts)
    except UnicodeEncodeError:
        raise ArchiveError(
            f"{shown} holds {name!r}, a name that is not valid Unicode: pack it again with UTF-8 names."
        ) from None
    if too_long:
        raise ArchiveError(f"{shown} holds a name of more than 255 bytes, {name[:40]!r}...: shorten it.")
    return parts
