"""Runs whose process has died: they are marked failed, and their pool slots are freed.

After kill -9 of `dagster asset materialize` Dagster leaves the run STARTED and its slot of the pool `gpu` taken, and
every later training waits for ever. So the executor writes host, process and start time of the process into tags of
each run. Before a run begins, it ends the runs of this host whose process is gone; dead_run_sensor does the same.
Dagster's run_monitoring does not: its default run launcher cannot say whether a process lives. Its run_retries then
starts the runs again that the daemon had started.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import dagster as dg
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from har_assets.graph.dagster_private import (
    HIDDEN_TAG_PREFIX,
    end_run,
    free_slots_of,
    hand_out_free_slots,
    module_of_run,
    slot_holders,
)
from har_assets.system.processes import process_name, this_host
from har_assets.tracking.outbox import settle

HOST_TAG = f"{HIDDEN_TAG_PREFIX}har_host"
PROCESS_TAG = f"{HIDDEN_TAG_PREFIX}har_process"
RUN_TAG = f"{HIDDEN_TAG_PREFIX}har_run"
"""Tag of a run: its own id, noted with its process. A run that repeats another one inherits all tags of that one."""

OUTBOX_TAG = f"{HIDDEN_TAG_PREFIX}har_mlflow_outbox"
"""Tag of a run: the folder in which its steps keep what MLflow has not received yet."""

MUTE_S = 120
"""Seconds after which a started run without the tag of its process has none: writing the tag is its first action."""

SECONDS_BETWEEN_QUESTIONS = 10
"""Pause between two queries of the database for whether a run on another machine has ended."""

UNFINISHED = [DagsterRunStatus.STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.CANCELING]


def process_of(run: DagsterRun) -> str | None:
    """The process that executes a run, `number@start`; None before the run has noted it."""
    return run.tags.get(PROCESS_TAG) if run.tags.get(RUN_TAG, run.run_id) == run.run_id else None


def is_dead(run: DagsterRun) -> bool:
    """True when the run was executed by a process of this host that is gone; False where that is unknown."""
    process = process_of(run)
    if not process or run.tags.get(HOST_TAG) != this_host():
        return False
    return process_name(int(process.split("@")[0])) != process


def is_mute(record: dg.RunRecord) -> bool:
    """True when a run of this graph was started and then killed before its executor noted its process."""
    run = record.dagster_run
    return (
        run.status == DagsterRunStatus.STARTED
        and process_of(run) is None
        and module_of_run(run).partition(".")[0] == "har_assets"
        and record.start_time is not None
        and time.time() - record.start_time > MUTE_S
    )


def dead_runs(instance: DagsterInstance) -> list[DagsterRun]:
    """Unfinished runs of this host whose process is gone."""
    records = instance.get_run_records(RunsFilter(statuses=UNFINISHED))
    silent = [record.dagster_run for record in records if is_dead(record.dagster_run) or is_mute(record)]
    # Its process may have ended well since the runs were listed.
    looked_at_again = (instance.get_run_by_id(run.run_id) for run in silent)
    return [run for run in looked_at_again if run and not run.is_finished]


def at_work_since(instance: DagsterInstance, but: str = "") -> float | None:
    """Start of the run that has been at work longest, seconds since 1970, the run `but` left out; None without one."""
    records = instance.get_run_records(RunsFilter(statuses=UNFINISHED))
    others = [record for record in records if record.dagster_run.run_id != but]
    return min((record.start_time or record.create_timestamp.timestamp() for record in others), default=None)


def release_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark dead runs failed, free the slots of all ended runs; return the ids of the runs marked."""
    dead = dead_runs(instance)
    for run in dead:
        process = " ".join(filter(None, ("process", process_of(run))))
        end_run(instance, run, f"Its {process} ended without a word (killed?).")
    free_lost_slots(instance)
    # Last, as MLflow may be slow or away.
    for outbox in {run.tags[OUTBOX_TAG] for run in dead if OUTBOX_TAG in run.tags}:
        settle(Path(outbox))  # its MLflow run ends as KILLED
    return [run.run_id for run in dead]


def free_lost_slots(instance: DagsterInstance) -> None:
    """Free the slots of ended runs and give free slots to waiting steps, also after a process was killed doing so.

    Dagster frees a slot, deletes its holder and assigns it to the next waiting step in three transactions. Its own
    clean-up finds holders by the second, and does not repeat the third.
    """
    for run_id in slot_holders(instance):
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            free_slots_of(instance, run_id)
    hand_out_free_slots(instance)


def end_with_run(instance: DagsterInstance, run_id: str) -> None:
    """End this step process, kill -9, soon after the process that executes its run has died.

    Without this the steps of Dagster outlive it: those forked from a fork server have another parent, and their
    products would belong to no run. A training ends with its step (har_assets.system.processes). Whether a run on
    another machine has ended is read from Dagster's database.
    """
    run = instance.get_run_by_id(run_id)
    process = process_of(run) if run else None
    if run is None or process is None or process == process_name(os.getpid()):
        return
    from sqlalchemy.exc import SQLAlchemyError

    elsewhere = run.tags.get(HOST_TAG) != this_host()

    def goes_on() -> bool:
        if not elsewhere:
            return process_name(int(process.split("@")[0])) == process
        try:
            run = instance.get_run_by_id(run_id)
        except SQLAlchemyError:
            return True  # a database that does not answer is no reason to end
        return run is not None and not run.is_finished

    def watch() -> None:
        while goes_on():
            time.sleep(SECONDS_BETWEEN_QUESTIONS if elsewhere else 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end_with_run", daemon=True).start()
