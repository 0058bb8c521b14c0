"""Dagster and MLflow on a real PostgreSQL server, by the files that are deployed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from har_assets.cli.doctor import finding, services
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets_tests.postgres import Postgres, postgres_server
from har_assets_tests.project import REPOSITORY
from har_assets_tests.s3_server import BUCKET, S3Server, s3_server

JOB = """
import time
from pathlib import Path
import dagster as dg
from har_assets.graph.running.executor import surviving_executor

@dg.op(pool="gpu")
def hold(context: dg.OpExecutionContext) -> None:
    print("what the op prints", flush=True)
    start = time.time()
    time.sleep(2)
    Path(f"held-{context.run_id}").write_text(f"{start} {time.time()}")

@dg.job(executor_def=surviving_executor)
def small() -> None:
    hold()
"""


ASSET = """
import dagster as dg

@dg.asset
def spoken(context: dg.AssetExecutionContext) -> None:
    context.log.info("about one clip")
"""


@dataclass(frozen=True)
class Site:
    """A folder with a small job, and the deployed dagster.yaml in its DAGSTER_HOME."""

    folder: Path
    postgres: Postgres
    s3: S3Server

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "HAR_", "MLFLOW"))}
        own = {"PYTHONPATH": str(REPOSITORY), "DAGSTER_HOME": str(self.folder / "home"), "HAR_BUCKET": BUCKET}
        return {**kept, **self.postgres.environment, **self.s3.environment, **own}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return ended(self.start(*arguments))

    def start_job(self) -> "subprocess.Popen[str]":
        return self.start("dagster", "job", "execute", "-f", "job.py", "-j", "small")

    def states(self) -> list[str]:
        return [status for (status,) in self.postgres.ask("select status from runs order by id")]

    def held(self) -> list[tuple[float, float]]:
        """Start and end of each time that the pool's slot was held, in order."""
        times = [path.read_text().split() for path in self.folder.glob("held-*")]
        return sorted((float(start), float(end)) for start, end in times)


def ended(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    said, _ = process.communicate(timeout=180)
    return subprocess.CompletedProcess(process.args, process.returncode, said)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as postgres:
        yield postgres


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")
    with s3_server() as s3:
        yield s3


@pytest.fixture
def site(tmp_path: Path, postgres: Postgres, s3: S3Server) -> Site:
    """On databases that are empty."""
    for database in ("dagster", "mlflow"):
        postgres.ask(f"drop database {database} with (force)", "postgres")
        postgres.ask(f"create database {database}", "postgres")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text((REPOSITORY / "deploy" / "dagster.yaml").read_text())
    (tmp_path / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text())  # as in every checkout
    (tmp_path / "job.py").write_text(JOB)
    return Site(tmp_path, postgres, s3)


def test_only_storage_and_logs_differ_from_a_single_machine() -> None:
    one, many = (yaml.safe_load((REPOSITORY / name).read_text()) for name in ("dagster.yaml", "deploy/dagster.yaml"))
    assert {name for name in one | many if one.get(name) != many.get(name)} == {
        "storage",
        "compute_logs",
        "python_logs",
    }


def test_a_run_writes_json_lines_with_its_id_and_asset_where_the_deployment_says(site: Site) -> None:
    compose = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())
    variable, place = "HAR_LOG_FILE", compose["services"]["worker"]["environment"]["HAR_LOG_FILE"]
    assert Path(place).parent == Path("/srv/har/project"), "a folder that is there, and is written to"
    log = site.folder / Path(place).name
    assert site.run("har_assets.cli", "init").returncode == 0
    (site.folder / "asset.py").write_text(ASSET)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-f", "asset.py", "--select", "spoken"]
    done = subprocess.run(
        command,
        cwd=site.folder,
        env={**site.environment, variable: str(log)},
        text=True,
        timeout=180,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    ((run_id,),) = site.postgres.ask("select run_id from runs")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["run_id"] for line in lines} == {run_id}
    (said,) = [line for line in lines if line["message"] == "about one clip"]
    assert (said["level"], said["step"], said["assets"]) == ("INFO", "spoken", ["spoken"])


def test_after_har_init_two_first_runs_at_once_end_one_after_the_other_in_the_pool(site: Site) -> None:
    made = site.run("har_assets.cli", "init")
    assert made.returncode == 0, made.stdout
    running = [site.start_job() for _ in range(2)]
    for done in [ended(process) for process in running]:
        assert done.returncode == 0, done.stdout[-4000:]
    assert site.states() == ["SUCCESS", "SUCCESS"]
    (_, first_end), (second_start, _) = site.held()
    assert second_start >= first_end
    assert site.postgres.ask("select count(*) from concurrency_slots where run_id is not null") == [(0,)]
    listed = site.s3.client().list_objects_v2(Bucket=BUCKET, Prefix="dagster_logs/")["Contents"]
    printed = [entry["Key"] for entry in listed if entry["Key"].endswith(".out")]
    assert len(printed) == 2
    body = site.s3.client().get_object(Bucket=BUCKET, Key=printed[0])["Body"].read()
    assert b"what the op prints" in body
    assert not (site.folder / ".dagster").exists()


@pytest.mark.slow
def test_a_run_whose_connections_are_cut_ends_in_a_true_state_and_frees_its_slot(site: Site) -> None:
    """Dagster tries again to connect, not what a connection was cut in: the run may fail, and must then say so."""
    process = site.start_job()
    killed = 0
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if site.postgres.ask("select 1 from pg_tables where tablename = 'runs'") and "STARTED" in site.states():
            killed += len(
                site.postgres.ask(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = 'dagster' and pid <> pg_backend_pid()"
                )
            )
        time.sleep(1)
    ended(process)
    assert killed > 0
    done = ended(site.start_job())
    assert done.returncode == 0, done.stdout[-4000:]
    first, second = site.states()
    assert first in ("SUCCESS", "FAILURE")
    assert second == "SUCCESS"
    assert site.postgres.ask("select count(*) from concurrency_slots where run_id is not null") == [(0,)]


@pytest.mark.slow
def test_a_server_that_is_not_there_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Site(site.folder, Postgres(1, "x", site.postgres.process), site.s3)
    set_environment(wrong, monkeypatch)
    monkeypatch.setenv("DAGSTER_HOME", str(site.folder / "home"))
    [found] = examined(site)
    assert (found.state, "PGPASSWORD" in found.remedy) == ("problem", True)
    done = wrong.run("dagster", "job", "execute", "-f", "job.py", "-j", "small")
    assert done.returncode != 0
    assert 'connection to server at "127.0.0.1", port 1 failed' in done.stdout
    missing = {name: value for name, value in site.environment.items() if name != "PGPASSWORD"}
    told = subprocess.run(
        [sys.executable, "-m", "dagster", "instance", "info"],
        cwd=site.folder,
        env=missing,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode != 0
    assert "PGPASSWORD" in told.stderr


def examined(site: Site) -> list[finding.Finding]:
    found = services.check_dagster_database(site.folder)
    assert isinstance(found, list)
    return found


@pytest.mark.slow
def test_dagster_migrates_a_database_of_an_older_version(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken back over the last changes of the schema, it is brought forward again with its runs; `har doctor` says."""
    set_environment(site, monkeypatch)
    assert ended(site.start_job()).returncode == 0
    head = site.postgres.ask("select version_num from alembic_version")
    # What the revisions 16e3655b4d9b to 7e2f3204cf8e, of 2024 and 2025, have added.
    site.postgres.ask("alter table concurrency_limits drop column using_default_limit")
    site.postgres.ask("alter table bulk_actions drop column job_name")
    site.postgres.ask("drop table backfill_tags")
    site.postgres.ask("update alembic_version set version_num = '1aca709bba64'")
    monkeypatch.setenv("DAGSTER_HOME", str(site.folder / "home"))
    [found] = examined(site)
    assert (found.state, found.check) == ("problem", "dagster database")
    assert "`dagster instance migrate`" in found.remedy
    done = site.run("dagster", "instance", "migrate")
    assert done.returncode == 0, done.stdout[-4000:]
    assert site.postgres.ask("select version_num from alembic_version") == head
    assert len(site.postgres.ask("select using_default_limit from concurrency_limits")) == 1
    assert site.postgres.ask("select job_name from bulk_actions") == []
    assert site.postgres.ask("select id from backfill_tags") == []
    assert ended(site.start_job()).returncode == 0
    assert site.states() == ["SUCCESS", "SUCCESS"]
    assert [found.found for found in examined(site)] == ["PostgreSQL opens, 2 runs", "none"]


def set_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**site.postgres.environment, **site.s3.environment, "HAR_BUCKET": BUCKET}.items():
        monkeypatch.setenv(name, value)


def runs_in_bucket(site: Site, monkeypatch: pytest.MonkeyPatch) -> tuple[MlflowTracking, Any, str]:
    """MLflow on PostgreSQL with its files in the bucket, a client, and the id of a new run."""
    from har_assets.tracking.client import client_of

    set_environment(site, monkeypatch)
    mlflow = MlflowTracking(tracking_uri="postgresql:///mlflow", artifact_root=f"s3://{BUCKET}/mlflow")
    mlflow.create_database(site.folder)
    client = client_of(mlflow.uri(site.folder))
    experiment = client.get_experiment_by_name("har_assets")
    return mlflow, client, client.create_run(experiment.experiment_id).info.run_id


def test_mlflow_on_postgresql_with_files_in_the_bucket(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow, client, run_id = runs_in_bucket(site, monkeypatch)
    (site.folder / "figure.csv").write_text("1")
    with mlflow.continued_run(site.folder, run_id, step="onnx_model") as run:
        run.metrics({"top1": 0.5})
        run.file(site.folder / "figure.csv")
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["top1"] == 0.5
    assert found.info.artifact_uri == f"s3://{BUCKET}/mlflow/{run_id}/artifacts"
    key = f"mlflow/{run_id}/artifacts/figure.csv"
    assert site.s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"1"
    (site.folder / "back").mkdir()
    assert mlflow.download(site.folder, run_id, "figure.csv", site.folder / "back").read_text() == "1"


def test_mlflow_upgrades_a_database_of_an_older_version(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made as an older version left it, and brought forward with what it holds."""
    import sqlalchemy
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    from har_assets.tracking.client import client_of

    set_environment(site, monkeypatch)
    uri = MlflowTracking(tracking_uri="postgresql:///mlflow").uri(site.folder)
    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    alembic = _get_alembic_config(uri)
    head, *_, older = [found.revision for found in ScriptDirectory.from_config(alembic).walk_revisions()][:11]
    with engine.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, older)
    engine.dispose()
    site.postgres.ask(
        "insert into experiments (experiment_id, name, artifact_location, lifecycle_stage) "
        "values (7, 'har_assets', 's3://somewhere', 'active')",
        "mlflow",
    )
    assert site.postgres.ask("select version_num from alembic_version", "mlflow") == [(older,)]
    done = site.run("mlflow", "db", "upgrade", uri)
    assert done.returncode == 0, done.stdout[-4000:]
    assert site.postgres.ask("select version_num from alembic_version", "mlflow") == [(head,)]
    assert client_of(uri).get_experiment_by_name("har_assets").experiment_id == "7"


def test_no_password_in_what_is_shown() -> None:
    shown = MlflowTracking(tracking_uri="postgresql://har:secret@host/mlflow").link("abc")
    assert shown == "abc, shown by `mlflow ui --backend-store-uri postgresql+psycopg2://har:***@host/mlflow`"
