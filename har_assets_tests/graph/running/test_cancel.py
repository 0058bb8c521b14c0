"""A training that is cancelled from the web UI's server: ended in seconds, kept, told truthfully, its slot free."""

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
from dagster import DagsterInstance, DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient

from har_assets_tests.project import Project, make_own_videos, trainings_in
from har_assets_tests.test_web_ui import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.make(tmp_path / "project")
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


def test_a_cancelled_training_ends_within_seconds_and_the_next_one_goes_on(
    project: Project, server: DagsterGraphQLClient, tmp_path: Path
) -> None:
    source = {"source": str(make_own_videos(tmp_path / "own", clips_per_class=6))}
    training = {"epochs": 3000, "batch_size": 4}
    config = {
        "ops": {
            "raw_archive": {"config": source},
            "video_clips": {"config": {"dvc": "off"}},
            "trained_checkpoint": {"config": training},
        }
    }
    run_id = server.submit_job_execution("train_ml_flow", run_config=config)
    works = project.folder / "artifacts" / "trained_checkpoint"

    def epochs() -> int:
        histories = list(works.glob(".work-*/history.jsonl"))
        return len(histories[0].read_text().splitlines()) if histories else 0

    wait_for("two epochs", 200, lambda: epochs() >= 2)
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

    done = epochs()
    again = server.submit_job_execution("train_ml_flow", run_config=config)
    wait_for("it goes on", 120, lambda: epochs() >= done + 2)
    server.terminate_run(again)
    wait_for("no training process", 20, lambda: not trainings_in(project.folder))
