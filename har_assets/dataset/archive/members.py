"""A file inside an archive: what a reader gives of it, how it is copied, and what is refused in one sentence."""

import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from har_assets.errors import ArchiveError
from har_assets.system.files import DISK_FULL_ERRNOS

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """A regular file inside an archive. Its path has been checked: relative, no `..`."""

    parts: tuple[str, ...]
    size: int
    """Bytes, as the table of contents declares them; verified while copying."""

    @property
    def path(self) -> str:
        """The name inside the archive, with `/`."""
        return "/".join(self.parts)


class CancelledError(Exception):
    """Another thread has failed; its error is the one to show."""


def ignore_count(count: int) -> None:
    """For `copy_member` where nobody shows progress."""


def copy_member(
    stream: IO[bytes],
    path: Path,
    member: Member,
    cancelled: threading.Event,
    count: Callable[[int], None],
) -> None:
    """Write the next `member.size` bytes of a stream to a new read-only file; ValueError where there are fewer."""
    left = member.size
    with path.open("xb") as file:
        while left:
            if cancelled.is_set():
                raise CancelledError
            data = stream.read(min(left, CHUNK_BYTES))
            if not data:
                raise ValueError(f"{member.path} has not the {member.size:,} bytes that it declares")
            left -= len(data)
            file.write(data)
            count(len(data))
    path.chmod(0o444)


@contextmanager
def damage_in_words(shown: str) -> Iterator[None]:
    """Turn what the readers raise on unsound archives into one sentence."""
    try:
        yield
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise damaged(shown, str(error)) from error
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise ArchiveError(
                f"the disk became full while {shown} was unpacked: free some space and run it again."
            ) from error
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


def too_many_files(shown: str, limit: int) -> ArchiveError:
    """The error for more files than are wanted."""
    return ArchiveError(f"{shown} holds more than {limit:,} files: leave out what is no video, or divide it.")


def checked_parts(name: str, shown: str, *, is_folder: bool = False) -> tuple[str, ...]:
    """Split a member's name, at `\\` too, as Windows writes it; refuse one that could leave the target folder."""
    slashed = name.replace("\\", "/")
    parts = tuple(part for part in slashed.split("/") if part not in ("", "."))
    nameless = not parts and not is_folder
    if nameless or slashed.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
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
