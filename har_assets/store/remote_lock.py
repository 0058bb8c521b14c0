"""One process at a time among all machines that share a bucket, and no clocks compared.

    s3://team/har/
      .promotion/
        000000000007       of the last holder; each holder has a higher number than the one before it

Whoever finds that the last holder is through makes the object of the next number, which the bucket lets one alone do (a
conditional PUT: `If-None-Match: *`). A holder writes to its object every few seconds. Where that has not changed for
LOST_S seconds, counted by whoever waits, the holder was killed or suspended, and the next number is made as well. A
holder that was suspended finds a higher number than its own before it writes anything else, and gives up.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

from har_assets.errors import StorageError, StorageLostError
from har_assets.store.remote_folder import RemoteFolder
from har_assets.system.files import Log

FOLDER = ".promotion"

BEAT_S = 5.0
"""Seconds between two signs of life of a holder."""

LOST_S = 60.0
"""Seconds without one after which its lock is given to another process."""

LOOK_S = 1.0
"""Seconds between two looks of a process that waits."""

FREE = b"free"
"""Content of the object of a holder that is through."""


@contextlib.contextmanager
def remote_lock(remote: RemoteFolder, log: Log) -> Iterator[Callable[[], None]]:
    """Hold the bucket alone, waiting for whoever holds it; any end frees it, kill -9 after LOST_S seconds.

    Gives a function to call before each write: it raises StorageLostError where the lock was lost. Raises StorageError,
    also where the bucket knows no conditional PUT.
    """
    words = f"process {os.getpid()} of {socket.gethostname()}; {secrets.token_hex(8)}"
    number = _acquire(remote, words, log)
    through = threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if through.wait(BEAT_S):
                return
            with contextlib.suppress(StorageError):  # a bucket that is away shows nobody the lock
                remote.write_object(_path(number), f"{words} {count}".encode())

    def refuse_lost() -> None:
        if _last(remote) != number:
            raise StorageLostError(
                f"{remote.address} was taken over by another machine, as this one gave no sign of life for "
                f"{LOST_S:g} s: run the same command again."
            )

    beats = threading.Thread(target=beat, name="remote_lock", daemon=True)
    beats.start()
    try:
        yield refuse_lost
    finally:
        through.set()
        beats.join()
        with contextlib.suppress(StorageError):
            remote.write_object(_path(number), FREE)


def _acquire(remote: RemoteFolder, words: str, log: Log) -> int:
    """Number of the lock that this process has from now on."""
    seen: tuple[int, bytes | None] | None = None
    since, is_told = time.monotonic(), False
    while True:
        last = _last(remote)
        content = remote.read_object(_path(last)) if last else FREE
        if (last, content) != seen:
            seen, since = (last, content), time.monotonic()
        if content == FREE or time.monotonic() - since > LOST_S:
            made = remote.create_object(_path(last + 1), words.encode())
            # One that was suspended right here may have made a number that others have been through with.
            if made and _last(remote) == last + 1:
                remote.remove_objects([_path(number) for number in _numbers(remote) if number <= last])
                return last + 1
            continue
        if content and not is_told:
            is_told = True
            holder = content.decode(errors="replace").partition(";")[0]
            log(f"waiting for {holder}, which promotes or prunes; it has {LOST_S:g} s to give a sign of life")
        time.sleep(LOOK_S)


def _path(number: int) -> str:
    return f"{FOLDER}/{number:012d}"


def _numbers(remote: RemoteFolder) -> list[int]:
    return [int(name) for name in remote.listing(FOLDER) if name.isdecimal()]


def _last(remote: RemoteFolder) -> int:
    """The highest number, 0 where there is none."""
    return max(_numbers(remote), default=0)
