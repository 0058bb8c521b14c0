"""One function over many files on all cores, where a hang, a crash or an error costs one file.

A pool of `pebble` because it alone gives each task a time limit and survives a worker that dies (segmentation
fault, out of memory): `concurrent.futures` breaks the whole pool then.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

from har_assets.errors import HarError, VideoError

Task = TypeVar("Task")
Result = TypeVar("Result")

# How much longer than its time limit a task may take to be reported: starting a worker, killing it.
GRACE_SECONDS = 60


def available_cores() -> int:
    """CPU cores that this process may use (containers and `taskset` give fewer than the machine has)."""
    return len(os.sched_getaffinity(0))


def decode_many(
    tasks: Iterable[Task],
    function: Callable[[Task], Result],
    *,
    workers: int | None = None,
    timeout_s: float = 120,
    in_flight: int | None = None,
    queued: int = 1,
    pinned: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> Generator[tuple[int, Result | VideoError], None, None]:
    """Run `function(task)` for every task in worker processes; yield (position, result) as each is done.

    Its `close()` kills the workers at once; wrap it in `contextlib.closing` where the loop may raise.

    Args:
        tasks: taken lazily, as room becomes free.
        function: importable by name or a `functools.partial` of such a one. What it returns travels through
            a pipe: return facts, or small arrays; write large ones to a file.
        workers: processes; None takes one a core.
        timeout_s: seconds a task may run before its worker is killed.
        in_flight: how far the newest started task may be ahead of the oldest unfinished one, which bounds
            what a caller that restores the order has to hold; None takes 16 a worker.
        queued: tasks that wait at the side of each worker, so that it goes on while the caller is busy.
        pinned: where there are as many workers as cores, keep each on a core of its own. A decoder's threads
            hand every frame to each other, and over two cores that takes a fifth more processor time.
        go_on: called every second while results are waited for; what it raises ends the work.

    Yields:
        The position of the task, counted from 0, and its result, or a VideoError with the reason where the
        function raised, ran out of time or took its process down.

    Raises:
        HarError: the function raised one that is not a VideoError, such as a full disk (it concerns all), or
            the workers themselves do not run.

    """
    from pebble import ProcessPool

    workers = workers or available_cores()
    in_flight = in_flight or 16 * workers
    queue = enumerate(tasks)
    upcoming = next(queue, None)
    running: dict[Future[Result], int] = {}
    # spawn: decoders and their threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pinned = pinned and workers == available_cores() > 1
    pool = ProcessPool(
        max_workers=workers,
        context=context,
        initializer=start_worker,
        initargs=[os.getpid(), context.Array("i", workers) if pinned else None],
    )
    try:
        while upcoming is not None or running:
            oldest = min(running.values(), default=None)
            while upcoming is not None and len(running) < (1 + queued) * workers:
                position, task = upcoming
                if oldest is not None and position >= oldest + in_flight:
                    break
                running[pool.schedule(function, args=[task], timeout=timeout_s)] = position
                upcoming = next(queue, None)
            ends_at = time.monotonic() + timeout_s + GRACE_SECONDS
            while not (done := wait(running, timeout=1, return_when=FIRST_COMPLETED).done):
                go_on()
                if time.monotonic() > ends_at:
                    raise HarError("The decoding workers no longer answer: run the same command again.")
            for future in done:
                yield running.pop(future), _outcome(future, timeout_s)
    finally:
        # Nothing is left to run, or an error, Ctrl-C or a caller that has seen enough: kill what runs.
        pool.stop()
        pool.join()


def _outcome(future: "Future[Any]", timeout_s: float) -> Any:
    from pebble import ProcessExpired

    try:
        return future.result()
    except HarError as error:
        if isinstance(error, VideoError):
            return error
        raise
    except TimeoutError:
        return VideoError(f"decoding took longer than the limit of {timeout_s:g} s")
    except ProcessExpired as expired:
        return decoder_died(expired.exitcode)
    except BrokenProcessPool:
        raise HarError(
            "The decoding workers die before they take up work; a full memory is the usual cause: "
            "run the same command again, with fewer workers."
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises must cost one file only
        return decoder_failed(error)


def decoder_failed(error: Exception) -> VideoError:
    """The reason shown for a video whose decoder raised something."""
    if isinstance(error, MemoryError):
        return VideoError("decoding needs more memory than there is")
    return VideoError(f"the decoder failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def decoder_died(exit_code: int | None) -> VideoError:
    """The reason shown for a video whose decoder ended its process."""
    if exit_code is None or exit_code >= 0:
        how = f"exit code {exit_code}"
    elif -exit_code == signal.SIGKILL:
        how = "SIGKILL, most likely out of memory"
    else:
        how = signal.Signals(-exit_code).name
    return VideoError(f"the decoder took its process down ({how})")


class DecoderProcess:
    """One function in a process of its own that reports while it works: `function(connection, *arguments)`.

    For one long file, where `decode_many` is for many short ones. Leaving the `with` kills the process if it still
    runs. What the function sends is what `receive` returns; it should send something every second or so, or it is
    taken for stuck.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *arguments: Any,
        timeout_s: float,
        silence_s: float = 120,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        """`go_on` is called every second while `receive` waits, and may raise."""
        context = multiprocessing.get_context("spawn")  # decoders and their threads do not survive a fork
        self._connection, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_run_and_report, args=(self._theirs, os.getpid(), function, arguments), daemon=True
        )
        self._timeout_s, self._silence_s = timeout_s, silence_s
        self._go_on = go_on

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # the end of the process is then the end of what can be received
        self._ends_at = time.monotonic() + self._timeout_s
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def send(self, message: Any) -> None:
        """Something that the function can receive from its connection; `receive` says if it is no more."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(message)

    def receive(self) -> Any:
        """The next message of the function.

        Raises:
            VideoError: the function raised it or failed, it took its process down, the time limit is over, or
                nothing was heard for `silence_s` seconds.
            HarError: the function raised it; something that is no fault of the file.
        """
        asked_at = time.monotonic()
        try:
            while True:
                now = time.monotonic()
                if now >= self._ends_at:
                    raise VideoError(f"it took longer than the limit of {self._timeout_s:g} s")
                if now >= asked_at + self._silence_s:
                    raise VideoError(f"its decoder has not moved for {self._silence_s:g} s")
                if self._connection.poll(min(1.0, self._ends_at - now, asked_at + self._silence_s - now)):
                    break
                self._go_on()
            message = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise decoder_died(self._process.exitcode) from None
        if isinstance(message, HarError):
            raise message
        return message


def _run_and_report(connection: Connection, parent_pid: int, function: Callable[..., None], arguments: Any) -> None:
    start_worker(parent_pid)
    try:
        function(connection, *arguments)
    except HarError as error:
        connection.send(error)
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises must cost one file only
        connection.send(decoder_failed(error))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def start_worker(parent_pid: int, owners: Any = None) -> None:
    """Die with the parent, leave Ctrl-C to it, and silence what decoders write to stderr about bad files.

    `owners` holds the process number of the worker on each core, 0 where there is none yet; the new worker
    takes the first core that has none alive. None leaves the worker to the scheduler.
    """
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent_pid:  # the parent died before the line above
        os._exit(1)
    if owners is not None:
        with owners.get_lock():
            place = next((place for place, pid in enumerate(owners) if not pid or not _is_alive(pid)), 0)
            owners[place] = os.getpid()
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[place]})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Python's own messages keep their way out; the C libraries' end here.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
