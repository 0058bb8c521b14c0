"""What is to be written into an MLflow run, kept on disk until the server has it.

    mlflow_outbox/
      <name>/            one writer of one run: a training, or one step downstream
        address.json     tracking address, run, name of the step
        journal.jsonl    entries in the order in which they are to arrive
        sent             how many bytes of the journal have arrived
        files/           files that have not arrived yet

Every entry is on disk before it is sent: neither an absent server nor kill -9 loses one, and what is left is sent by
the next step of the model or by `har mlflow-sync`. An entry that is sent twice changes nothing (MLflow drops a metric
whose name, step, time and value it has).

Several writers may have one run open at a time. Each keeps its own state in a tag `step.<name>` of the run, and the
status of the run is derived from all of these: RUNNING while one runs, else FAILED or KILLED if one ended so and has
not been repeated since, else FINISHED.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets.errors import HarError
from har_assets.system.files import write_text_whole
from har_assets.system.locks import exclusive
from har_assets.tracking.client import (
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    client_of,
    one_line,
    settle_status,
    tie_test_figures,
    without_password,
)
from har_assets.tracking.tags import STEP_TAG, TRAINING_ENDED_TAG

LOCK = ".lock"
ADDRESS = "address.json"
PURPOSE = "an MLflow outbox"

METRICS_A_REQUEST = 1000
PARAMS_A_REQUEST = 100
"""Limits of MLflow's log_batch."""


REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "ENDPOINT_NOT_FOUND"})
"""Error codes of an entry that no repetition makes acceptable."""


class UndeliveredError(HarError):
    """What is in an outbox could not be sent; it is still there."""

    def __init__(self, message: str, *, run_is_gone: bool = False) -> None:
        super().__init__(message)
        self.run_is_gone = run_is_gone
        """The server answers and has no such run, or a deleted one."""


@dataclass(frozen=True)
class Address:
    """Where the entries of an outbox go."""

    tracking_uri: str
    run_id: str
    step: str
    """Name of the writer, an asset."""
    dagster_run: str = ""
    """Web address or id of the Dagster run."""
    work: str = ""
    """Folder of a training that can go on: its outbox is kept, the steps logged so far are in it."""


class Outbox:
    """One writer's entries for one MLflow run; open it with `opened`."""

    def __init__(self, folder: Path, address: Address) -> None:
        self.folder = folder
        self.address = address
        self.refused: list[str] = []
        """Entries that the server would not take, and why."""
        self._journal = folder / "journal.jsonl"
        self._writing = threading.Lock()
        self._sending = threading.Lock()
        self._client: Any = None
        self._files = 0
        self.state = ""
        """Last state that was entered; empty in a new outbox."""
        self._last_step: dict[str, int] = {}
        self._params: dict[str, str] = {}
        self.written_s = self._journal.stat().st_mtime if self._journal.is_file() else None
        """When an earlier process entered something last, in seconds since 1970; None in a new outbox."""
        self._read_back()

    def _read_back(self) -> None:
        """Forget a torn last line; remember what was entered before."""
        text = self._journal.read_bytes() if self._journal.is_file() else b""
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self._journal, whole)
        for line in text[:whole].splitlines():
            entry = json.loads(line)
            self.state = entry.get("state", self.state)
            self._params.update(entry.get("params", {}))
            for name in entry.get("metrics", {}):
                self._last_step[name] = max(entry["step"], self._last_step.get(name, -1))
            self._files += "file" in entry

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Enter figures of a step; a figure that this step or a later one has already is left out.

        So a training that goes on after a kill, and repeats the steps since its last checkpoint, leaves one history.
        """
        new = {name: float(value) for name, value in values.items() if step > self._last_step.get(name, -1)}
        if new:
            self._append({"metrics": new, "step": step, "time": int(time.time() * 1000)})
            self._last_step.update(dict.fromkeys(new, step))

    def next_step(self, name: str) -> int:
        """The first step that this figure does not have; 0 in the beginning."""
        return self._last_step.get(name, -1) + 1

    def params(self, values: Mapping[str, Any]) -> None:
        """Enter parameters. MLflow keeps the first value; a changed one becomes the tag `resumed_with.<name>`."""
        texts = {name: str(value) for name, value in values.items()}
        new = {name: text for name, text in texts.items() if name not in self._params}
        changed = {name: text for name, text in texts.items() if self._params.get(name, text) != text}
        names = list(new)
        for start in range(0, len(names), PARAMS_A_REQUEST):
            self._append({"params": {name: new[name] for name in names[start : start + PARAMS_A_REQUEST]}})
        self._params.update(new)
        self.tags({f"resumed_with.{name}": text for name, text in changed.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Enter tags."""
        if values:
            self._append({"tags": dict(values)})

    def file(self, path: Path, into: str = "") -> None:
        """Enter a file as it is now, for the folder `into` of the run's files."""
        self._files += 1
        kept = self.folder / "files" / str(self._files) / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, kept)
        self._append({"file": str(kept.relative_to(self.folder)), "into": into})

    def enter_state(self, state: str, at_s: float | None = None) -> None:
        """Enter that the step runs, or how it ended, and when: in seconds since 1970, left out, now."""
        if self.address.work and state != RUNNING:
            self.tags({TRAINING_ENDED_TAG: str(int((at_s or time.time()) * 1000))})
        self._append({"state": state})
        self.state = state

    def _append(self, entry: dict[str, Any]) -> None:
        with self._writing, self._journal.open("a") as journal:
            journal.write(json.dumps(entry) + "\n")

    @property
    def pending(self) -> int:
        """Bytes of the journal that have not arrived."""
        return (self._journal.stat().st_size if self._journal.is_file() else 0) - self._sent()

    def _sent(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return int((self.folder / "sent").read_text() or 0)
        return 0

    def deliver(self) -> None:
        """Send everything; UndeliveredError where that ends early. Callable from another thread than the entries."""
        with self._sending:
            for entries, end in self._batches():
                try:
                    self._send(entries)
                except Exception as error:  # noqa: BLE001 - databases and file stores raise what they like; it is told
                    self._judge(error, entries[0])
                write_text_whole(self.folder / "sent", str(end))
                for entry in entries:
                    if "file" in entry:
                        shutil.rmtree((self.folder / entry["file"]).parent, ignore_errors=True)

    def _batches(self) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Entries that go in one request, and the offset at which they end."""
        if not self._journal.is_file():
            return
        with self._journal.open("rb") as journal:
            end = journal.seek(self._sent())
            batch: list[dict[str, Any]] = []
            count = 0
            for line in journal:
                if not line.endswith(b"\n"):
                    break  # is just being written
                entry = json.loads(line)
                figures = len(entry.get("metrics", ()))
                joins = figures and count and count + figures <= METRICS_A_REQUEST
                if batch and not joins:
                    yield batch, end
                    batch, count = [], 0
                batch.append(entry)
                count += figures
                end += len(line)
            if batch:
                yield batch, end

    def _send(self, entries: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client = self._client or client_of(self.address.tracking_uri)
        run_id, first = self.address.run_id, entries[0]
        if "metrics" in first:
            self._client.log_batch(
                run_id,
                metrics=[
                    Metric(name, value, entry["time"], entry["step"])
                    for entry in entries
                    for name, value in entry["metrics"].items()
                ],
            )
        elif "params" in first:
            self._client.log_batch(run_id, params=[Param(*item) for item in first["params"].items()])
        elif "tags" in first:
            self._client.log_batch(run_id, tags=[RunTag(*item) for item in first["tags"].items()])
        elif "file" in first and (self.folder / first["file"]).is_file():
            self._client.log_artifact(run_id, str(self.folder / first["file"]), first["into"] or None)
        elif "state" in first:
            said = f"{first['state']} {self.address.dagster_run}".strip()
            self._client.set_tag(run_id, STEP_TAG + self.address.step, said)
            settle_status(self._client, run_id)
            if first["state"] != RUNNING:
                tie_test_figures(self._client, run_id)

    def _judge(self, error: Exception, entry: dict[str, Any]) -> None:
        """Note an entry that is refused for good; UndeliveredError for everything else."""
        address = self.address
        reason = one_line(error)
        code = getattr(error, "error_code", "")
        if code in REFUSED | {"RESOURCE_DOES_NOT_EXIST"}:
            try:
                there = self._client.get_run(address.run_id).info.lifecycle_stage == "active"
            except Exception as second:  # noqa: BLE001 - as in deliver
                there = getattr(second, "error_code", "") != "RESOURCE_DOES_NOT_EXIST"
                code = ""
            if not there:
                raise UndeliveredError(
                    f"MLflow at {without_password(address.tracking_uri)} has no run {address.run_id} any more: "
                    f"restore it there, or remove {self.folder}.",
                    run_is_gone=True,
                ) from error
            if code in REFUSED:
                self.refused.append(reason)
                return
        if "file" in entry and self.state not in ("", RUNNING):
            # The file store may be away and the server not: the status is not to wait for the file.
            with contextlib.suppress(Exception):
                self._send([{"state": self.state}])
        raise UndeliveredError(
            f"MLflow at {without_password(address.tracking_uri)} does not take it ({reason})."
        ) from error

    def deliver_at_last(self, pauses_s: tuple[float, ...] = (2.0, 5.0)) -> None:
        """Send everything, once more after each pause; UndeliveredError when that does not help."""
        for pause_s in (*pauses_s, None):
            try:
                self.deliver()
                break
            except UndeliveredError as error:
                if error.run_is_gone or pause_s is None:
                    raise
                time.sleep(pause_s)

    def readdress(self, address: Address) -> None:
        """Write to this address from now on."""
        self.address = address
        write_address(self.folder, address)

    def forget_sent(self) -> None:
        """Send everything again, for a run that has nothing of it; files that were sent are not here any more."""
        write_text_whole(self.folder / "sent", "0")

    def discard(self) -> None:
        """Give up what has not arrived."""
        self._journal.unlink(missing_ok=True)
        (self.folder / "sent").unlink(missing_ok=True)
        self.state = FAILED

    @property
    def done(self) -> bool:
        """True when everything has arrived and nobody goes on with it."""
        resumable = bool(self.address.work) and Path(self.address.work).is_dir() and self.state != FINISHED
        return self.pending == 0 and self.state not in ("", RUNNING) and not resumable


@contextlib.contextmanager
def opened(folder: Path, address: Address | None = None, *, wait_s: float = 15.0) -> Iterator[Outbox]:
    """The outbox of a folder, for this process alone; removed at the end when it is done.

    `address` makes it where it is missing. HarError when another process still has it after `wait_s` seconds, or it
    is not there.
    """
    with contextlib.ExitStack() as held:
        if address and not folder.is_dir():
            new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
            write_address(new, address)
            held.enter_context(exclusive(new, PURPOSE, wait_s=0))  # before others can see it
            new.rename(folder)
        else:
            read_address(folder)  # first, as a lock makes the folder that it is in
            held.enter_context(exclusive(folder, PURPOSE, wait_s=wait_s))
            if not (folder / ADDRESS).exists():  # its writer has removed it at this moment
                with contextlib.suppress(OSError):
                    (folder / LOCK).unlink()
                    folder.rmdir()
        outbox = Outbox(folder, read_address(folder))
        try:
            yield outbox
        finally:
            if outbox.done:
                gone = folder.with_name(f".{folder.name}.done")
                folder.rename(gone)  # at once for everybody else
                shutil.rmtree(gone)


def write_address(folder: Path, address: Address) -> None:
    """Write `address.json`, at once or not at all."""
    write_text_whole(folder / ADDRESS, json.dumps(dataclasses.asdict(address), indent=2) + "\n")


def read_address(folder: Path) -> Address:
    """Where an outbox goes; HarError where there is none, and for a foreign file."""
    try:
        return Address(**json.loads((folder / ADDRESS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        if not folder.is_dir():
            raise HarError(f"There is no outbox {folder}.") from None
        raise HarError(f"{folder} is no outbox ({error}): remove it.") from error


@dataclass(frozen=True)
class Settled:
    """What became of an outbox."""

    address: Address
    left: str
    """Empty when everything has arrived, else why not."""


def settle(root: Path, *, but: str = "") -> list[Settled]:
    """Send what the outboxes below `root` still hold, `but` that one; where the writer has died it says KILLED.

    Outboxes in use are left alone. MLflow is imported only where there is something to do.
    """
    results = []
    for folder in sorted(root.glob("[!.]*/")):  # a name with a dot is just being made or removed
        if folder.name == but:
            continue
        try:
            with opened(folder, wait_s=0) as outbox:
                if outbox.state in ("", RUNNING):
                    outbox.enter_state(KILLED, outbox.written_s)
                if not outbox.pending:
                    continue
                left = ""
                try:
                    outbox.deliver()
                except UndeliveredError as error:
                    left = str(error)
                results.append(Settled(outbox.address, left))
        except HarError:
            continue  # its writer lives, and ends it itself
    return results


def unsettled(root: Path) -> list[Path]:
    """Outboxes below `root` that nobody has open and that `settle` would have something to do with."""
    found = []
    for folder in sorted(root.glob("[!.]*/")):
        with contextlib.suppress(HarError), opened(folder, wait_s=0) as outbox:
            if outbox.pending or outbox.state in ("", RUNNING):
                found.append(folder)
    return found


def report_settled(results: list[Settled], report: Callable[[str], None]) -> None:
    """Say what became of outboxes, a line each."""
    for result in results:
        run = f"{result.address.step} of the MLflow run {result.address.run_id}"
        report(f"{run}: not sent yet. {result.left}" if result.left else f"{run}: sent what had been kept.")
