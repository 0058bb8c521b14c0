"""Checks of Dagster, MLflow and a Ray cluster."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from har_assets import settings
from har_assets.cli.doctor.finding import (
    OK,
    PROBLEM,
    WARNING,
    Check,
    Finding,
    installed,
    one_line,
    some,
    tried_in_python,
)

if TYPE_CHECKING:
    from dagster import DagsterInstance

DAEMON_SILENT_S = 120
"""Dagster's daemons say every 30 s that they live."""


def check_ray_cluster(project: Path) -> Finding:
    """Whether the job server of the Ray cluster answers, where one is configured, and what its nodes have."""
    from har_assets.cluster.address import connect, nodes_of

    name = "ray cluster"
    address = settings.read().ray
    if not address:
        return Finding(name, OK, f"none: steps run on this machine ({settings.RAY} is not set)")
    version = installed("ray")
    nodes = nodes_of(connect(address))
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    found = f"{address} answers (Ray {version} here): {len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs"
    if not cpus:
        return Finding(name, PROBLEM, found, f"start nodes: ray start --address {urlsplit(address).hostname}:6379")
    return Finding(name, OK, found)


def check_working_folder(project: Path) -> Finding:
    """Whether the commands of Dagster started here read and write this project's files."""
    home = os.environ.get("DAGSTER_HOME")
    if not (project / "dagster.yaml").is_file():
        return Finding(
            "working folder",
            PROBLEM,
            f"no dagster.yaml in {project}: runs started here leave nothing",
            "change into the project folder",
        )
    if home and not Path(home).is_dir():
        return Finding("working folder", PROBLEM, f"DAGSTER_HOME={home} is no folder", "unset DAGSTER_HOME")
    if home and on_postgres(Path(home)):
        return Finding("working folder", OK, f"Dagster of many machines, by {home}/dagster.yaml")
    if home and Path(home).resolve() != project.resolve():
        return Finding(
            "working folder", WARNING, f"DAGSTER_HOME={home} is read, not the dagster.yaml here", "unset DAGSTER_HOME"
        )
    return Finding("working folder", OK, f"{project} has a dagster.yaml")


def check_dagster_database(project: Path) -> list[Finding]:
    """Dagster's database opens; no run of a dead process holds a slot."""
    name = "dagster database"
    if not (project / "dagster.yaml").is_file():
        return [Finding(name, OK, "not looked for: no project here")]
    shared = on_postgres(dagster_home(project))
    if not shared and not any((project / ".dagster").rglob("*.db")):
        return [Finding(name, WARNING, "not made yet", "har init")]
    try:
        from har_assets.graph.dagster_private import count_runs, database_revisions
        from har_assets.graph.running.dead_runs import dead_runs

        with open_instance(project) as instance:
            count = count_runs(instance)
            revision, newest = database_revisions(instance)
            dead = [run.run_id[:8] for run in dead_runs(instance)]
            waiting = _waiting_for_nobody(instance)
    except Exception as error:  # noqa: BLE001 - whatever a broken database raises
        remedy = "move .dagster aside and run `har init`; products are not in it"
        if shared:
            remedy = "check that PostgreSQL runs, and PGHOST, PGPORT, PGUSER and PGPASSWORD"
        return [Finding(name, PROBLEM, f"cannot be opened: {one_line(str(error))}", remedy)]
    if revision != newest:
        return [
            Finding(
                name,
                PROBLEM,
                f"made by another version of Dagster (schema {revision}, not {newest})",
                "back it up, stop every process of Dagster, `dagster instance migrate`",
            )
        ]
    findings = [Finding(name, OK, f"{'PostgreSQL' if shared else 'it'} opens, {count} runs")]
    if dead:
        findings.append(Finding("dead runs", PROBLEM, f"{some(dead)}: killed, and may hold a slot", "har doctor --fix"))
    else:
        findings.append(Finding("dead runs", OK, "none"))
    if waiting:
        findings.append(
            Finding(
                "run queue",
                PROBLEM,
                f"{waiting} runs wait and no daemon starts them",
                "dagster dev, or `dagster-daemon run`",
            )
        )
    return findings


def _waiting_for_nobody(instance: DagsterInstance) -> int:
    """Number of queued runs where the daemon that starts them has been silent; 0 where it is at work."""
    from dagster import DagsterRunStatus, RunsFilter

    from har_assets.graph.dagster_private import count_runs, last_heartbeat

    if time.time() - last_heartbeat(instance, "QUEUED_RUN_COORDINATOR") < DAEMON_SILENT_S:
        return 0
    return count_runs(instance, RunsFilter(statuses=[DagsterRunStatus.QUEUED]))


def check_mlflow_database(project: Path) -> Finding:
    """MLflow's tracking database opens in the installed version."""
    from har_assets.tracking.run import Tracking

    name = "mlflow database"
    uri = Tracking().uri(project)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///"):
        if not path.is_file():
            return Finding(name, OK, f"{path.name} not made yet; the first training makes it")
        remedy = f"move {path.name} aside; models and figures are in artifacts/ too"
        try:  # before MLflow: it would make tables in a database that is not its own
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
            try:
                connection.execute("select version_num from alembic_version").fetchone()
            finally:
                connection.close()
        except sqlite3.Error as error:
            return Finding(name, PROBLEM, f"{path} is no database of MLflow ({one_line(str(error))})", remedy)
    elif uri.startswith(("http://", "https://")) and (reason := _no_answer(uri)):
        return Finding(
            "mlflow server",
            WARNING,
            f"{uri} does not answer ({reason}): steps keep what they log",
            "start it, or correct HAR_MLFLOW_URI; then `har mlflow-sync`",
        )
    tried = tried_in_python(
        "import sys; from mlflow import MlflowClient\n"
        "print(len(MlflowClient(sys.argv[1]).search_experiments(max_results=1000)))",
        uri,
    )
    if tried.returncode:
        return Finding(name, PROBLEM, f"{uri} cannot be opened: {tried.said}", f"mlflow db upgrade {uri}")
    return Finding(name, OK, f"{uri} opens, {tried.said} experiments")


def _no_answer(uri: str) -> str:
    """Why a server does not say that it is well, a clause; empty where it does."""
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5)
    except requests.RequestException as error:
        return type(error).__name__
    return "" if answer.ok else f"status {answer.status_code}"


def check_mlflow_outbox(project: Path) -> Finding:
    """All that was logged while MLflow was away has been sent since."""
    from har_assets.tracking.outbox import unsettled
    from har_assets.tracking.run import Tracking

    kept = [folder.name for folder in unsettled(Tracking().outbox_folder(project))]
    if kept:
        return Finding(
            "mlflow outbox", WARNING, f"MLflow lacks what these steps logged: {some(kept)}", "har mlflow-sync"
        )
    return Finding("mlflow outbox", OK, "MLflow has everything that ended steps logged")


def open_instance(project: Path) -> DagsterInstance:
    """Dagster's instance of this project."""
    from dagster import DagsterInstance

    return DagsterInstance.from_config(str(dagster_home(project)))


def dagster_home(project: Path) -> Path:
    """Folder of the dagster.yaml that counts: DAGSTER_HOME where that is the one of many machines."""
    home = os.environ.get("DAGSTER_HOME")
    return Path(home) if home and on_postgres(Path(home)) else project


def on_postgres(folder: Path) -> bool:
    """Whether the dagster.yaml of a folder names a PostgreSQL server."""
    import yaml

    try:
        config = yaml.safe_load((folder / "dagster.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and "postgres" in (config.get("storage") or {})


CHECKS: tuple[Check, ...] = (
    check_ray_cluster,
    check_working_folder,
    check_dagster_database,
    check_mlflow_database,
    check_mlflow_outbox,
)
