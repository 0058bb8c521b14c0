"""New videos under a running `dagster dev`: slow writers, renames, replacements, removals, kill -9 of everything."""

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from dagster import DagsterRunStatus

from har_assets.graph.running.dead_runs import PROCESS_TAG
from har_assets.system.files import sha256_of
from har_assets_tests.incoming.server import (
    DagsterDev,
    current,
    dagster_dev,
    instance_of,
    publish_model,
    results_of,
    table_of,
    wait_for,
)
from har_assets_tests.project import Project, log_of
from har_assets_tests.videos import write_video

pytestmark = pytest.mark.slow

INTERVAL_S = 5


@pytest.fixture
def project(tmp_path: Path, tiny_onnx: Path) -> Project:
    made = Project.make(tmp_path / "project")
    publish_model(made, tiny_onnx)
    (made.folder / "incoming").mkdir()
    done = made.run("har_assets.cli", "init")
    assert done.returncode == 0, log_of(done)
    return made


def make_video(path: Path, seed: int, frames: int = 20, size: tuple[int, int] = (48, 64)) -> Path:
    return write_video(path, np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), dtype=np.uint8))


def settled(project: Project) -> Callable[[], bool]:
    """Whether every file of the folder has its current result, of what is in it now, and no run is on its way."""
    incoming = project.folder / "incoming"

    def look() -> bool:
        found = current(project)
        for path in incoming.iterdir():
            name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
            if name not in found or found[name]["content_sha256"] != sha256_of(path):
                return False
        with instance_of(project) as instance:
            return all(run.is_finished for run in instance.get_runs())

    return look


def one_result_each(project: Project) -> None:
    """No content was predicted twice by one model, and every line has an answer or a reason."""
    results = results_of(project)
    counts = Counter((result["content_sha256"], result["partition"]) for result in results)
    assert set(counts.values()) == {1}
    predicted: dict[str, set[str]] = {}
    for result in results:
        predicted.setdefault(result["content_sha256"], set()).add(str(result["seconds"]))
        assert bool(result["top"]) != bool(result["reason"])
    assert all(len(times) == 1 for times in predicted.values()), "one content has results of two decodings"


def no_slot_is_taken(project: Project) -> bool:
    with instance_of(project) as instance:
        return not instance.event_log_storage.get_concurrency_run_ids()


def test_whatever_happens_to_files_each_ends_in_a_result_or_a_reason(
    project: Project, tmp_path: Path, shared_data: Path
) -> None:
    incoming = project.folder / "incoming"
    awkward = sorted((shared_data / "awkward").iterdir())
    big = make_video(tmp_path / "big.avi", 99, frames=200).read_bytes()
    with dagster_dev(project, INTERVAL_S, HAR_INCOMING_SUFFIXES=".avi,.mp4,.mkv,.mov,.webm,.mp3") as server:
        server.switch_on("new_video_sensor")

        def write_slowly() -> None:
            with (incoming / "slow.avi").open("wb") as file:
                for part in range(40):
                    file.write(big[part * len(big) // 40 : (part + 1) * len(big) // 40])
                    file.flush()
                    time.sleep(0.5)

        writer = threading.Thread(target=write_slowly)
        writer.start()
        for path in awkward:
            shutil.copy(path, incoming / path.name)
        for number in range(60):
            make_video(incoming / f"many {number}.avi", number)
        shutil.copy(incoming / "many 0.avi", incoming / "equal to many 0.avi")
        for name in (b"latin\xe9.avi", b"two\nlines.avi", "一🎬.avi".encode(), b"#;$(id)'\".avi"):
            make_video(tmp_path / "odd.avi", len(name))
            shutil.move(tmp_path / "odd.avi", incoming / os.fsdecode(name))
        (incoming / ".hidden.avi").write_bytes(big)
        (incoming / "copying.avi.part").write_bytes(big)
        shuffle = random.Random(0)
        # While the runs go on: replaced, renamed, removed, given back.
        for step in range(30):
            victim = incoming / f"many {shuffle.randrange(60)}.avi"
            if not victim.exists():
                continue
            action = step % 3
            if action == 0:
                make_video(tmp_path / "new.avi", 1000 + step)
                shutil.move(tmp_path / "new.avi", victim)
            elif action == 1:
                victim.rename(incoming / f"renamed {step}.avi")
            else:
                victim.unlink()
            time.sleep(1)
        writer.join()
        (incoming / ".hidden.avi").unlink()
        (incoming / "copying.avi.part").unlink()
        wait_for(settled(project), 180, "all results", 1)
        time.sleep(3 * INTERVAL_S)  # nothing more comes
        assert settled(project)()
        with instance_of(project) as instance:
            runs = instance.get_runs()
            partitions = instance.get_dynamic_partitions("incoming_videos")
    assert {run.status for run in runs} == {DagsterRunStatus.SUCCESS}
    assert len(runs) <= 20, "one run for many"
    one_result_each(project)
    found = current(project)
    assert set(partitions) == {found[row]["partition"] for row in found if in_folder(incoming, row)}
    slow = [row for row in table_of(project) if row["video"] == "slow.avi"]
    assert len(slow) == 1, "a half-copied file was predicted"
    assert all(found[path.name] for path in awkward)
    assert "hidden.avi" not in str(found)
    assert not list((project.folder / "artifacts/incoming_video_predictions").rglob(".*.[0-9]*"))


def in_folder(incoming: Path, video: str) -> bool:
    names = {os.fsencode(path.name).decode("utf-8", "backslashreplace") for path in incoming.iterdir()}
    return video in names


def process_of_run(project: Project) -> int | None:
    """The process that executes the one unfinished run, if it has begun."""
    with instance_of(project) as instance:
        for run in instance.get_runs():
            if not run.is_finished and PROCESS_TAG in run.tags:
                return int(run.tags[PROCESS_TAG].split("@")[0])
    return None


def drop_200(project: Project, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    for number in range(200):
        make_video(staged / f"{number:03d}.avi", number, frames=60, size=(96, 128))
    for path in sorted(staged.iterdir()):
        shutil.move(path, project.folder / "incoming" / path.name)


def some_are_predicted(project: Project) -> Callable[[], bool]:
    """Whether a run is in the midst of the videos."""
    return lambda: 20 <= len(results_of(project)) <= 190


def test_kill_nine_of_the_run_in_the_midst_of_200_videos(project: Project, tmp_path: Path) -> None:
    with dagster_dev(project, INTERVAL_S) as server:
        server.switch_on("new_video_sensor")
        drop_200(project, tmp_path)
        wait_for(some_are_predicted(project), 120, "the midst of the run", 0.02)
        pid = process_of_run(project)
        assert pid
        os.kill(pid, signal.SIGKILL)  # its step must notice, or go on for nobody
        wait_for(settled(project), 180, "all results", 1)
        wait_for(lambda: no_slot_is_taken(project), 60, "free slots")
        with instance_of(project) as instance:
            states = [run.status for run in instance.get_runs()]
    assert states == [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]
    one_result_each(project)
    assert len(table_of(project)) == len(results_of(project)) == 200


@pytest.mark.parametrize("when", ["asking", "predicting"])
def test_kill_nine_of_the_daemon_and_of_everything(project: Project, tmp_path: Path, when: str) -> None:
    server = DagsterDev(project, INTERVAL_S).wait()
    try:
        server.switch_on("new_video_sensor")
        drop_200(project, tmp_path)
        if when == "asking":
            ledger = project.folder / "artifacts/incoming_video_predictions/.known_videos.sqlite"
            wait_for(ledger.exists, 60, "the first tick", 0.005)
        else:
            wait_for(some_are_predicted(project), 120, "the midst of the run", 0.02)
        kill_tree(server)
    finally:
        server.stop()
    with dagster_dev(project, INTERVAL_S):
        wait_for(settled(project), 240, "all results", 1)
        wait_for(lambda: no_slot_is_taken(project), 90, "free slots")
    one_result_each(project)
    assert len(table_of(project)) == len(results_of(project)) == 200


def kill_tree(server: DagsterDev) -> None:
    """kill -9 of `dagster dev` and of all that it has started."""
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    server.process.wait()
