"""A Ray cluster on loopback for tests and benchmarks: a head without CPUs and nodes, each a process tree of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray takes 127.0.0.1 for the address of the machine, and listens on all of them, unless it is told that it is on a
    # system where it keeps to loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A dead node is known as dead after 3 seconds instead of half a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
    # A step waits for a free CPU for as long as it takes.
    "RAY_JOB_START_TIMEOUT_SECONDS": "86400",
    "RAY_enable_metrics_collection": "0",
}

START = (
    "import types; from ray.scripts import scripts;"
    "scripts.ray_constants = types.SimpleNamespace(**{**vars(scripts.ray_constants), 'ENABLE_RAY_CLUSTER': True});"
    "scripts.main()"
)
"""`ray`, whose `start` refuses a second node where Ray keeps to loopback."""


@dataclass
class Node:
    """A node and its folder, which is the working folder of what it runs."""

    folder: Path
    process: "subprocess.Popen[bytes]"

    def processes(self) -> list[psutil.Process]:
        """All of the node, children of children included."""
        with contextlib.suppress(psutil.NoSuchProcess):
            whole = psutil.Process(self.process.pid)
            return [whole, *whole.children(recursive=True)]
        return []

    def kill(self) -> None:
        """As if the machine had lost power: kill -9 of everything at once."""
        processes = self.processes()
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal_number)
        psutil.wait_procs(processes, timeout=20)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)


@dataclass
class Cluster:
    """Where the job server answers, and the nodes."""

    address: str
    gcs: str
    temporary: Path
    environment: dict[str, str]
    head: Node
    nodes: list[Node] = field(default_factory=list)

    def add(self, folder: Path, *, cpus: int = 1, cores: list[int] | None = None, **resources: float) -> Node:
        """Start one more node, whose working folder is `folder`, tied to `cores` of this machine."""
        import json

        folder.mkdir(parents=True, exist_ok=True)
        node = _start(
            folder,
            self.environment,
            "--address",
            self.gcs,
            "--num-cpus",
            str(cpus),
            "--num-gpus",
            "0",
            "--resources",
            json.dumps(resources),
            cores=cores,
        )
        self.nodes.append(node)
        self._wait(lambda: len(self.alive()) == 1 + sum(other.process.poll() is None for other in self.nodes), node)
        return node

    def alive(self) -> list[dict[str, Any]]:
        from har_assets.cluster.address import connect, nodes_of

        return nodes_of(connect(self.address))

    def _wait(self, ready: Any, node: Node) -> None:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(Exception):  # the job server starts last
                if ready():
                    return
            log = (node.folder / "ray.log").read_text()
            assert node.process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(folder: Path, environment: dict[str, str], *arguments: str, cores: list[int] | None = None) -> Node:
    tied = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                *tied,
                sys.executable,
                "-c",
                START,
                "start",
                "--block",
                "--node-ip-address",
                "127.0.0.1",
                "--disable-usage-stats",
                "--object-store-memory",
                str(100 << 20),
                "--min-worker-port",
                "0",
                "--max-worker-port",
                "0",
                *arguments,
            ],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Node(folder, process)


@contextlib.contextmanager
def ray_cluster(folder: Path, environment: dict[str, str], cores: list[int] | None = None) -> Iterator[Cluster]:
    """Start a head without CPUs, listening on loopback alone, tied to `cores` of this machine.

    `environment` is that of every node.
    """
    pytest.importorskip("dagster_ray", reason="no dagster-ray: `pip install 'har_assets[ray]'`")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "HAR_", "RAY_"))}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"  # as in an activated environment
    whole = {**kept, "PATH": programs, **SETTINGS, **environment}
    temporary = Path(tempfile.mkdtemp(prefix="har-ray-", dir="/tmp"))  # short: paths of sockets have 107 characters
    gcs, jobs, client = free_port(), free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    head = _start(
        folder,
        whole,
        "--head",
        "--port",
        str(gcs),
        "--dashboard-host",
        "127.0.0.1",
        "--dashboard-port",
        str(jobs),
        "--ray-client-server-port",
        str(client),
        "--num-cpus",
        "0",
        "--num-gpus",
        "0",
        "--temp-dir",
        str(temporary),
        cores=cores,
    )
    cluster = Cluster(f"http://127.0.0.1:{jobs}", f"127.0.0.1:{gcs}", temporary, whole, head)
    try:
        cluster._wait(lambda: len(cluster.alive()) == 1, head)
        yield cluster
    finally:
        for node in (*cluster.nodes, head):
            node.kill()
        shutil.rmtree(temporary, ignore_errors=True)
