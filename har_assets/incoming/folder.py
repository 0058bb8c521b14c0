"""The videos of a folder that others write into: what counts as one, and its name as a partition."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from har_assets.errors import HarError

UNFINISHED = rb"(?:~|\.(?:tmp|temp|part|partial|download|crdownload|filepart))"
"""Ends of names, before the suffix, that programs give to files which they have not finished."""

SLUG_CHARACTERS = 40
HASH_DIGITS = 12
"""Of a partition key: among 100,000 names with one and the same slug two collide with a probability of 2e-5."""


Signature = tuple[int, int, int]
"""What of a file changes when its content does, without reading it: its size in bytes, the time of the last write
(which copying programs set back) and that of the last change of anything (which the kernel keeps), in nanoseconds.
A bare tuple, as a tick makes one of every file."""


def signature_of(path: Path) -> Signature:
    """The signature of a file, links followed; OSError where there is none."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def scan(folder: Path, suffixes: Iterable[str]) -> dict[bytes, Signature]:
    """Name, relative to the folder and as the file system has it, to signature of every video in it, at any depth.

    A video is a regular file, or a link to one, with one of the suffixes (`.mp4`, in any case). Hidden files and
    folders, names of unfinished files, links to folders and everything that cannot be looked at are left out.

    Raises:
        HarError: there is no such folder, or it may not be read.
    """
    endings = b"|".join(re.escape(os.fsencode(suffix)) for suffix in suffixes)
    is_wanted = re.compile(rb"(?![.~]).*(?:" + endings + rb")$", re.IGNORECASE | re.DOTALL).match
    is_unfinished = re.compile(UNFINISHED + rb"(?:" + endings + rb")$", re.IGNORECASE).search
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
