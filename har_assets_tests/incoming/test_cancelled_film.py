"""A run that is terminated in the web UI while it decodes a long film: ended in seconds, nothing half there."""

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from dagster import DagsterRunStatus

from har_assets_tests.incoming.server import current, dagster_dev, instance_of, publish_model, results_of, table_of
from har_assets_tests.incoming.server import wait_for as until
from har_assets_tests.incoming.test_faults import INTERVAL_S, make_video, no_slot_is_taken, one_result_each, settled
from har_assets_tests.project import Project, log_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FILM = "film.mp4"
FILM_S = 900
CANCELED_S = 15.0
"""Longest from the click to the end of the run and of all that decodes."""


def make_film(path: Path, seconds: int) -> Path:
    """320x240 at 30 frames a second: ten seconds that are encoded once, over and over."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        encoded = []
        for number in range(300):
            frame_HWC = rng.integers(0, 40, (240, 320, 3), dtype=np.uint8)
            frame_HWC[:, number : number + 20] = 220
            encoded += stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24"))
        encoded += stream.encode()
        for number in range(seconds * 30):
            kept = encoded[number % len(encoded)]
            packet = av.Packet(bytes(kept))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 30), kept.is_keyframe
            packet.pts = packet.dts = number
            container.mux(packet)
    return path


@pytest.fixture
def project(tmp_path: Path, tiny_onnx: Path) -> Project:
    made = Project.make(tmp_path / "project")
    publish_model(made, tiny_onnx)
    (made.folder / "incoming").mkdir()
    done = made.run("har_assets.cli", "init")
    assert done.returncode == 0, log_of(done)
    return made


def readers_of(path: Path) -> Iterator[psutil.Process]:
    """Other processes that have a file open."""
    for process in psutil.process_iter():
        try:
            if process.pid != psutil.Process().pid and str(path) in (file.path for file in process.open_files()):
                yield process
        except psutil.Error:
            continue


def test_a_run_that_is_terminated_in_a_film_leaves_nothing_and_a_later_one_predicts_it(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    incoming = project.folder / "incoming"
    film = make_film(tmp_path / FILM, FILM_S)
    for number in range(5):
        make_video(incoming / f"{number}.avi", number)
    film = film.rename(incoming / FILM)
    with dagster_dev(project, INTERVAL_S) as server:
        server.switch_on("new_video_sensor")

        def is_being_decoded() -> bool:
            return any(process.cpu_times().user > 2 for process in readers_of(film) if process.is_running())

        until(lambda: len(results_of(project)) == 5, 120, "the short videos, which come first")
        until(is_being_decoded, 60, "the film")
        with instance_of(project) as instance:
            (run,) = instance.get_runs()
        assert run.status == DagsterRunStatus.STARTED
        family = {process.pid for process in readers_of(film)}
        started = time.monotonic()
        answer = server.graphql("mutation($id: String!) { terminateRun(runId: $id) { __typename } }", id=run.run_id)
        assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"

        def status() -> DagsterRunStatus:
            with instance_of(project) as instance:
                found = instance.get_run_by_id(run.run_id)
            assert found
            return found.status

        until(lambda: status() == DagsterRunStatus.CANCELED, CANCELED_S, "the run as CANCELED", 0.1)
        canceled_s = time.monotonic() - started
        until(lambda: not any(psutil.pid_exists(pid) for pid in family), CANCELED_S, "the end of its decoder", 0.1)
        with capsys.disabled():
            print(f"\nCANCELED after {canceled_s:.1f} s, no decoder after {time.monotonic() - started:.1f} s")
        until(lambda: no_slot_is_taken(project), 60, "free slots")
        assert not [row for row in table_of(project) if row["video"] == FILM]
        assert len(results_of(project)) == 5

        until(settled(project), 300, "the film, by a later run", 1)
        assert current(project)[FILM]["reason"] == ""
        with instance_of(project) as instance:
            assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.SUCCESS, DagsterRunStatus.CANCELED]
    one_result_each(project)
    (predicted,) = [result for result in results_of(project) if result["video"] == FILM]
    assert predicted["frames"] == FILM_S * 30
    assert predicted["timeline"] is not None
    assert predicted["windows"] > 100
    assert len(results_of(project)) == 6
    assert not list((project.folder / "artifacts/incoming_video_predictions").rglob(".*.[0-9]*"))
