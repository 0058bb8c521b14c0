"""Trainings that are killed and interrupted, by real commands on someone's own classes."""

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from har_assets_tests.mlflow_server import only_run, steps_of
from har_assets_tests.project import Project, log_of, make_own_videos, trainings_in


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[Project, list[str]], "subprocess.Popen[str]"]]:
    """Start a command in a project; whatever it started is killed at the end of the test."""
    children: list[subprocess.Popen[str]] = []

    def start(project: Project, arguments: list[str]) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            project.command(*arguments),
            cwd=project.folder,
            env=project.environment,
            text=True,
            stdout=(project.folder / "log.txt").open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.slow
def test_kill_nine_in_training_on_ones_own_classes_then_the_same_command_goes_on(
    tmp_path: Path, started: Callable[[Project, list[str]], "subprocess.Popen[str]"]
) -> None:
    project = Project.make(tmp_path / "project")
    own = make_own_videos(tmp_path / "own")
    config = {"raw_archive": {"source": str(own)}, "trained_checkpoint": {"epochs": 12, "batch_size": 4}}
    arguments = project.materialize_arguments("+key:trained_checkpoint,*trained_checkpoint", config)
    child = started(project, arguments)
    deadline = time.monotonic() + 200
    while "epoch 2/12" not in (project.folder / "log.txt").read_text():
        assert child.poll() is None, (project.folder / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)  # only the command itself: its steps must notice
    child.wait()
    deadline = time.monotonic() + 30
    while trainings_in(project.folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert trainings_in(project.folder) == [], "an orphan trains on"

    again = project.run(*arguments, timeout=300)
    log = log_of(again)
    assert again.returncode == 0, log[-4000:]
    assert "had died: marked failed, its slots freed" in log
    assert "going on from" in log
    epochs = [json.loads(line) for line in project.latest("trained_checkpoint").file("history.jsonl").open()]
    assert [epoch["epoch"] for epoch in epochs] == list(range(12))
    database = f"sqlite:///{project.folder}/mlflow.db"
    run = only_run(database)
    assert run.info.status == "FINISHED"
    assert len(steps_of(database, run.info.run_id, "val_top1")) == 12

    # The project is a folder of someone's own classes: what became of it.
    index = project.latest("class_index").file("index_to_class.csv").read_text()
    assert index == "index,class\n0,down\n1,right\n2,still\n"
    assert project.latest("test_manifest").record.metadata["split_source"].startswith("seeded 70/30")
    assert project.latest("video_clips").record.headline == "18 clips of 3 classes"
    clips = list((project.folder / "data/videos").rglob("*.avi"))
    assert len(clips) == 18
    assert all(not os.stat(path).st_mode & stat.S_IWUSR for path in clips)
    assert all(os.stat(path).st_mode & stat.S_IWUSR for path in own.rglob("*.avi"))


@pytest.mark.slow
def test_ctrl_c_in_training_ends_it_and_frees_the_slot(
    tmp_path: Path, started: Callable[[Project, list[str]], "subprocess.Popen[str]"]
) -> None:
    project = Project.make(tmp_path / "project")
    own = make_own_videos(tmp_path / "own")
    config = {"raw_archive": {"source": str(own)}, "trained_checkpoint": {"epochs": 2000, "batch_size": 4}}
    child = started(project, project.materialize_arguments("*trained_checkpoint", config))
    deadline = time.monotonic() + 200
    while "epoch 2/2000" not in (project.folder / "log.txt").read_text():
        assert child.poll() is None, (project.folder / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    child.wait(timeout=60)
    assert child.returncode != 0
    deadline = time.monotonic() + 20
    while trainings_in(project.folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert trainings_in(project.folder) == []
    works = list((project.folder / "artifacts/trained_checkpoint").glob(".work-*/checkpoints/last.ckpt"))
    assert len(works) == 1
    assert only_run(f"sqlite:///{project.folder}/mlflow.db").info.status == "KILLED"


@pytest.mark.slow
def test_kill_nine_of_the_training_process_alone_fails_the_step_and_ends_its_mlflow_run(
    tmp_path: Path, started: Callable[[Project, list[str]], "subprocess.Popen[str]"]
) -> None:
    project = Project.make(tmp_path / "project")
    own = make_own_videos(tmp_path / "own")
    config = {"raw_archive": {"source": str(own)}, "trained_checkpoint": {"epochs": 2000, "batch_size": 4}}
    child = started(project, project.materialize_arguments("+key:trained_checkpoint", config))
    log = project.folder / "log.txt"
    deadline = time.monotonic() + 200
    while "epoch 2/2000" not in log.read_text():
        assert child.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for training in trainings_in(project.folder):
        os.kill(training, signal.SIGKILL)  # as the kernel does when memory is short
    child.wait(timeout=60)
    assert child.returncode != 0
    assert "The training process ended without a word" in log.read_text()
    run = only_run(f"sqlite:///{project.folder}/mlflow.db")
    assert run.info.status == "KILLED"
    assert run.data.tags["step.trained_checkpoint"].startswith("KILLED")
