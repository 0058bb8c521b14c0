"""A child process that ends with its parent, and one work folder for one process at a time."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from har_assets.errors import HarError

PR_SET_PDEATHSIG = 1  # linux/prctl.h

PARENT_LOOK_S = 2.0
"""Pause between two looks at whether the parent is there."""


def die_with_parent(parent_pid: int | None = None, *, grace_s: float = 60.0) -> None:
    """Ask the kernel to send SIGTERM to this process when its parent dies, kill -9 included (Linux).

    `parent_pid` is the parent as it was when this process was started: if it has died before the
    request reached the kernel, this process ends at once. A process that has not ended `grace_s` seconds after its
    parent is killed: one that waits on a GPU for another one that is gone reads no signal.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = os.getppid()
    if parent_pid is not None and parent != parent_pid:
        os.kill(os.getpid(), signal.SIGTERM)

    def end_for_good() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_S)
        time.sleep(grace_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=end_for_good, name="lifeline", daemon=True).start()


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
