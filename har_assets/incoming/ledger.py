"""Which videos of the folder are known, and which were asked for in which run: a small SQLite file beside the store.

The sensor's cursor holds no more than the name of this file's edition. Whatever is in here can be lost: then every
file is asked for once more, and what has been predicted is found in the store.

A file goes waiting -> asked -> done. What is asked for together is a batch; its run may have to be repeated:

    asked, attempt 0 --run succeeded--> done
                     --run failed-----> due again at once, then after RETRY_WAITS_S, then given up
                     --no such run----> the same request again (the daemon died before it launched it)
"""

from __future__ import annotations

import contextlib
import enum
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from har_assets.errors import HarError
from har_assets.incoming.folder import Signature, partition_key

FORMAT = "1"
WAITING, ASKED, DONE, GIVEN_UP = "waiting", "asked", "done", "given up"

RETRY_WAITS_S = (0, 60, 600, 3600)
"""Seconds from a failed run to the next one for the same videos. After the last of them they are given up."""

FORGET_AT_ONCE = 1000
"""Removed files that are forgotten in one tick: each costs Dagster some milliseconds."""


class RunState(enum.Enum):
    """How the run of a batch stands."""

    ABSENT = "absent"
    """There is no such run: it was never launched."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Request:
    """A run to ask for: these partitions, in this order."""

    key: str
    """Name of the request: asked for twice, it is one run."""
    partitions: tuple[str, ...]
    repeated: bool
    """The partitions have been asked for before, in this order."""


@dataclass
class Plan:
    """The result of one tick."""

    request: Request | None = None
    forgotten: list[str] = field(default_factory=list)
    """Partitions of files that are gone."""
    waiting: int = 0
    """Files that are new or changed and not asked for yet."""
    unsettled: int = 0
    """Files among these that do not stand still yet."""
    running: int = 0
    """Files in a run that has not ended."""
    repeating: int = 0
    """Files whose run failed and will be repeated."""
    given_up: int = 0
    known: int = 0
    """Files in the folder."""


class Ledger:
    """The file. One tick at a time may use it."""

    def __init__(self, connection: sqlite3.Connection, edition: str, is_new: bool) -> None:
        self._connection = connection
        self.edition = edition
        """Name of this edition of the file: another one knows nothing of what this one did."""
        self.is_new = is_new

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, edition: str | None) -> Iterator[Self]:
        """Open the file, or begin a new edition where it is missing, damaged, or not the edition that is named.

        What the block does to it is kept when the block ends without an exception.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = None
        try:
            try:
                connection, found, is_new = _connect(path, edition)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                _remove(path)
                connection, found, is_new = _connect(path, None)
            yield cls(connection, found, is_new)
            connection.commit()
        except sqlite3.OperationalError as error:  # locked, disk full, read-only: no damage
            raise HarError(f"{path} cannot be used ({error}): mend that, and the sensor goes on.") from None
        except sqlite3.DatabaseError as error:
            _remove(path)
            raise HarError(f"{path} was damaged ({error}): the next tick begins a new one.") from None
        finally:
            if connection is not None:
                connection.close()

    def plan(
        self,
        found: dict[bytes, Signature],
        *,
        now: float,
        run_state: Callable[[str], RunState],
        still_s: float,
        most: int,
    ) -> Plan:
        """Compare the folder with what is known; say what to ask for now, one run at most, and note it as asked.

        Args:
            found: name to signature of every video in the folder.
            now: seconds since the epoch.
            run_state: of the run of a request, by its key.
            still_s: seconds for which a file must have stood still.
            most: videos that are asked for at once; the others wait for the next tick.
        """
        plan = Plan(known=len(found))
        settled = self._settled()
        repeat = self._look_at_runs(found, settled, now, run_state, plan)
        asked = self._asked()
        known = settled.get
        odd = {name: signature for name, signature in found.items() if known(name) != signature and name not in asked}
        self._forget([name for name in settled if name not in found], plan)
        ready = self._ready(odd, now, still_s, plan)
        if repeat is not None:
            plan.request = repeat
        elif ready and not plan.running:
            plan.request = self._ask(ready[:most])
            plan.waiting -= len(plan.request.partitions)
        (plan.given_up,) = self._connection.execute(
            "SELECT count(*) FROM files WHERE state = ?", (GIVEN_UP,)
        ).fetchone()
        return plan

    def _settled(self) -> dict[bytes, Signature]:
        """Files that need no run as long as they stay as they are."""
        rows = self._connection.execute(
            "SELECT name, size, modified_ns, changed_ns FROM files WHERE state IN (?, ?)", (DONE, GIVEN_UP)
        )
        return {row[0]: row[1:] for row in rows}

    def _asked(self) -> set[bytes]:
        return {name for (name,) in self._connection.execute("SELECT name FROM files WHERE state = ?", (ASKED,))}

    def _look_at_runs(
        self,
        found: dict[bytes, Signature],
        settled: dict[bytes, Signature],
        now: float,
        run_state: Callable[[str], RunState],
        plan: Plan,
    ) -> Request | None:
        """Close batches whose run has succeeded; return the request that is to be repeated now, if any."""
        due: list[tuple[str, int, bool]] = []
        batches = self._connection.execute("SELECT id, attempt, due FROM batches ORDER BY rowid").fetchall()
        for batch, attempt, due_at in batches:
            (count,) = self._connection.execute("SELECT count(*) FROM files WHERE batch = ?", (batch,)).fetchone()
            if due_at is None:
                state = run_state(_request_key(batch, attempt))
                if state is RunState.RUNNING:
                    plan.running += count
                    continue
                if state is RunState.SUCCEEDED:
                    settled.update(self._close(batch, DONE))
                    continue
                if state is RunState.ABSENT:
                    due.append((batch, attempt, False))
                    continue
                if attempt == len(RETRY_WAITS_S):
                    settled.update(self._close(batch, GIVEN_UP))
                    continue
                attempt, due_at = attempt + 1, now + RETRY_WAITS_S[attempt]  # noqa: PLW2901
                self._connection.execute(
                    "UPDATE batches SET attempt = ?, due = ? WHERE id = ?", (attempt, due_at, batch)
                )
            if due_at <= now:
                due.append((batch, attempt, True))
            plan.repeating += count
        if plan.running:
            return None
        for batch, attempt, is_repeat in due:
            request = self._again(batch, attempt, found, is_repeat, plan)
            if request is not None:
                return request
        return None

    def _again(
        self, batch: str, attempt: int, found: dict[bytes, Signature], is_repeat: bool, plan: Plan
    ) -> Request | None:
        """The request of a batch once more, without the files that are gone; None where none is left."""
        rows = self._connection.execute("SELECT name FROM files WHERE batch = ? ORDER BY place", (batch,)).fetchall()
        gone = [(name,) for (name,) in rows if name not in found]
        self._connection.executemany("DELETE FROM files WHERE name = ?", gone)
        plan.forgotten += [partition_key(name) for (name,) in gone]
        left = tuple(partition_key(name) for (name,) in rows if name in found)
        if is_repeat:
            plan.repeating -= len(rows)
        if not left:
            self._connection.execute("DELETE FROM batches WHERE id = ?", (batch,))
            return None
        self._connection.execute("UPDATE batches SET due = NULL WHERE id = ?", (batch,))
        return Request(_request_key(batch, attempt), left, repeated=attempt > 0)

    def _close(self, batch: str, state: str) -> dict[bytes, Signature]:
        rows = self._connection.execute(
            "SELECT name, size, modified_ns, changed_ns FROM files WHERE batch = ?", (batch,)
        ).fetchall()
        self._connection.execute("UPDATE files SET state = ?, batch = NULL WHERE batch = ?", (state, batch))
        self._connection.execute("DELETE FROM batches WHERE id = ?", (batch,))
        return {row[0]: row[1:] for row in rows}

    def _forget(self, gone: list[bytes], plan: Plan) -> None:
        """Forget removed files. Those in a run are left alone: its range may begin or end with one of them."""
        chosen = sorted(gone)[:FORGET_AT_ONCE]
        self._connection.executemany("DELETE FROM files WHERE name = ?", [(name,) for name in chosen])
        plan.forgotten += [partition_key(name) for name in chosen]

    def _ready(
        self, odd: dict[bytes, Signature], now: float, still_s: float, plan: Plan
    ) -> list[tuple[bytes, Signature]]:
        """New and changed files that stand still, oldest first; the others are noted with the time they were seen."""
        seen = {
            row[0]: (row[1:4], row[4])
            for row in self._connection.execute(
                "SELECT name, size, modified_ns, changed_ns, seen FROM files WHERE state = ?", (WAITING,)
            )
        }
        vanished = [(name,) for name in seen.keys() - odd.keys()]
        self._connection.executemany("DELETE FROM files WHERE name = ?", vanished)
        plan.forgotten += [partition_key(name) for (name,) in vanished]  # a changed file had been asked for before
        ready, fresh = [], []
        for name, signature in odd.items():
            before, since = seen.get(name, (None, now))
            if before != signature:
                since = now
                fresh.append((name, *signature, WAITING, now))
            # By the file's clock, and, where that is another machine's, by how long it has been seen like this.
            if now - signature[2] / 1e9 >= still_s or now - since >= still_s:
                ready.append((name, signature))
        self._connection.executemany(
            "INSERT INTO files (name, size, modified_ns, changed_ns, state, seen) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET size = excluded.size, modified_ns = excluded.modified_ns, "
            "changed_ns = excluded.changed_ns, state = excluded.state, seen = excluded.seen, batch = NULL",
            fresh,
        )
        plan.waiting, plan.unsettled = len(odd), len(odd) - len(ready)
        return sorted(ready, key=lambda item: (item[1][2], item[0]))

    def _ask(self, ready: list[tuple[bytes, Signature]]) -> Request:
        batch = secrets.token_hex(6)
        self._connection.execute("INSERT INTO batches (id, attempt, due) VALUES (?, 0, NULL)", (batch,))
        self._connection.executemany(
            "UPDATE files SET state = ?, batch = ?, place = ? WHERE name = ?",
            [(ASKED, batch, place, name) for place, (name, _) in enumerate(ready)],
        )
        return Request(_request_key(batch, 0), tuple(partition_key(name) for name, _ in ready), repeated=False)


def _request_key(batch: str, attempt: int) -> str:
    return f"{batch}-{attempt}"


def _remove(path: Path) -> None:
    """Take a damaged file away: nothing in it is worth more than a second look at the folder."""
    for end in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _connect(path: Path, edition: str | None) -> tuple[sqlite3.Connection, str, bool]:
    """The open file, its edition, and whether that is a new one; sqlite3.DatabaseError where it is damaged."""
    connection = sqlite3.connect(path, timeout=30)
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files (name BLOB PRIMARY KEY, size INTEGER, modified_ns INTEGER, "
            "changed_ns INTEGER, state TEXT, seen REAL, batch TEXT, place INTEGER) WITHOUT ROWID"
        )
        connection.execute("CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, attempt INTEGER, due REAL)")
        connection.execute("CREATE INDEX IF NOT EXISTS files_by_batch ON files (batch) WHERE batch IS NOT NULL")
        connection.execute("CREATE INDEX IF NOT EXISTS files_waiting ON files (state) WHERE state != 'done'")
        connection.execute("CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT)")
        about = dict(connection.execute("SELECT name, value FROM about"))
        if edition and about.get("edition") == edition and about.get("format") == FORMAT:
            return connection, edition, False
        new = secrets.token_hex(6)
        for table in ("files", "batches", "about"):
            connection.execute(f"DELETE FROM {table}")
        connection.executemany("INSERT INTO about VALUES (?, ?)", [("edition", new), ("format", FORMAT)])
        return connection, new, True
    except BaseException:
        connection.close()
        raise
