"""Files: writing them whole, hashes, sizes and durations in words, free space, progress lines."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from har_assets.errors import HarError
from har_assets.system.processes import is_running

Log = Callable[[str], None]
"""Takes one finished line, such as `context.log.info` or `print`."""

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def silent(line: str) -> None:
    """Drop a log line."""


def format_bytes(count: float) -> str:
    """`2_100_000_000` -> `2.1 GB` (decimal units, as disks and networks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(seconds: float) -> str:
    """`3700` -> `1 h 01 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Counts bytes and logs done, rate and time left every few seconds. Safe to use from several threads."""

    def __init__(self, what: str, total: int | None, log: Log, *, every_s: float = 5.0, done: int = 0) -> None:
        self._what = what
        self._total = total
        self._log = log
        self._every_s = every_s
        self._lock = threading.Lock()
        self._started = self._logged = time.monotonic()
        self._done = self._done_at_start = done

    def add(self, count: int) -> None:
        """Count `count` bytes more."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._logged >= self._every_s:
                self._logged = now
                self._log(self._line(now))

    def _line(self, now: float) -> str:
        rate = (self._done - self._done_at_start) / max(now - self._started, 1e-9)
        if not self._total:
            return f"{self._what}: {format_bytes(self._done)}, {format_bytes(rate)}/s"
        left = max(self._total - self._done, 0) / max(rate, 1e-9)
        return (
            f"{self._what}: {format_bytes(self._done)} of {format_bytes(self._total)} "
            f"({100 * self._done / self._total:.0f} %), {format_bytes(rate)}/s, {format_seconds(left)} left"
        )


def require_space(folder: Path, need: int, what: str, error: type[HarError]) -> None:
    """Raise `error` where the file system of `folder` has fewer than `need` bytes free (1 % spare)."""
    need += need // 100
    have = shutil.disk_usage(folder).free
    if have < need:
        raise error(
            f"{what} needs {format_bytes(need)} in {folder} and {format_bytes(have)} are free: free some "
            "space there or choose a folder on another disk."
        )


def modified(path: Path) -> float:
    """Time of the last change, seconds since 1970; 0 for what has gone since it was listed."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: Any) -> str:
    """SHA-256 of a JSON-ready value, 64 hexadecimal digits; the same for dictionaries in any order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; one with several hard links counts once, links to elsewhere not at all."""
    total = 0
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue  # removed meanwhile
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total


def freed(folder: Path) -> int:
    """Bytes that go with a folder: files that are linked from elsewhere too are not counted."""
    total = 0
    links: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            continue
        file = status.st_dev, status.st_ino
        links[file] = links.get(file, 0) + 1
        if links[file] == status.st_nlink:
            total += status.st_size
    return total


def remove_tree(folder: Path) -> None:
    """Remove a folder, also where its folders are read-only; what cannot be removed stays, for the next time."""

    for path, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def short_name(name: str, most: int) -> str:
    """A file name of at most `most` bytes: itself, or its beginning, `~` and eight digits of a hash of all of it."""
    data = os.fsencode(name)
    if len(data) <= most:
        return name
    return f"{data[: most - 9].decode(errors='ignore')}~{hashlib.sha256(data).hexdigest()[:8]}"


@contextlib.contextmanager
def written_whole(target: Path, *, keep_suffix: bool = False) -> Iterator[Path]:
    """A path beside `target` to write a file to, which takes the target's place when the block ends.

    A reader finds the old file or the new one, never a part of one; a fault leaves nothing behind. Missing folders
    are made. The path ends in `.partial`, so that no program takes it for the file itself; with `keep_suffix` it ends
    as the target does, for writers that choose a format by the suffix.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Process numbers repeat among containers that share a folder, so a random part follows.
    writer = f"{os.getpid()}-{secrets.token_hex(4)}.partial"
    start, end = _around_the_writer(target, keep_suffix=keep_suffix)
    partial = target.with_name(f"{start}{writer}{end}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _around_the_writer(target: Path, *, keep_suffix: bool) -> tuple[str, str]:
    """Beginning and end of the names of the partial files of `target`."""
    stem, suffix = (target.stem, target.suffix) if keep_suffix else (target.name, "")
    return f".{short_name(stem, 200)}.", suffix


def write_text_whole(target: Path, text: str) -> None:
    """Write a small text file in UTF-8, completely or not at all; see `written_whole`."""
    with written_whole(target) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partials(target: Path, *, untouched_s: float = 0.0) -> None:
    """Remove what killed processes left of `target` (see `written_whole`), untouched for that many seconds.

    A process number of another container may look dead here, so a folder that is shared needs a time.
    """
    for start, end in (_around_the_writer(target, keep_suffix=keep) for keep in (False, True)):
        pattern = f"{glob.escape(start)}*.partial{glob.escape(end)}"
        for partial in list(target.parent.glob(pattern)):
            writer = re.search(r"\.(\d+)(?:-[0-9a-f]+)?\.partial", partial.name)
            if writer and not is_running(int(writer[1])) and time.time() - modified(partial) >= untouched_s:
                with contextlib.suppress(OSError):
                    partial.unlink()
