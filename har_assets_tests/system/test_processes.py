"""What is said of other processes by their numbers."""

import os
import subprocess
import sys
from pathlib import Path

from har_assets.system.processes import is_running, process_name


def test_a_process_runs_until_it_has_ended_and_its_end_was_read() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(os.getpid())
    assert is_running(child.pid)
    child.communicate(b"\n")
    assert not is_running(child.pid)


def test_the_name_of_a_process_is_its_number_and_its_start_in_clock_ticks() -> None:
    # Tags of runs hold it: another text would call every run of an earlier version dead.
    started = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    assert process_name(os.getpid()) == f"{os.getpid()}@{started}"


def test_a_process_that_has_ended_has_no_name_even_before_its_end_was_read() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_running(child.pid)
    assert process_name(child.pid) is None
    child.wait()
    assert process_name(child.pid) is None
