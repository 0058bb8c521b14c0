"""Processes: is one running, a name that no other one has, a child that ends with its parent, signals kept away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h

PARENT_LOOK_S = 2.0
"""Pause between two looks at whether the parent is there."""


def die_with_parent(parent_pid: int | None = None, *, grace_s: float = 60.0) -> None:
    """Ask the kernel to send SIGTERM to this process when its parent dies, kill -9 included (Linux).

    `parent_pid` is the parent as it was when this process was started: if it has died before the
    request reached the kernel, this process ends at once. A process that has not ended `grace_s` seconds after its
    parent is killed: one that waits on a GPU for another one that is gone reads no signal.
    """
    import ctypes  # 60 ms, which every import of the graph would pay

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


def this_host() -> str:
    """Name of this machine and of its boot: process numbers mean nothing beyond either."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.exists() else ''}"


def is_running(pid: int) -> bool:
    """Whether there is a process of that number, whoever owns it."""
    import psutil

    return bool(psutil.pid_exists(pid))


def process_name(pid: int) -> str | None:
    """`<pid>@<start time in clock ticks>` of a running process, or None: a number that was given out again differs.

    Tags of runs hold this text. psutil adds the time of the boot to the ticks, which moves when the clock is set, so
    they are read here.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # after the command, which may hold spaces: state, ppid, ...
    return None if fields[0] == "Z" else f"{pid}@{fields[19]}"


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM for the seconds that saying how a step ended takes.

    Ctrl-C in a terminal reaches a training twice, and a third signal comes when its parent dies.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
