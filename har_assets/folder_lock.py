"""Locks on folders, by which a reader keeps what it reads from being removed.

`flock` on the folder itself: nothing is written, so a reader needs no right to write, a folder that is moved keeps its
lock, and the kernel frees what a killed process held. Processes that are forked while a lock is held share it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self


class FolderLock:
    """A lock that is held for as long as this object exists, or until `release`."""

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
