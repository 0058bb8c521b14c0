"""A hundred queued runs and twenty random kills of workers, daemon, code server and database connections.

The processes are those of deploy/: a code server that executes the runs, a daemon, a web server, on PostgreSQL. What is
killed is started again as `restart: unless-stopped` does. Settings and timings are the deployed ones.
"""

import contextlib
import os
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.instance.ref import InstanceRef
from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError

from har_assets.graph.running.dead_runs import PROCESS_TAG
from har_assets.store.record import RECORD_FILE, FolderArtifact, describe_files
from har_assets_tests.incoming.server import wait_for
from har_assets_tests.postgres import Postgres, postgres_server
from har_assets_tests.project import REPOSITORY, Project, log_of, make_own_videos

SEED = 20
TRAINING = {"epochs": 1, "batch_size": 4, "threads": 1}
RESTART_S = 2.0
"""Before what was killed is started again."""

DRAIN_S = 900
"""Longest from the last kill to the last end of a run, on two busy cores: most of it is the runs still queued."""
QUIET_S = 90
"""Longest from the end of the last run to free slots and ended MLflow runs: what docs promise."""

FAULTS = (
    ["run worker"] * 6
    + ["step or training"] * 3
    + ["daemon"] * 4
    + ["connections"] * 5
    + ["code server", "code server and all its runs"]
)


def queue() -> list[tuple[str, dict[str, Any]]]:
    """A hundred runs, each of one asset, with its configuration; 28 of them need the GPU's one slot."""
    return (
        [("class_index", {"force": True})] * 36
        + [("manifests", {"force": True})] * 20
        + [("frame_cache", {"max_frames": 20 + number, "workers": 1}) for number in range(16)]
        + [("trt_engine", {"force": True})] * 14
        + [("test_predictions", {"force": True, "windows": 1})] * 10
        + [("trained_checkpoint", {**TRAINING, "seed": 1 + number}) for number in range(4)]
    )


PRODUCTS = {"manifests": ["train_manifest", "val_manifest", "test_manifest"]}
"""Assets of one function; the others have one of its name."""


@dataclass
class Site:
    """A project on PostgreSQL and the processes of a deployment on it."""

    project: Project
    postgres: Postgres
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ports = []
        for _ in range(2):
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                ports.append(listener.getsockname()[1])
        self.code_port, self.web_port = ports
        home = self.project.folder / "home"
        home.mkdir()
        settings, local = (
            yaml.safe_load((REPOSITORY / name).read_text()) for name in ("deploy/dagster.yaml", "dagster.yaml")
        )
        settings["compute_logs"] = local["compute_logs"]  # no bucket here
        (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        server = {"host": "127.0.0.1", "port": self.code_port, "location_name": "har_assets"}
        (home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in self.project.environment.items() if not name.startswith("MLFLOW")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process compiles the graph again
        own = {"DAGSTER_HOME": str(self.home), "HAR_MLFLOW_URI": "postgresql:///mlflow", "OMP_NUM_THREADS": "1"}
        return {**kept, **self.postgres.environment, **own}

    @property
    def home(self) -> Path:
        return self.project.folder / "home"

    def run(self, *arguments: str) -> str:
        """What a command said; an assertion fails unless it succeeds."""
        done = subprocess.run(
            self.project.command(*arguments),
            cwd=self.project.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, log_of(done)[-4000:]
        return log_of(done)

    def start(self, name: str) -> None:
        """Start a service by the command that deploy/compose.yaml has for it."""
        workspace = str(self.home / "workspace.yaml")
        code = ["--host", "127.0.0.1", "--port", str(self.code_port), "--module-name", "har_assets"]
        command = {
            "code server": ["dagster", "api", "grpc", *code],
            "daemon": ["dagster._daemon", "run", "--workspace", workspace],
            "webserver": ["dagster_webserver", "-h", "127.0.0.1", "-p", str(self.web_port), "--workspace", workspace],
        }[name]
        self.processes[name] = subprocess.Popen(
            self.project.command(*command),
            cwd=self.project.folder,
            env=self.environment,
            start_new_session=True,
            stdout=(self.project.folder / f"{name}.log").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def wait_until_it_answers(self) -> DagsterGraphQLClient:
        """A client of the web server, once that has loaded the graph from the code server."""
        client = DagsterGraphQLClient("127.0.0.1", port_number=self.web_port)

        def loaded() -> bool:
            with contextlib.suppress(Exception):
                found = client._execute("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
                return bool(found["repositoriesOrError"].get("nodes"))
            return False

        wait_for(loaded, 120, "the web server", 0.5)
        return client

    def own_processes(self) -> list[psutil.Process]:
        """All processes that live on this project, whoever started them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("DAGSTER_HOME") == str(self.home) and process.status() != "zombie":
                    found.append(process)
        return found

    def services(self) -> list[psutil.Process]:
        """The services that are alive."""
        found = []
        for service in self.processes.values():
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(service.pid))
        return found

    def of_runs(self) -> list[psutil.Process]:
        """Processes that execute runs, their steps and trainings, and what these have started."""
        services = self.services()
        return [
            process
            for process in self.own_processes()
            if process not in services and "multiprocessing.resource_tracker" not in " ".join(command_of(process))
        ]

    def stop(self) -> None:
        for process in self.own_processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for service in self.processes.values():
            service.wait()


def command_of(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A project that has everything up to its ONNX model, of someone's own three classes."""
    with postgres_server() as postgres:
        site = Site(Project.make(tmp_path / "project"), postgres)
        site.run("har_assets.cli", "init")
        config = {
            "raw_archive": {"source": str(make_own_videos(tmp_path / "own"))},
            "video_clips": {"dvc": "off"},
            "trained_checkpoint": TRAINING,
        }
        site.run(*site.project.materialize_arguments("+key:onnx_model", config))
        try:
            yield site
        finally:
            site.stop()


@contextlib.contextmanager
def instance_of(site: Site) -> Iterator[DagsterInstance]:
    """The instance of the site, in this process."""
    before = dict(os.environ)
    os.environ.update(site.postgres.environment)
    try:
        with DagsterInstance.from_ref(InstanceRef.from_dir(str(site.home))) as instance:
            yield instance
    finally:
        os.environ.clear()
        os.environ.update(before)


UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def is_at_work(instance: DagsterInstance) -> bool:
    """Whether a run is unfinished, or about to be started again."""
    failed = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
    waiting = any(run.is_complete_and_waiting_to_retry for run in failed)
    return waiting or instance.get_runs_count(RunsFilter(statuses=UNFINISHED)) > 0


@dataclass
class Fault:
    """One kill."""

    what: str
    hit: str
    """What was killed, for the table."""
    at: float
    """Seconds since 1970."""
    run_id: str = ""
    """Of a killed worker."""


class Chaos:
    """Kills what it is told to, choosing among what is there."""

    def __init__(self, site: Site, instance: DagsterInstance, seed: int) -> None:
        self.site, self.instance = site, instance
        self.random = random.Random(seed)

    def inflict(self, what: str) -> Fault:
        """Kill, and start again what is a service; waits for something to kill."""
        return {
            "run worker": self.kill_worker,
            "step or training": self.kill_step,
            "daemon": lambda: self.kill_service("daemon"),
            "connections": self.cut,
            "code server": lambda: self.kill_service("code server"),
            "code server and all its runs": self.kill_everything,
        }[what]()

    def workers(self) -> dict[int, str]:
        """Process to run, of the runs that are being executed."""
        runs = self.instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED]))
        found = {int(run.tags[PROCESS_TAG].split("@")[0]): run.run_id for run in runs if PROCESS_TAG in run.tags}
        return {pid: run_id for pid, run_id in found.items() if psutil.pid_exists(pid)}

    def kill_worker(self) -> Fault:
        def killed() -> Fault | None:
            workers = self.workers()
            if not workers:
                return None
            pid = self.random.choice(sorted(workers))
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
                return Fault("run worker", f"of run {workers[pid][:8]}", time.time(), workers[pid])
            return None

        found: Fault = wait_for(killed, 60, "a worker to kill", 0.1)
        return found

    def kill_step(self) -> Fault:
        def killed() -> Fault | None:
            workers = self.workers()
            services = {service.pid for service in self.site.services()}
            below = [process for process in self.site.of_runs() if process.pid not in {*workers, *services}]
            below = [process for process in below if any(parent.pid in workers for parent in parents_of(process))]
            if not below:
                return None
            process = self.random.choice(sorted(below, key=lambda process: process.pid))
            with contextlib.suppress(psutil.Error):
                kind = kind_of(process)
                process.kill()
                return Fault("step or training", kind, time.time())
            return None

        found: Fault = wait_for(killed, 60, "a step to kill", 0.05)
        return found

    def cut(self) -> Fault:
        """Connections are held for milliseconds: cut whatever there is until something was."""
        statement = (
            "select datname, pg_terminate_backend(pid) from pg_stat_activity "
            "where datname in ('dagster', 'mlflow') and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        cut: Counter[str] = Counter()
        deadline = time.monotonic() + 60
        while cut.total() < 3 and time.monotonic() < deadline:
            cut.update(name for name, _ in self.site.postgres.ask(statement))
            time.sleep(0.02)
        assert cut
        return Fault("connections", ", ".join(f"{count} to {name}" for name, count in cut.items()), time.time())

    def kill_service(self, name: str) -> Fault:
        self.site.processes[name].kill()
        self.site.processes[name].wait()
        fault = Fault(name, "its one process", time.time())
        time.sleep(RESTART_S)
        self.site.start(name)
        return fault

    def kill_everything(self) -> Fault:
        """As when the container of the code server ends."""
        victims = self.site.of_runs()
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.kill()
        fault = self.kill_service("code server")
        return Fault("code server and all its runs", f"{len(victims)} processes of runs", fault.at)


def kind_of(process: psutil.Process) -> str:
    """What a process below a run's worker is. Steps are forked, so they have the command line of their server."""
    command, parent = (" ".join(process_.cmdline()) for process_ in (process, process.parent()))
    if "har_assets.training" in command:
        return "a training"
    if "multiprocessing.forkserver" in command:
        return "a step" if "multiprocessing.forkserver" in parent else "the server that steps are forked from"
    return "a child of a step"


def parents_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.parents())
    except psutil.Error:
        return []


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("ignore:Using variable_values:DeprecationWarning")  # dagster_graphql with gql 4
def test_a_hundred_queued_runs_and_twenty_kills(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.start("code server")
    site.start("webserver")
    client = site.wait_until_it_answers()
    asked: dict[str, str] = {}
    wanted = queue()
    random.Random(SEED).shuffle(wanted)
    for asset, config in wanted:
        run_id = client.submit_job_execution(
            "__ASSET_JOB",
            repository_location_name="har_assets",
            repository_name="__repository__",
            run_config={"ops": {asset: {"config": config}}},
            asset_selection=PRODUCTS.get(asset, [asset]),
        )
        asked[run_id] = asset
    assert len(asked) == 100
    with instance_of(site) as instance:
        assert len(instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED]))) == 100
        began = time.time()
        site.start("daemon")
        chaos = Chaos(site, instance, SEED)
        order = chaos.random.sample(FAULTS, len(FAULTS))
        faults = []
        for what in order:
            time.sleep(chaos.random.uniform(2, 14))
            faults.append(chaos.inflict(what))
            unfinished = instance.get_runs_count(RunsFilter(statuses=UNFINISHED))
            with capsys.disabled():
                print(f"{faults[-1].at - began:6.1f} s  {what}: {faults[-1].hit}; {unfinished} runs unfinished")
            assert unfinished, "the kills come too late"
        wait_for(lambda: not is_at_work(instance), DRAIN_S, "the end of all runs", 1)
        ended = time.time()
        runs = {run.run_id: run for run in instance.get_runs()}
        report(instance, asked, faults, began, ended, capsys)

        wait_for(lambda: slots_taken(site) == (0, 0), QUIET_S, "free slots")
        wait_for(lambda: not mlflow_runs(site)["RUNNING"], QUIET_S, "ended MLflow runs", 1)
        wait_for(lambda: not site.of_runs(), 30, "the end of all processes of runs", 1)
        with capsys.disabled():
            print(f"slots, MLflow and processes free {time.time() - ended:.0f} s after the last end of a run")

        delays = []
        for run in runs.values():
            last_of_its_chain = not any(other.parent_run_id == run.run_id for other in runs.values())
            if run.tags.get("dagster/will_retry") == "true":
                assert not last_of_its_chain, f"run {run.run_id} was not started again"
        for fault in faults:
            if fault.run_id in asked and runs[fault.run_id].status == DagsterRunStatus.FAILURE:
                assert runs[fault.run_id].tags["dagster/will_retry"] == "true"

        for run_id, asset in asked.items():
            assert runs[run_id].status in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE)
            if runs[run_id].status == DagsterRunStatus.SUCCESS:
                its_products_are_published_and_whole(instance, runs[run_id], PRODUCTS.get(asset, [asset]))
            else:
                delays.append(somebody_disturbed_it(instance, runs[run_id], faults))
        with capsys.disabled():
            print("from kill to FAILURE: " + ", ".join(f"{seconds:.0f}" for seconds in sorted(delays)) + " s")
        everything_published_is_whole(site.project)

        # The pool works: one more run of it ends, and is not kept waiting.
        again = submitted(client, "convert_trt")
        wait_for(lambda: instance.get_run_by_id(again).is_finished, 60, "one more run")  # type: ignore[union-attr]
        assert client.get_run_status(again) == DagsterRunStatus.SUCCESS
    site.run("har_assets.cli", "doctor", "--fix")
    assert not list((site.project.folder / "artifacts").glob("*/.staging-*"))


def submitted(client: DagsterGraphQLClient, job: str) -> str:
    """Id of a run of a job.

    The web server keeps connections open: the first request by one that was cut meanwhile says so, and fails. It has
    three storages with a connection each.
    """
    for _ in range(3):
        try:
            return client.submit_job_execution(job)
        except DagsterGraphQLClientError as error:
            if "server closed the connection unexpectedly" not in str(error):
                raise
    return client.submit_job_execution(job)


def its_products_are_published_and_whole(instance: DagsterInstance, run: DagsterRun, products: list[str]) -> None:
    """Each asset of the run was materialized once, by a version whose files are those of its record."""
    events = instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION)
    made = [event.asset_materialization for event in events]
    assert sorted(event.asset_key.to_user_string() for event in made if event) == sorted(products)
    for event in made:
        assert event
        folder = Path(str(event.metadata["folder"].value))
        artifact = FolderArtifact.read(folder)
        assert artifact, f"{folder} of a successful run is not whole"
        assert artifact.record.key == event.metadata["key"].value
        assert artifact.record.data_version == (event.tags or {})["dagster/data_version"]


def somebody_disturbed_it(instance: DagsterInstance, run: DagsterRun, faults: list[Fault]) -> float:
    """A run that failed was on its way when something was killed; seconds from the first such kill to its end."""
    record = instance.get_run_record_by_id(run.run_id)
    assert record
    starting = instance.all_logs(run.run_id, of_type=DagsterEventType.PIPELINE_STARTING)
    start, end = starting[0].timestamp, record.end_time
    assert end
    kills = [fault.at for fault in faults if start - 1 <= fault.at <= end + 1]
    assert kills, "\n".join(event.user_message for event in instance.all_logs(run.run_id)[-8:])
    return end - min(kills)


def everything_published_is_whole(project: Project) -> None:
    """Every version of every asset, of failed runs too, has the files of its record; `latest` is one of them."""
    homes = [home for home in (project.folder / "artifacts").iterdir() if home.is_dir()]
    versions = 0
    for home in homes:
        for folder in home.glob("[!.]*/"):
            if folder.is_symlink():
                continue
            artifact = FolderArtifact.read(folder)
            assert artifact, f"{folder} is half there: {[path.name for path in folder.iterdir()]}"
            assert describe_files(folder) == artifact.record.files
            versions += 1
        assert (home / "latest" / RECORD_FILE).is_file()
    assert versions >= 50


def slots_taken(site: Site) -> tuple[int, int]:
    """Claimed slots of the pool, and steps that wait for one or have one."""
    ((claimed,),) = site.postgres.ask("select count(*) from concurrency_slots where run_id is not null")
    ((pending,),) = site.postgres.ask("select count(*) from pending_steps")
    return claimed, pending


def mlflow_runs(site: Site) -> Counter[str]:
    """Number of MLflow runs by their status."""
    return Counter(dict(site.postgres.ask("select status, count(*) from runs group by status", "mlflow")))


def report(
    instance: DagsterInstance,
    asked: dict[str, str],
    faults: list[Fault],
    began: float,
    ended: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Print what was killed, how runs ended, and how long killed workers were not noticed."""
    records = {record.dagster_run.run_id: record for record in instance.get_run_records()}
    again = Counter(record.dagster_run.status.value for run_id, record in records.items() if run_id not in asked)
    ends: dict[str, Counter[str]] = {asset: Counter() for asset in asked.values()}
    for run_id, asset in asked.items():
        ends[asset][records[run_id].dagster_run.status.value] += 1
    noticed = [
        (records[fault.run_id].end_time or ended) - fault.at
        for fault in faults
        if fault.run_id and records[fault.run_id].dagster_run.status == DagsterRunStatus.FAILURE
    ]
    with capsys.disabled():
        print()
        for what, count in Counter(fault.what for fault in faults).items():
            print(f"killed {count:2d} x {what}")
        for asset, counts in ends.items():
            print(f"{asset:20s} {counts['SUCCESS']:3d} SUCCESS {counts['FAILURE']:3d} FAILURE")
        for run_id, asset in asked.items():
            if records[run_id].dagster_run.status != DagsterRunStatus.SUCCESS:
                print(f"  {run_id[:8]} {asset}: {last_words(instance, run_id)}")
        print(f"started again by themselves: {dict(again)}")
        print(f"{ended - began:.0f} s in all, the last {ended - faults[-1].at:.0f} s after the last kill")
        print("a killed worker's run failed after " + ", ".join(f"{seconds:.1f}" for seconds in noticed) + " s")


def last_words(instance: DagsterInstance, run_id: str) -> str:
    """Why a run failed, by its own log."""
    events = instance.all_logs(run_id, of_type={DagsterEventType.PIPELINE_FAILURE, DagsterEventType.STEP_FAILURE})
    signals = [event.user_message for event in instance.all_logs(run_id) if "by signal" in event.user_message]
    said = signals + [event.user_message or event.message for event in events]
    return " | ".join(" ".join(text.split())[:160] for text in said[:3])
