"""A real MLflow server on loopback, and readings of what a store holds."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


class MlflowServer:
    """`mlflow server` on 127.0.0.1 with its store in a folder; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.store = f"sqlite:///{folder}/server.db"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--backend-store-uri",
                self.store,
                "--artifacts-destination",
                str(self.folder / "files"),
                "--workers",
                "1",
            ],
            stdout=(self.folder / "log.txt").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Nothing here runs jobs on the server, and its workers for them take seven processes.
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).read()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log.txt").read_text()[-2000:]
                assert time.monotonic() < deadline, "the MLflow server did not answer"
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def only_run(uri: str, experiment: str = "har_assets") -> Any:
    """The one run that a store has; an assertion fails where it has none or several."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(runs) == 1, [run.info for run in runs]
    return runs[0]


def steps_of(uri: str, run_id: str, metric: str) -> list[int]:
    """Steps of a metric's history, in order; an assertion fails where one is there twice."""
    from mlflow import MlflowClient

    steps = sorted(entry.step for entry in MlflowClient(uri).get_metric_history(run_id, metric))
    assert len(steps) == len(set(steps)), f"{metric} has steps twice: {steps}"
    return steps


def files_of(uri: str, run_id: str) -> set[str]:
    """Paths of a run's files, folders opened."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)

    def below(folder: str | None) -> set[str]:
        found: set[str] = set()
        for entry in client.list_artifacts(run_id, folder):
            found |= below(entry.path) if entry.is_dir else {entry.path}
        return found

    return below(None)


def status_in(uri: str, run_id: str) -> str:
    """The status that a store has of a run."""
    from mlflow import MlflowClient

    found: str = MlflowClient(uri).get_run(run_id).info.status
    return found
