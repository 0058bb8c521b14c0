"""Locks among processes, by `flock`: the kernel frees what a killed process held.

FolderLock   a reader keeps a folder from being removed (shared), or a remover takes it (exclusive)
locked       one process at a time writes a target; the others wait
exclusive    one process at a time works in a folder; the others are refused in a sentence
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from har_assets.errors import HarError
from har_assets.system.files import Log


class FolderLock:
    """A lock on the folder itself, held for as long as this object exists, or until `release`.

    Nothing is written, so a reader needs no right to write, and a folder that is moved keeps its lock. Processes that
    are forked while a lock is held share it.
    """

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    @classmethod
    def shared(cls, folder: Path) -> Self | None:
        """Hold a folder together with other readers; waits for the moment in which a remover has it.

        None where there is no folder of that name (any more), or where the file system has no locks: then nothing
        removes it either, as `exclusive` fails alike.
        """
        return cls._locked(folder, fcntl.LOCK_SH)

    @classmethod
    def exclusive(cls, folder: Path) -> Self | None:
        """Hold a folder alone; None at once where anyone else holds it, it is gone, or it cannot be locked."""
        return cls._locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def _locked(cls, folder: Path, operation: int) -> Self | None:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            fcntl.flock(handle, operation)
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                return cls(handle)
        except OSError:
            pass  # held by others, no locks on this file system, or moved away while this waited
        os.close(handle)
        return None

    def __reduce__(self) -> str:
        # A copy would close a file handle that is not its own.
        raise TypeError("a lock stays in its process and cannot be copied")

    def release(self) -> None:
        """Give the lock back; a second time does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.release()


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


@contextlib.contextmanager
def exclusive(folder: Path, purpose: str, *, wait_s: float = 15.0) -> Iterator[None]:
    """Hold `folder` for this process; HarError when another one still has it after `wait_s` seconds.

    Any end frees it, kill -9 too. The wait lets a process go that is just dying with its parent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise HarError(
                f"Process {holder} is already at work on {purpose} in {folder}: wait for it to end or stop it."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
