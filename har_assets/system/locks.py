"""Locks among processes, by `flock`: the kernel frees what a killed process held.

FolderLock   a reader keeps a folder from being removed (shared), or a remover takes it (exclusive)
locked       one process at a time writes a target; the others wait
exclusive    one process at a time works in a folder; the others are refused in a sentence
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
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
    """Hold the lock of `target` among all processes; others wait, and say so in a line of their log.

    The lock file `.NAME.lock` beside the target is gone afterwards. HarError where the folder takes no file.
    """
    path = target.parent / f".{target.name}.lock"

    def waiting() -> None:
        log(f"waiting for another process that is writing {target}")

    with _held(path, wait_s=-1, waiting=waiting):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # by its holder alone: those who wait then lock a new file


@contextmanager
def exclusive(folder: Path, purpose: str, *, name: str = ".lock", wait_s: float = 15.0) -> Iterator[None]:
    """Hold `folder` for this process; HarError when another one still has it after `wait_s` seconds.

    Any end frees it, kill -9 too. The wait lets a process go that is just dying with its parent. The lock file `name`
    stays, with the number of the process that had the folder last.
    """
    path = folder / name
    try:
        with _held(path, wait_s=wait_s):
            with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                path.write_text(str(os.getpid()))
            yield
    except LockTakenError:
        holder = "unknown"
        with contextlib.suppress(OSError):
            holder = path.read_text().strip() or holder
        raise HarError(
            f"Process {holder} is already at work on {purpose} in {folder}: wait for it to end or stop it."
        ) from None


class LockTakenError(Exception):
    """Another process has the lock."""


@contextmanager
def _held(path: Path, *, wait_s: float, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the file `path` by `flock`; LockTakenError after `wait_s` seconds, of which -1 means any number.

    filelock looks whether the file that it locked was removed meanwhile, and then tries again.
    It calls a thread that locks a file twice a deadlock instead of waiting for it.
    """
    from filelock import FileLock, Timeout  # where it is needed: it costs a command that locks nothing 50 ms

    # A lock may end in another thread than the one it began in. On a file system without `flock` filelock would take
    # the mere existence of the file for a lock, which a killed process holds for good.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waiting()
            lock.acquire(timeout=wait_s)
    except Timeout:
        raise LockTakenError from None
    except FileNotFoundError:
        raise HarError(f"{path.parent} was removed while this process waited for it.") from None
    except OSError as error:
        raise HarError(
            f"nothing can be written to {path.parent} ({error.strerror}): choose another folder or mend its "
            "permissions."
        ) from error
    try:
        yield
    finally:
        lock.release()
