"""Dead runs, with real processes and a real Dagster instance."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running import dead_runs as runs
from har_assets.graph.running.dead_runs import (
    HOST_TAG,
    OUTBOX_TAG,
    PROCESS_TAG,
    RUN_TAG,
    dead_runs,
    release_dead_runs,
)
from har_assets.graph.sensors.dead_runs import dead_run_sensor
from har_assets.system.processes import process_name, this_host
from har_assets.tracking.client import client_of
from har_assets.tracking.outbox import Address, opened


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


def test_a_run_that_repeats_another_one_is_not_taken_for_its_dead_process(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster hands every tag of a run on to the run that repeats it, by a click or by itself."""
    me = process_name(os.getpid())
    assert me is not None
    first = started_run(instance, ended_process())
    instance.add_run_tags(first, {RUN_TAG: first})
    run = instance.get_run_by_id(first)
    assert run is not None
    again = instance.create_run_for_job(
        nothing, status=DagsterRunStatus.STARTED, tags={**run.tags}, parent_run_id=first, root_run_id=first
    )
    assert [run.run_id for run in dead_runs(instance)] == [first]
    instance.add_run_tags(again.run_id, {PROCESS_TAG: me, RUN_TAG: again.run_id})
    assert [run.run_id for run in dead_runs(instance)] == [first]
    instance.add_run_tags(again.run_id, {PROCESS_TAG: ended_process()})
    assert {run.run_id for run in dead_runs(instance)} == {first, again.run_id}


def test_a_dead_run_that_somebody_has_terminated_is_canceled(instance: DagsterInstance) -> None:
    tags = {HOST_TAG: this_host(), PROCESS_TAG: ended_process()}
    run = instance.create_run_for_job(nothing, status=DagsterRunStatus.CANCELING, tags=tags)
    assert release_dead_runs(instance) == [run.run_id]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == DagsterRunStatus.CANCELED


def test_a_run_that_ends_well_while_it_is_looked_at_is_not_dead(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = started_run(instance, ended_process())

    def ended_meanwhile(run: dg.DagsterRun) -> bool:
        instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_SUCCESS.value, "nothing"), run.run_id)
        return True

    monkeypatch.setattr(runs, "is_dead", ended_meanwhile)
    assert release_dead_runs(instance) == []
    run = instance.get_run_by_id(started)
    assert run is not None
    assert run.status == DagsterRunStatus.SUCCESS


def test_a_run_that_was_killed_before_it_noted_its_process_is_dead_after_a_while(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(module: str, process: str | None = None) -> str:
        origin = RepositoryPythonOrigin(sys.executable, ModuleCodePointer(module, "defs"))
        tags = {HOST_TAG: this_host(), PROCESS_TAG: process} if process else {}
        run = instance.create_run_for_job(nothing, tags=tags, job_code_origin=JobPythonOrigin("nothing", origin))
        event = DagsterEvent(DagsterEventType.RUN_START.value, "nothing")
        instance.report_dagster_event(event, run.run_id)
        return run.run_id

    mute = started("har_assets")
    started("someone_elses_graph")
    started("har_assets", process_name(os.getpid()))
    assert dead_runs(instance) == []
    monkeypatch.setattr(runs, "MUTE_S", -1)
    assert release_dead_runs(instance) == [mute]


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


def test_slots_that_a_kill_in_the_midst_of_freeing_has_left_are_found(instance: DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.set_concurrency_slots("gpu", 1)
    ended = instance.create_run_for_job(nothing, status=DagsterRunStatus.FAILURE).run_id
    assert storage.claim_concurrency_slot("gpu", ended, "train").is_claimed
    storage._remove_pending_steps(ended)  # type: ignore[attr-defined]
    assert storage.get_concurrency_run_ids() == set(), "Dagster would find the slot by itself"
    waiting = started_run(instance, None)
    release_dead_runs(instance)
    assert storage.claim_concurrency_slot("gpu", waiting, "train").is_claimed


def test_a_step_that_nobody_told_of_a_free_slot_gets_it(instance: DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.set_concurrency_slots("gpu", 1)
    first, *others = (started_run(instance, None) for _ in range(3))

    def claims() -> list[bool]:
        return [storage.claim_concurrency_slot("gpu", run, "train").is_claimed for run in others]

    assert storage.claim_concurrency_slot("gpu", first, "train").is_claimed
    assert claims() == [False, False]
    # What free_concurrency_slot_for_step does, but for its last transaction.
    storage._free_concurrency_slots(first, "train")  # type: ignore[attr-defined]
    storage._remove_pending_steps(first, "train")  # type: ignore[attr-defined]
    assert claims() == [False, False]
    release_dead_runs(instance)
    got = claims()
    assert sorted(got) == [False, True]  # who asked within the same second is as early
    release_dead_runs(instance)
    assert claims() == got, "one slot, two holders"


def test_the_sensor_ends_the_mlflow_run_of_a_run_that_the_code_server_has_marked_failed(
    instance: DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database = f"sqlite:///{tmp_path}/mlflow.db"
    client = client_of(database)
    mlflow_run = client.create_run("0").info.run_id
    mlflow = MlflowTracking(tracking_uri=database)
    with opened(
        mlflow.outbox_folder(tmp_path) / "training", Address(database, mlflow_run, "trained_checkpoint")
    ) as box:
        box.enter_state("RUNNING")
    instance.create_run_for_job(nothing, status=DagsterRunStatus.FAILURE)
    with dg.build_sensor_context(instance, resources={"store": ArtifactStore(), "mlflow": mlflow}) as context:
        said = dead_run_sensor(context)
    assert isinstance(said, dg.SkipReason)
    assert said.skip_message == "no dead runs"
    assert client.get_run(mlflow_run).info.status == "KILLED"


def test_a_zombie_is_not_a_running_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_name(child.pid) is None
    child.wait()
