"""What the archive and the download module share: a lock, a progress line, a check of free space."""

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from har_assets.errors import HarError

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


@contextmanager
def locked(target: Path, log: Log) -> Iterator[None]:
    """Hold the lock of `target` among all processes; the lock file `.NAME.lock` is gone afterwards.

    The kernel frees the lock of a killed process. The file is removed by the holder alone, so one that
    waited has to look whether what it locked is still the file of that name.
    """
    path = target.parent / f".{target.name}.lock"
    while True:
        handle = _open_lock(path)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"waiting for another process that is writing {target}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_file_of_name(handle, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def _open_lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise HarError(
            f"nothing can be written to {path.parent} ({error.strerror}): choose another folder or mend its "
            "permissions."
        ) from error


def _is_file_of_name(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def require_space(folder: Path, need: int, what: str, error: type[HarError]) -> None:
    """Raise `error` where the file system of `folder` has fewer than `need` bytes free (1 % spare)."""
    need += need // 100
    have = shutil.disk_usage(folder).free
    if have < need:
        raise error(
            f"{what} needs {format_bytes(need)} in {folder} and {format_bytes(have)} are free: free some "
            "space there or choose a folder on another disk."
        )
