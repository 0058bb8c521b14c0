"""Runs whose worker is killed start again by themselves, others do not: a real `dagster dev`, real signals."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient

from har_assets.graph.running.dead_runs import PROCESS_TAG
from har_assets_tests.graph.sensors.test_alerts import Listener, listener
from har_assets_tests.incoming.server import instance_of, wait_for
from har_assets_tests.project import REPOSITORY, Project
from har_assets_tests.test_web_ui import free_port

__all__ = ["listener"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using variable_values:DeprecationWarning"),  # dagster_graphql with gql 4
]

GRAPH = """
import os, signal, time

import dagster as dg

from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.dead_runs import PROCESS_TAG, end_with_run
from har_assets.graph.running.executor import surviving_executor
from har_assets.graph.sensors.alerts import alert_sensor
from har_assets.graph.sensors.dead_runs import dead_run_sensor


def kill_the_worker(context):
    run = context.instance.get_run_by_id(context.run.run_id)  # as it is now
    os.kill(int(run.tags[PROCESS_TAG].split("@")[0]), signal.SIGKILL)
    time.sleep(60)


@dg.asset
def first() -> None:
    pass


@dg.asset(deps=[first], pool="gpu")
def killed_once(context: dg.AssetExecutionContext) -> None:
    end_with_run(context.instance, context.run.run_id)
    if not context.run.parent_run_id:
        kill_the_worker(context)


@dg.asset
def always_killed(context: dg.AssetExecutionContext) -> None:
    end_with_run(context.instance, context.run.run_id)
    kill_the_worker(context)


@dg.asset
def slow(context: dg.AssetExecutionContext) -> None:
    end_with_run(context.instance, context.run.run_id)
    try:
        time.sleep(600)
    except BaseException:
        time.sleep(4)  # an orderly end takes a while
        raise


defs = dg.Definitions(
    [first, killed_once, always_killed, slow],
    sensors=[alert_sensor, dead_run_sensor],
    executor=surviving_executor,
    resources={"mlflow": MlflowTracking(tracking_uri=""), "store": ArtifactStore()},
)
"""


class Server:
    """`dagster dev` on GRAPH, which can be stopped as a terminal does and started again."""

    def __init__(self, project: Project, webhook: str) -> None:
        self.project, self.webhook, self.port = project, webhook, free_port()
        self.client = DagsterGraphQLClient("127.0.0.1", port_number=self.port)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**self.project.environment, "HAR_ALERT_WEBHOOK": self.webhook}
        environment["PYTHONPATH"] += f":{self.project.folder}"
        address = ("-h", "127.0.0.1", "-p", str(self.port))
        self.process = subprocess.Popen(
            self.project.command("dagster", "dev", "-m", "graph_of_test", *address),
            cwd=self.project.folder,
            env=environment,
            stdout=(self.project.folder / "dev.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for(self._answers, 120, "the web server", 0.5)

    def _answers(self) -> bool:
        try:
            query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
            return bool(self.client._execute(query)["repositoriesOrError"].get("nodes"))
        except Exception:  # noqa: BLE001 - it does not answer yet, in many ways
            return False

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to all of it, as Ctrl+C in its terminal does."""
        assert self.process
        os.killpg(self.process.pid, number)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def launch(self, *assets: str) -> str:
        return self.client.submit_job_execution("__ASSET_JOB", asset_selection=list(assets))


@pytest.fixture
def server(tmp_path: Path, listener: Listener) -> Iterator[Server]:
    project = Project.make(tmp_path / "project")
    (project.folder / "workspace.yaml").unlink()
    (project.folder / "graph_of_test.py").write_text(GRAPH)
    server = Server(project, listener.url)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGTERM)
        for process in psutil.process_iter():
            if str(project.folder) in " ".join(command_and_place(process)):
                process.kill()


def command_and_place(process: psutil.Process) -> list[str]:
    try:
        return [*process.cmdline(), process.cwd()]
    except psutil.Error:
        return []


def chain(instance: DagsterInstance, run_id: str) -> list[DagsterRun]:
    """A run and those that were started in its place, the oldest first."""
    runs = [run for run in instance.get_runs() if run_id in (run.run_id, run.root_run_id)]
    return runs[::-1]


def statuses(instance: DagsterInstance, run_id: str) -> list[str]:
    return [run.status.value for run in chain(instance, run_id)]


def test_a_killed_run_is_started_again_twice_at_most_and_reported_once(server: Server, listener: Listener) -> None:
    with instance_of(server.project) as instance:
        once = server.launch("first", "killed_once")
        wait_for(lambda: statuses(instance, once) == ["FAILURE", "SUCCESS"], 120, "the second run", 0.5)
        again = chain(instance, once)[1]
        assert again.step_keys_to_execute == ["killed_once"], "what was made is not made again"

        always = server.launch("always_killed")
        wait_for(lambda: statuses(instance, always) == ["FAILURE"] * 3, 180, "three failures", 0.5)
        wait_for(lambda: listener.got, 60, "an alert", 0.5)
        time.sleep(40)  # another tick of the sensor, and many of the daemon
        assert statuses(instance, always) == ["FAILURE"] * 3
        assert [message["run_id"] for message in listener.got] == [chain(instance, always)[-1].run_id]


def test_what_somebody_has_ended_is_not_started_again(server: Server) -> None:
    def started(run_id: str) -> bool:
        return PROCESS_TAG in run_of(run_id).tags and any(
            "slow" in (event.step_key or "") for event in instance.all_logs(run_id)
        )

    def run_of(run_id: str) -> DagsterRun:
        run = instance.get_run_by_id(run_id)
        assert run
        return run

    def ended(run_id: str) -> Callable[[], bool]:
        return lambda: run_of(run_id).is_finished

    def process(run_id: str) -> int:
        return int(run_of(run_id).tags[PROCESS_TAG].split("@")[0])

    with instance_of(server.project) as instance:
        # Terminated, and killed while it ends.
        terminated = server.launch("slow")
        wait_for(lambda: started(terminated), 120, "a start")
        server.client.terminate_run(terminated)
        time.sleep(1.5)
        os.kill(process(terminated), signal.SIGKILL)
        wait_for(ended(terminated), 60, "the end of a terminated run")
        time.sleep(12)  # the daemon looks every five seconds
        assert [run.run_id for run in instance.get_runs()] == [terminated]

        # Killed, of a command in a terminal.
        command = subprocess.Popen(
            server.project.command("dagster", "asset", "materialize", "-m", "graph_of_test", "--select", "slow"),
            cwd=server.project.folder,
            env={**server.project.environment, "PYTHONPATH": f"{REPOSITORY}:{server.project.folder}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: len(instance.get_runs()) == 2 and started(instance.get_runs()[0].run_id), 120, "a start")
        typed = instance.get_runs()[0].run_id
        command.kill()
        command.wait()
        wait_for(ended(typed), 60, "the end of a killed command")  # by dead_run_sensor

        # Ended together with `dagster dev` by Ctrl+C, and that started again.
        interrupted = server.launch("slow")
        wait_for(lambda: started(interrupted), 120, "a start")
        server.stop(signal.SIGINT)
        server.start()
        wait_for(ended(interrupted), 90, "the end of an interrupted run")
        time.sleep(20)
        assert [run.run_id for run in instance.get_runs()] == [interrupted, typed, terminated]
        assert run_of(interrupted).status == DagsterRunStatus.FAILURE
        assert run_of(typed).tags["dagster/will_retry"] == "false"
