"""Trainings of `dagster dev` that are cancelled, or whose worker is killed: ended in seconds, kept, reported truly."""

import json
import os
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient

from har_assets.graph.running.dead_runs import PROCESS_TAG
from har_assets_tests.project import Project, make_own_videos, trainings_in
from har_assets_tests.test_web_ui import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project.make(tmp_path / "project")
    monkeypatch.chdir(project.folder)  # what dagster.yaml names is below the working folder
    settings = yaml.safe_load((project.folder / "dagster.yaml").read_text())
    settings["run_monitoring"]["poll_interval_seconds"] = 2
    settings["run_monitoring"]["free_slots_after_run_end_seconds"] = 2
    (project.folder / "dagster.yaml").write_text(yaml.safe_dump(settings))
    return project


@pytest.fixture
def server(project: Project) -> Iterator[DagsterGraphQLClient]:
    """`dagster dev` of that project."""
    port = free_port()
    with (project.folder / "dev.log").open("w") as log:
        process = subprocess.Popen(
            project.command("dagster", "dev", "-h", "127.0.0.1", "-p", str(port)),
            cwd=project.folder,
            env=project.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, (project.folder / "dev.log").read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield DagsterGraphQLClient("127.0.0.1", port_number=port)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(what: str, seconds: float, holds: object) -> float:
    """Seconds until `holds()` is true."""
    started = time.monotonic()
    while not holds():  # type: ignore[operator]
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - started


def configuration(folder: Path, training: dict[str, object]) -> dict[str, object]:
    """Configuration of the job train_ml_flow on somebody's own clips."""
    source = {"source": str(make_own_videos(folder, clips_per_class=6))}
    assets = {"raw_archive": source, "video_clips": {"dvc": "off"}, "trained_checkpoint": training}
    return {"ops": {name: {"config": fields} for name, fields in assets.items()}}


def epochs_in(project: Project) -> int:
    """Whole epochs of the training that is under way."""
    works = project.folder / "artifacts" / "trained_checkpoint"
    histories = list(works.glob(".work-*/history.jsonl"))
    return len(histories[0].read_text().splitlines()) if histories else 0


def test_a_cancelled_training_ends_within_seconds_and_the_next_one_goes_on(
    project: Project, server: DagsterGraphQLClient, tmp_path: Path
) -> None:
    config = configuration(tmp_path / "own", {"epochs": 3000, "batch_size": 4})
    run_id = server.submit_job_execution("train_ml_flow", run_config=config)
    works = project.folder / "artifacts" / "trained_checkpoint"
    wait_for("two epochs", 200, lambda: epochs_in(project) >= 2)
    server.terminate_run(run_id)
    wait_for("no training process", 20, lambda: not trainings_in(project.folder))
    wait_for("status CANCELED", 60, lambda: server.get_run_status(run_id) == DagsterRunStatus.CANCELED)
    (work,) = works.glob(".work-*")
    assert (work / "checkpoints" / "last.ckpt").is_file()
    with sqlite3.connect(project.folder / "mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("KILLED",)]

    with DagsterInstance.from_config(str(project.folder)) as instance:
        storage = instance.event_log_storage

        def slots_taken() -> int:
            return sum(storage.get_concurrency_info(key).active_slot_count for key in storage.get_concurrency_keys())

        wait_for("the slot of the pool gpu is free", 60, lambda: slots_taken() == 0)

    done = epochs_in(project)
    again = server.submit_job_execution("train_ml_flow", run_config=config)
    wait_for("it goes on", 120, lambda: epochs_in(project) >= done + 2)
    server.terminate_run(again)
    wait_for("no training process", 20, lambda: not trainings_in(project.folder))


def test_a_run_whose_worker_was_killed_starts_again_by_itself_and_goes_on(
    project: Project, server: DagsterGraphQLClient, tmp_path: Path
) -> None:
    epochs = 40
    config = configuration(tmp_path / "own", {"epochs": epochs, "batch_size": 4})
    run_id = server.submit_job_execution("train_ml_flow", run_config=config)
    wait_for("three epochs", 200, lambda: epochs_in(project) >= 3)
    with DagsterInstance.from_config(str(project.folder)) as instance:

        def run_of(one: str) -> DagsterRun:
            run = instance.get_run_by_id(one)
            assert run
            return run

        os.kill(int(run_of(run_id).tags[PROCESS_TAG].split("@")[0]), signal.SIGKILL)
        done = epochs_in(project)
        assert done < epochs
        wait_for("the second run", 60, lambda: len(instance.get_runs()) == 2)
        (again,) = [run for run in instance.get_runs() if run.run_id != run_id]
        assert again.parent_run_id == run_id
        assert run_of(run_id).status == DagsterRunStatus.FAILURE
        wait_for("its end", 300, lambda: run_of(again.run_id).is_finished)
        assert run_of(again.run_id).status == DagsterRunStatus.SUCCESS
        made = instance.get_latest_materialization_event(AssetKey("trained_checkpoint"))
        assert made
        assert made.run_id == again.run_id
        history = (project.folder / "artifacts/trained_checkpoint/latest/history.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in history] == list(range(epochs)), "no epoch was made twice"
        first = next(entry for entry in instance.all_logs(again.run_id) if "going on from" in entry.user_message)
        assert "last.ckpt" in first.user_message

        refused = {"ops": {"raw_archive": {"config": {"source": str(tmp_path / "absent")}}}}
        failed = server.submit_job_execution("train_ml_flow", run_config=refused)
        wait_for("a failure of a step", 120, lambda: run_of(failed).is_finished)
        time.sleep(20)  # the daemon looks every few seconds
        assert run_of(failed).status == DagsterRunStatus.FAILURE
        assert len(instance.get_runs()) == 3, "a step that fails is not repeated"
