"""A real `mlflow models serve` on loopback, and requests to it."""

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from har_assets_tests.mlflow_server import free_port


class ModelServer:
    """`mlflow models serve --env-manager local` of a folder or a registered model."""

    def __init__(self, model: str, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / f"serve-{self.port}.log"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "models",
                "serve",
                "--env-manager",
                "local",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--model-uri",
                model,
            ],
            cwd=folder,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # MLflow starts `uvicorn` by its name.
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                **(environment or {}),
            },
        )

    def wait(self) -> "ModelServer":
        """Return when it answers."""
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2).read()
                return self
            except OSError:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                assert time.monotonic() < deadline, "the model server did not answer"
                time.sleep(0.2)

    def post(self, body: bytes, content_type: str | None = "application/json") -> tuple[int, str]:
        """Status and text of the answer to a body."""
        # Not urllib, which adds a content type where none is given.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=100)
        try:
            headers = {"Content-Type": content_type} if content_type is not None else {}
            connection.request("POST", "/invocations", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ask(self, rows: Any, **params: Any) -> tuple[int, dict[str, Any]]:
        """Status and answer to rows of a table."""
        body = {"dataframe_records": rows, **({"params": params} if params else {})}
        status, text = self.post(json.dumps(body).encode())
        answer: dict[str, Any] = json.loads(text)
        return status, answer

    def predict(self, *videos: Path, **params: Any) -> list[dict[str, Any]]:
        """Predictions for files; an assertion fails where they are refused."""
        status, answer = self.ask([{"video": encoded(video)} for video in videos], **params)
        assert status == 200, answer
        rows: list[dict[str, Any]] = answer["predictions"]
        return rows

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def encoded(video: Path) -> str:
    return base64.b64encode(video.read_bytes()).decode()
