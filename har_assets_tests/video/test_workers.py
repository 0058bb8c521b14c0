import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from har_assets.errors import HarError, VideoError
from har_assets.video.workers import DecoderProcess, available_cores, decode_many

# Functions that workers run: importable by name.


def square(number: int) -> int:
    return number * number


def misbehave(what: str) -> str:
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "abort":
        os.abort()
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(3)
    elif what == "hang":
        time.sleep(60)
    elif what == "refuse":
        raise VideoError("no frame in it")
    elif what == "raise":
        raise ZeroDivisionError("half a frame")
    elif what == "memory":
        raise MemoryError
    elif what == "disk":
        raise HarError("The disk is full.")
    return what


def answer(connection: Connection, what: str) -> None:
    connection.send(f"pid {os.getpid()}")
    connection.send(misbehave(what) + str(connection.recv()))


def report_pid_and_wait(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def slow_first(number: int) -> int:
    time.sleep(1.0 if number == 0 else 0.0)
    return number


def zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def own_cores(action: str) -> frozenset[int]:
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)  # so that no worker takes all tasks
    return frozenset(os.sched_getaffinity(0))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition: object, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def test_every_task_comes_back_once() -> None:
    assert dict(decode_many(range(40), square, workers=2)) == {n: n * n for n in range(40)}
    assert list(decode_many([], square, workers=2)) == []


def test_a_bad_file_costs_only_itself() -> None:
    tasks = [
        "fine",
        "segfault",
        "fine",
        "abort",
        "hang",
        "killed",
        "exit",
        "refuse",
        "raise",
        "memory",
        "fine",
    ]
    results = dict(decode_many(tasks, misbehave, workers=2, timeout_s=1))
    reasons = {tasks[n]: str(r) for n, r in results.items() if isinstance(r, VideoError)}
    assert len(results) == len(tasks)
    assert [results[n] for n, task in enumerate(tasks) if task == "fine"] == ["fine"] * 3
    assert reasons == {
        "segfault": "the decoder took its process down (SIGSEGV)",
        "abort": "the decoder took its process down (SIGABRT)",
        "killed": "the decoder took its process down (SIGKILL, most likely out of memory)",
        "exit": "the decoder took its process down (exit code 3)",
        "hang": "decoding took longer than the limit of 1 s",
        "refuse": "no frame in it",
        "raise": "the decoder failed: ZeroDivisionError: half a frame",
        "memory": "decoding needs more memory than there is",
    }


def test_an_error_that_concerns_all_is_raised() -> None:
    with pytest.raises(HarError, match="disk is full"):
        list(decode_many(["fine", "disk", "fine"], misbehave, workers=1))


def test_tasks_are_taken_as_room_becomes_free() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(60):
            taken.append(number)
            yield number

    ahead = 0
    unfinished = set(range(60))
    for number, _ in decode_many(tasks(), slow_first, workers=2, in_flight=8):
        unfinished.discard(number)
        ahead = max(ahead, len(taken) - 1 - min(unfinished, default=60))
    assert not unfinished
    assert ahead <= 9  # the window, and the one task that is looked at in advance


def test_a_caller_that_stops_early_leaves_no_worker(tmp_path: Path) -> None:
    others = threading.active_count()
    results = decode_many([1, 2, 3], square, workers=1)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert wait_until(lambda: threading.active_count() <= others)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_die_with_their_parent(ending: signal.Signals, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "parent.py"
    script.write_text(f"""
from har_assets.video.workers import decode_many
from har_assets_tests.video.test_workers import report_pid_and_wait
if __name__ == "__main__":
    list(decode_many([{str(pids)!r}] * 4, report_pid_and_wait, workers=2))
""")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: len(list(pids.iterdir())) == 2)
    workers = [int(path.name) for path in pids.iterdir()]
    assert all(alive(pid) for pid in workers)
    parent.send_signal(ending)
    try:
        parent.wait(20)
    except subprocess.TimeoutExpired:
        facts = Path(f"/proc/{parent.pid}/status").read_text()
        parent.kill()
        pytest.fail(f"the parent lives on after {ending.name}: {facts}")
    assert wait_until(lambda: not any(alive(pid) for pid in workers))


def test_large_results_travel(tmp_path: Path) -> None:
    for _, result in decode_many([5_000_000] * 3, zeros, workers=1):
        assert not isinstance(result, VideoError)
        assert result.nbytes == 5_000_000


def test_available_cores() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_pinned_workers_have_a_core_of_their_own_also_after_one_has_died() -> None:
    tasks = [*["say"] * 8, "die", *["say"] * 16]
    results = dict(decode_many(tasks, own_cores, queued=3, pinned=True))
    assert isinstance(results.pop(8), VideoError)
    places = set(results.values())
    assert all(len(cores) == 1 for cores in places)
    assert frozenset().union(*places) <= os.sched_getaffinity(0)
    assert len(places) >= 2
    after = {cores for position, cores in results.items() if position > 16}
    assert len(after) >= 2


def test_fewer_workers_than_cores_are_left_to_the_scheduler() -> None:
    one = dict(decode_many(["say"], own_cores, workers=1, pinned=True))
    assert one == {0: frozenset(os.sched_getaffinity(0))}


def test_a_decoder_process_talks_and_is_gone_afterwards() -> None:
    with DecoderProcess(answer, "so ", timeout_s=60) as process:
        pid = int(process.receive().split()[1])
        process.send("be it")
        assert process.receive() == "so be it"
    assert not alive(pid)
    with DecoderProcess(answer, "so ", timeout_s=60) as process:
        pid = int(process.receive().split()[1])
    assert not alive(pid)  # although it still waited


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("segfault", r"took its process down \(SIGSEGV\)"),
        ("killed", "SIGKILL, most likely out of memory"),
        ("exit", "exit code 3"),
        ("refuse", "^no frame in it$"),
        ("raise", "ZeroDivisionError: half a frame"),
        ("memory", "more memory than there is"),
    ],
)
def test_what_happens_to_a_decoder_process_is_told(what: str, words: str) -> None:
    with DecoderProcess(answer, what, timeout_s=60) as process:
        process.receive()
        with pytest.raises(VideoError, match=words):
            process.receive()
        process.send("nobody hears this")


def test_a_decoder_process_that_is_silent_or_late_is_given_up() -> None:
    for limits, words in (
        ({"timeout_s": 60, "silence_s": 0.5}, "has not moved for 0.5 s"),
        ({"timeout_s": 1.5}, "longer than the limit of 1.5 s"),
    ):
        with DecoderProcess(answer, "hang", **limits) as process:
            began = time.monotonic()
            with pytest.raises(VideoError, match=words):  # noqa: PT012
                while True:
                    process.receive()
            assert time.monotonic() - began < 20
    with (
        DecoderProcess(answer, "disk", timeout_s=60) as process,
        pytest.raises(HarError, match="The disk is full"),
    ):
        process.receive(), process.receive()


def test_who_waits_for_a_stuck_decoder_can_be_called_off() -> None:
    asked = 0

    def go_on() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), contextlib.closing(decode_many(["hang"], misbehave, go_on=go_on)) as results:
        next(results)
    asked = 0
    with (
        pytest.raises(KeyboardInterrupt),
        DecoderProcess(answer, "hang", timeout_s=60, go_on=go_on) as process,
    ):
        process.receive(), process.receive()
    assert time.monotonic() - began < 30, "the decoders hang for a minute each"
