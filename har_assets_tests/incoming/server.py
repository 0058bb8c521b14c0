"""A project with a model and nothing else, `dagster dev` on it, and what may be asked of both."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import AssetMaterialization, DagsterInstance
from dagster._core.instance.ref import InstanceRef

from har_assets.store.record import Artifact, describe_files
from har_assets.system.files import hash_of
from har_assets_tests.project import Project
from har_assets_tests.published import make_record

NAME = "incoming_video_predictions"


def publish_model(project: Project, onnx: Path, data_version: str = "") -> Artifact:
    """Publish an ONNX file as onnx_model would."""
    parity = {"passed": True, "clips": 1, "max_difference": 0.0, "top1_agreement": 1.0}
    with project.store.staging("onnx_model") as folder:
        shutil.copy(onnx, folder / "video_action_model.onnx")
        files = describe_files(folder)
        key = hash_of([files, data_version])
        record = make_record(
            "onnx_model",
            key=key,
            data_version=data_version or key,
            files=files,
            headline="made by a test",
            lineage={"dataset": "tiny", "synthetic": False, "data_version": "v1", "split": 1, "mlflow_run_id": ""},
            metadata={
                "parity": parity,
                "precisions": [{"precision": "fp32", "file": "video_action_model.onnx", **parity}],
            },
        )
        published = project.store.publish(folder, record)
    with instance_of(project) as instance:
        instance.report_runless_asset_event(
            AssetMaterialization("onnx_model", tags={"dagster/data_version": record.data_version})
        )
    return published


@contextmanager
def instance_of(project: Project) -> Iterator[DagsterInstance]:
    """The project's own Dagster instance, from any working folder."""
    here = os.getcwd()
    os.chdir(project.folder)
    try:
        with DagsterInstance.from_ref(InstanceRef.from_dir(str(project.folder))) as instance:
            yield instance
    finally:
        os.chdir(here)


def table_of(project: Project) -> list[dict[str, str]]:
    """Lines of the consolidated table; none while there is no table."""
    path = project.folder / "artifacts" / NAME / "predictions.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def current(project: Project) -> dict[str, dict[str, str]]:
    """File name to its current line of the table."""
    rows = [row for row in table_of(project) if row["current"] == "true"]
    assert len({row["video"] for row in rows}) == len(rows), "two results of one video"
    return {row["video"]: row for row in rows}


def results_of(project: Project) -> list[dict[str, Any]]:
    """All result files."""
    home = project.folder / "artifacts" / NAME
    return [json.loads(path.read_text()) for path in home.glob("*/*/*.json")]


def wait_for(what: Callable[[], Any], seconds: float, said: str, every_s: float = 0.2) -> Any:
    """What it returns once that is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"{said}: not within {seconds} s"
        time.sleep(every_s)


class DagsterDev:
    """`dagster dev` in a project, with sensors that look every few seconds."""

    def __init__(self, project: Project, interval_s: int = 3, **environment: str) -> None:
        self.project = project
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port: int = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = project.folder / "dev.log"
        self.process = subprocess.Popen(
            project.command("dagster", "dev", "-h", "127.0.0.1", "-p", str(self.port)),
            cwd=project.folder,
            env={**project.environment, "HAR_INCOMING_INTERVAL": str(interval_s), **environment},
            stdout=self.log.open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> "DagsterDev":
        """Until the web server answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{self.address}/server_info", timeout=2).read()
            except OSError:
                return False
            return True

        wait_for(answers, 120, "dagster dev", 0.5)
        return self

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer of the web server."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.loads(answer.read())
        assert "errors" not in found, found
        data: dict[str, Any] = found["data"]
        return data

    def switch_on(self, sensor: str) -> None:
        """As the switch in the web UI does."""
        started = self.graphql(
            "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }",
            s={"sensorName": sensor, "repositoryName": "__repository__", "repositoryLocationName": "har_assets"},
        )
        assert started["startSensor"]["__typename"] == "Sensor", started

    def kill(self) -> None:
        """kill -9 of all of it, runs excepted: they are in sessions of their own or not, as Dagster has it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """As Ctrl+C does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def dagster_dev(project: Project, interval_s: int = 3, **environment: str) -> Iterator[DagsterDev]:
    """A running server, ended with the block."""
    server = DagsterDev(project, interval_s, **environment)
    try:
        yield server.wait()
    finally:
        server.stop()
