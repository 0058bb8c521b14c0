"""What is asked for when: the ledger without Dagster, with made clocks and run states."""

from pathlib import Path

import pytest

from har_assets.errors import HarError
from har_assets.incoming.folder import Signature, partition_key
from har_assets.incoming.ledger import RETRY_WAITS_S, Ledger, Plan, RunState

OLD = 1_000  # seconds: long before every `now` below


class Folder:
    """A folder of files and the sensor that looks at it, without either."""

    def __init__(self, path: Path, most: int = 100) -> None:
        self.path, self.most = path / "ledger.sqlite", most
        self.files: dict[bytes, Signature] = {}
        self.runs: dict[str, RunState] = {}
        self.edition: str | None = None
        self.now = 1_000_000.0

    def put(self, *names: str, at: float = OLD, size: int = 1) -> None:
        for name in names:
            self.files[name.encode()] = (size, int(at * 1e9), int(at * 1e9))

    def remove(self, *names: str) -> None:
        for name in names:
            del self.files[name.encode()]

    def tick(self, seconds: float = 30, launch: bool = True) -> Plan:
        self.now += seconds
        with Ledger.opened(self.path, self.edition) as ledger:
            plan = ledger.plan(
                self.files,
                now=self.now,
                run_state=lambda key: self.runs.get(key, RunState.ABSENT),
                still_s=2,
                most=self.most,
            )
            self.edition = ledger.edition
        if plan.request and launch:
            assert plan.request.key not in self.runs
            self.runs[plan.request.key] = RunState.RUNNING
        return plan

    def end(self, plan: Plan, state: RunState = RunState.SUCCEEDED) -> None:
        assert plan.request
        self.runs[plan.request.key] = state


def names(plan: Plan) -> tuple[str, ...]:
    return plan.request.partitions if plan.request else ()


def keys(*files: str) -> tuple[str, ...]:
    return tuple(partition_key(name.encode()) for name in files)


def test_each_file_is_asked_for_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a.avi", "b.avi")
    plan = folder.tick()
    assert names(plan) == keys("a.avi", "b.avi")
    folder.put("c.avi")
    assert names(folder.tick()) == ()  # one run at a time
    folder.end(plan)
    second = folder.tick()
    assert names(second) == keys("c.avi")
    folder.end(second)
    quiet = folder.tick()
    assert (names(quiet), quiet.known, quiet.waiting) == ((), 3, 0)


def test_nothing_beyond_the_cap_is_lost_and_the_oldest_comes_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path, most=3)
    for number in range(8):
        folder.put(f"{number}.avi", at=OLD + 10 - number)
    asked: list[str] = []
    for _ in range(3):
        plan = folder.tick()
        asked += names(plan)
        folder.end(plan)
    assert tuple(asked) == keys(*(f"{number}.avi" for number in reversed(range(8))))
    assert names(folder.tick()) == ()


def test_a_file_that_grows_waits_until_it_stands_still(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for size in range(5):
        folder.put("slow.avi", at=folder.now + 29.5, size=size)
        plan = folder.tick()
        assert (names(plan), plan.unsettled) == ((), 1)
    assert names(folder.tick()) == keys("slow.avi")


def test_a_file_with_a_time_in_the_future_counts_when_it_was_seen_unchanged(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("clock.avi", at=folder.now + 1e6)
    assert names(folder.tick()) == ()
    assert names(folder.tick()) == keys("clock.avi")


def test_a_changed_file_is_asked_for_again_also_when_it_changed_during_its_run(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a.avi", "b.avi")
    plan = folder.tick()
    folder.put("a.avi", size=2)
    assert names(folder.tick()) == ()
    folder.end(plan)
    again = folder.tick()
    assert names(again) == keys("a.avi")
    folder.end(again)
    assert names(folder.tick()) == ()


def test_removed_files_are_forgotten_but_not_those_of_a_run(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a.avi", "b.avi")
    folder.end(folder.tick())
    folder.put("c.avi", "d.avi")
    plan = folder.tick()
    folder.remove("a.avi", "c.avi")
    assert folder.tick().forgotten == [*keys("a.avi")]
    folder.end(plan)
    assert folder.tick().forgotten == [*keys("c.avi")]
    folder.put("a.avi")  # and back again
    assert names(folder.tick()) == keys("a.avi")


def test_a_changed_file_that_is_removed_before_it_is_asked_for_is_forgotten_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a.avi")
    folder.end(folder.tick())
    folder.put("a.avi", at=folder.now + 30, size=2)
    assert folder.tick().unsettled == 1
    folder.remove("a.avi")
    assert folder.tick().forgotten == [*keys("a.avi")]


def test_a_failed_run_is_repeated_a_few_times_and_does_not_hold_up_others(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("bad.avi", "other.avi")
    plan = folder.tick()
    requests = []
    for wait in RETRY_WAITS_S:
        assert plan.request
        requests.append(plan.request.key)
        folder.end(plan, RunState.FAILED)
        if wait:
            folder.put(f"new{wait}.avi")
            new = folder.tick(0)
            assert (names(new), new.repeating) == (keys(f"new{wait}.avi"), 2)
            folder.end(new)
        plan = folder.tick(wait)
        assert names(plan) == keys("bad.avi", "other.avi")
        assert plan.request
        assert plan.request.repeated
    assert plan.request
    assert len({*requests, plan.request.key}) == len(RETRY_WAITS_S) + 1
    folder.end(plan, RunState.FAILED)
    last = folder.tick(1e6)
    assert (names(last), last.given_up) == ((), 2)
    folder.put("bad.avi", size=2)  # touched
    assert names(folder.tick()) == keys("bad.avi")


def test_a_repeated_run_leaves_out_what_is_gone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a.avi", "b.avi", "c.avi")
    folder.end(folder.tick(), RunState.FAILED)
    folder.remove("a.avi")
    plan = folder.tick()
    assert names(plan) == keys("b.avi", "c.avi")
    assert plan.forgotten == [*keys("a.avi")]
    folder.end(plan, RunState.FAILED)
    folder.remove("b.avi", "c.avi")
    assert folder.tick().repeating == 2
    assert (names(folder.tick(60)), folder.tick().repeating) == ((), 0)


def test_a_request_whose_run_was_never_launched_is_made_again_as_the_same(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a.avi")
    lost = folder.tick(launch=False)  # the daemon died
    assert folder.tick().request == lost.request


def test_another_edition_knows_nothing_and_damage_is_a_new_edition(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a.avi")
    folder.end(folder.tick())
    assert names(folder.tick()) == ()
    folder.edition = None  # the cursor was reset in the web UI
    folder.end(folder.tick())
    assert names(folder.tick()) == ()
    for damage in (b"no database" * 1000, b""):
        folder.path.write_bytes(damage)
        plan = folder.tick()
        assert names(plan) == keys("a.avi")
        folder.end(plan)


def test_damage_that_shows_only_while_it_is_read_is_said_and_over_at_the_next_tick(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put(*(f"{number:050d}.avi" for number in range(3000)))
    folder.most = 3000
    folder.end(folder.tick())
    folder.tick()
    whole = folder.path.read_bytes()
    folder.path.write_bytes(whole[:60_000] + b"\xa5" * (len(whole) - 60_000))
    with pytest.raises(HarError, match="was damaged"):
        folder.tick()
    assert len(names(folder.tick())) == 3000


def test_what_a_block_that_fails_has_done_is_undone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a.avi")
    folder.tick()
    folder.put("b.avi")

    def plan_and_fail() -> None:
        with Ledger.opened(folder.path, folder.edition) as ledger:
            ledger.plan(folder.files, now=2e6, run_state=lambda key: RunState.SUCCEEDED, still_s=0, most=9)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plan_and_fail()
    assert names(folder.tick()) == ()  # the first run is still running for it


def test_a_ledger_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(HarError, match="cannot be used"), Ledger.opened(tmp_path / "ledger.sqlite", None):
        pass
