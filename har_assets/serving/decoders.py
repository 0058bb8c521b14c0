"""Decoding processes that stand ready, each at the end of a pipe of its own.

The pool behind `decode_many` shares one pipe and its lock among its workers: fine for a batch, but a worker that is
killed while it waits there takes the lock along, and a server would hang from then on. Here nothing is shared: a
process that dies, by whatever, is noticed at once and replaced, and costs the one video that it had.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from har_assets.errors import HarError, VideoError
from har_assets.video.workers import decoder_died, decoder_failed, start_worker

START_TIMEOUT_S = 120.0
"""Seconds that a process may take to start."""


class Decoders:
    """`workers` processes that run functions in turn; safe to use from many threads."""

    def __init__(self, workers: int, warm: Callable[[], Any]) -> None:
        """Start them, each with a call of `warm`; HarError where they do not start."""
        self._own = threading.local()
        self._processes: list[_Process] = []
        # A thread a process, which it outlives: the system ends a process with the thread that has started it.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
        together = threading.Barrier(workers)

        def start() -> None:
            together.wait(START_TIMEOUT_S)  # so that no thread takes two of these
            self._process().run(warm, (), START_TIMEOUT_S)

        try:
            for started in [self._threads.submit(start) for _ in range(workers)]:
                started.result()
        except (VideoError, threading.BrokenBarrierError, OSError) as error:
            self.close()
            raise HarError(f"The decoding processes do not start ({error}): look for what the machine lacks.") from None

    def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
        """Run `function`, importable by name, in the next free process.

        The future's exception is a VideoError where the function raised one, or anything else, took longer than
        `timeout_s`, or took its process down; an OSError where the machine gives no process.
        """
        return self._threads.submit(lambda: self._process().run(function, arguments, timeout_s))

    def close(self) -> None:
        """End the processes; what waits for one is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()

    def _process(self) -> _Process:
        """That of this thread."""
        process: _Process | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = _Process()
            self._processes.append(process)
        return process


class _Process:
    """One process, started when it is needed and when it has died; one thread at a time uses it."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout_s: float) -> Any:
        """The function's result; VideoError for every other end."""
        if self._pipe is not None and self._pipe.poll():
            self.kill()  # it says something that was not asked: its end
        if self._process is None or self._pipe is None:
            self._process, self._pipe = _started()
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(timeout_s):
                self.kill()
                raise VideoError(f"decoding took longer than the limit of {timeout_s:g} s")
            succeeded, result = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            died = decoder_died(self._process.exitcode)
            self.kill()
            raise died from None
        if not succeeded:
            raise VideoError(result)
        return result

    def kill(self) -> None:
        """End it at once; the next `run` starts another."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join(5)
            self._pipe.close()
            self._process = self._pipe = None


def _started() -> tuple[BaseProcess, Connection]:
    # spawn: decoders and their threads do not survive a fork.
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_answer, args=(theirs, os.getpid()), name="decoder", daemon=True)
    process.start()
    theirs.close()  # else the end of the process would not be the end of the pipe
    return process, ours


def _answer(pipe: Connection, parent_pid: int) -> None:
    """In the process: run what is asked until the other end closes."""
    start_worker(parent_pid)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except VideoError as error:
            answer = False, str(error)
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises must cost one video only
            answer = False, str(decoder_failed(error))
        pipe.send(answer)
        del function, arguments, answer  # not held while waiting
