"""Dead runs, with real processes and a real Dagster instance."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus

from har_assets.runs import HOST_TAG, OUTBOX_TAG, PROCESS_TAG, dead_runs, process_name, release_dead_runs, this_host
from har_assets.training.outbox import Address, client_of, opened


@dg.job
def nothing() -> None:
    """A job to make runs of."""


@pytest.fixture
def instance(tmp_path: object) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def started_run(instance: DagsterInstance, process: str | None, host: str | None = None) -> str:
    tags = {HOST_TAG: host or this_host(), PROCESS_TAG: process} if process else {}
    run = instance.create_run_for_job(nothing, status=DagsterRunStatus.STARTED, tags=tags)
    return run.run_id


def ended_process() -> str:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    name = process_name(child.pid)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert name is not None
    return name


def test_only_runs_of_dead_processes_of_this_host_are_dead(instance: DagsterInstance) -> None:
    me = process_name(os.getpid())
    assert me is not None
    gone = started_run(instance, ended_process())
    reused = started_run(instance, f"{os.getpid()}@1")  # the number lives, the process of then does not
    started_run(instance, me)
    started_run(instance, ended_process(), host="elsewhere/boot")
    started_run(instance, None)
    assert {run.run_id for run in dead_runs(instance)} == {gone, reused}


def test_a_dead_run_is_failed_and_its_slot_is_free_again(instance: DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots("gpu", 1)
    dead = started_run(instance, ended_process())
    claim = instance.event_log_storage.claim_concurrency_slot
    assert claim("gpu", dead, "train").is_claimed
    alive = started_run(instance, process_name(os.getpid()))
    assert not claim("gpu", alive, "train").is_claimed
    assert release_dead_runs(instance) == [dead]
    run = instance.get_run_by_id(dead)
    assert run is not None
    assert run.status == DagsterRunStatus.FAILURE
    assert claim("gpu", alive, "train").is_claimed
    assert release_dead_runs(instance) == []


def test_the_mlflow_run_of_a_dead_run_ends_as_killed(instance: DagsterInstance, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/mlflow.db"
    client = client_of(database)
    mlflow_run = client.create_run("0").info.run_id
    with opened(tmp_path / "outbox/training", Address(database, mlflow_run, "trained_checkpoint")) as outbox:
        outbox.enter_state("RUNNING")
        outbox.metrics({"loss": 1.0}, 1)  # and then the process is killed: nothing of this is sent
    dead = started_run(instance, ended_process())
    instance.add_run_tags(dead, {OUTBOX_TAG: str(tmp_path / "outbox")})
    assert client.get_run(mlflow_run).info.status == "RUNNING"
    assert release_dead_runs(instance) == [dead]
    ended = client.get_run(mlflow_run)
    assert (ended.info.status, ended.data.metrics) == ("KILLED", {"loss": 1.0})


def test_a_slot_left_by_an_ended_run_is_freed(instance: DagsterInstance) -> None:
    instance.event_log_storage.set_concurrency_slots("gpu", 1)
    ended = instance.create_run_for_job(nothing, status=DagsterRunStatus.CANCELED).run_id
    instance.event_log_storage.claim_concurrency_slot("gpu", ended, "train")
    release_dead_runs(instance)
    assert instance.event_log_storage.claim_concurrency_slot("gpu", started_run(instance, None), "train").is_claimed


def test_a_zombie_is_not_a_running_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_name(child.pid) is None
    child.wait()
