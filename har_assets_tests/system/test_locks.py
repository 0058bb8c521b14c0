"""Locks among processes: who waits, who is refused, and what an end of any kind frees."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from har_assets.errors import HarError
from har_assets.system.locks import exclusive, locked

HOLD = (
    "import sys; from pathlib import Path; from har_assets.system.locks import exclusive, locked\n"
    "lock = locked(Path(sys.argv[2]), print) if sys.argv[1] == 'locked' else exclusive(Path(sys.argv[2]), 'a test')\n"
    "with lock:\n"
    "    print('held', flush=True); sys.stdin.read(1)"
)


@contextmanager
def holder(kind: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock until its input is closed, or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_who_waits_says_so_once_and_goes_on_when_the_other_has_ended(tmp_path: Path) -> None:
    target, lines, order = tmp_path / "new" / "archive.rar", [], []
    with holder("locked", target) as process:

        def work() -> None:
            with locked(target, lines.append):
                order.append("second")

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.5)
        order.append("first")
        process.communicate("\n")
        thread.join(timeout=10)
    assert order == ["first", "second"]
    assert lines == [f"waiting for another process that is writing {target}"]
    assert list(target.parent.iterdir()) == []


def test_the_lock_file_that_its_holder_removed_lets_nobody_in_beside_the_next_one(tmp_path: Path) -> None:
    target, inside, most = tmp_path / "target", [], []

    def work() -> None:
        for _ in range(5):
            with locked(target, lambda line: None):
                inside.append(0)
                most.append(len(inside))
                time.sleep(0.005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert most == [1] * 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["locked", "exclusive"])
def test_a_killed_process_holds_nothing(tmp_path: Path, kind: str) -> None:
    with holder(kind, tmp_path / "place") as process:
        process.kill()
        process.wait()
        lines: list[str] = []
        with (
            locked(tmp_path / "place", lines.append)
            if kind == "locked"
            else exclusive(tmp_path / "place", "a test", wait_s=0)
        ):
            assert lines == []


def test_a_folder_in_use_is_refused_with_the_number_of_the_process(tmp_path: Path) -> None:
    with holder("exclusive", tmp_path) as process:
        with pytest.raises(HarError) as refused, exclusive(tmp_path, "a test", wait_s=0.2):
            pytest.fail("two have the folder")
        assert str(refused.value) == (
            f"Process {process.pid} is already at work on a test in {tmp_path}: wait for it to end or stop it."
        )
    with exclusive(tmp_path, "a test", wait_s=0):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    assert (tmp_path / ".lock").exists()


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path, "a test"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with exclusive(tmp_path, "a test", wait_s=0):
        child.communicate(b"\n")


def test_a_folder_that_takes_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for lock in (locked(tmp_path / "file" / "target", print), exclusive(tmp_path / "file", "a test")):
        with (
            pytest.raises(HarError, match="nothing can be written to"),
            lock,
        ):
            pytest.fail("the block is not to be entered")


def test_a_folder_that_goes_while_one_waits_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    refusals: list[str] = []

    def wait() -> None:
        try:
            with exclusive(folder, "a test"):
                refusals.append("")
        except HarError as error:
            refusals.append(str(error))

    with holder("exclusive", folder) as process:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.5)
        folder.rename(tmp_path / "gone")
        process.communicate("\n")
        thread.join(timeout=10)
    assert refusals == [f"{folder} was removed while this process waited for it."]
    assert not folder.exists()
