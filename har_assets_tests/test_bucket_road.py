"""The whole sample pipeline on PostgreSQL and a bucket: the same products as on one machine, and a second machine."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from har_assets.graph.stage import STAGES
from har_assets.store.bucket import BucketArtifact
from har_assets.store.opening import open_store
from har_assets.store.protocol import Store
from har_assets.store.record import describe_files
from har_assets_tests.postgres import Postgres, postgres_server
from har_assets_tests.project import REPOSITORY, Project, log_of, make_own_videos
from har_assets_tests.s3_server import BUCKET, S3Server, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # two pipelines

MADE = [
    asset
    for asset, stage in STAGES.items()
    if asset not in ("serving_model", "hmdb51_benchmark") and not stage.partitioned
]
"""What `make demo` makes."""


@dataclass(frozen=True)
class Machine(Project):
    """A project folder of one of many machines, by `deploy/dagster.yaml`."""

    s3: S3Server
    postgres: Postgres

    @classmethod
    def prepare(cls, folder: Path, s3: S3Server, postgres: Postgres) -> "Machine":
        machine = cls(Project.make(folder).folder, s3, postgres)
        (folder / "dagster.yaml").write_text((REPOSITORY / "deploy" / "dagster.yaml").read_text())
        return machine

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            **self.s3.environment,
            **self.postgres.environment,
            "HAR_BUCKET": BUCKET,
            "HAR_ARTIFACTS": f"s3://{BUCKET}/har",
            "HAR_MLFLOW_URI": "postgresql:///mlflow",
            "HAR_MLFLOW_FILES": f"s3://{BUCKET}/mlflow",
        }

    @property
    def store(self) -> Store:
        return open_store(f"s3://{BUCKET}/har", self.folder / "artifacts")


@pytest.fixture
def services() -> Iterator[tuple[S3Server, Postgres]]:
    pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")
    with postgres_server() as postgres, s3_server() as s3:
        yield s3, postgres


def test_the_sample_pipeline_in_a_bucket_equals_the_local_one(
    sample_road: Project,
    services: tuple[S3Server, Postgres],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from s3fs import S3FileSystem

    s3, postgres = services
    first = Machine.prepare(tmp_path / "first", *services)
    done = first.materialize("+key:runtime_benchmark or +key:evaluation_report")
    assert done.returncode == 0, log_of(done)[-4000:]
    for name, value in first.environment.items():
        if name.startswith("AWS"):
            monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()

    differing = []
    for asset in MADE:
        here, there = sample_road.latest(asset).record, first.latest(asset).record
        assert first.latest(asset).address.startswith(f"s3://{BUCKET}/har/{asset}/")
        if (here.key, here.data_version, here.inputs) != (there.key, there.data_version, there.inputs):
            differing.append(asset)
        # The run of MLflow is another one, and only that.
        own = {"mlflow_run_id"}
        assert {k: v for k, v in here.lineage.items() if k not in own} == {
            k: v for k, v in there.lineage.items() if k not in own
        }
    assert differing == []
    here, there = (pipeline.latest("test_predictions") for pipeline in (sample_road, first))
    assert here.record.metadata["top1"] == there.record.metadata["top1"]
    assert here.file("test_predictions.csv").read_text() == there.file("test_predictions.csv").read_text()

    # The registry's files are in the bucket too.
    done = first.materialize("serving_model")
    assert done.returncode == 0, log_of(done)[-4000:]
    (source,) = postgres.ask("select source from model_versions", "mlflow")[0]
    assert source.startswith(f"s3://{BUCKET}/mlflow/")
    model = source.removeprefix(f"s3://{BUCKET}/")
    assert s3.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{model}/MLmodel")["KeyCount"] == 1

    # Another machine has what it needs without data/ and without making anything again.
    second = Machine.prepare(tmp_path / "second", *services)
    done = second.materialize("test_predictions", {"test_predictions": {"force": True}})
    assert done.returncode == 0, log_of(done)[-4000:]
    again = second.latest("test_predictions")
    assert again.record.metadata["top1"] == there.record.metadata["top1"]
    assert again.record.inputs == there.record.inputs
    assert isinstance(again, BucketArtifact)
    assert first.latest("test_predictions") == again
    assert not (second.folder / "data").exists()
    copied = {path.parent.parent.name for path in (second.folder / "artifacts").glob("*/*/artifact.json")}
    assert "raw_archive" not in copied
    assert {"frame_cache", "onnx_model", "test_manifest"} <= copied
    shown = second.run("har_assets.cli", "status")
    assert shown.returncode == 0, log_of(shown)
    assert there.record.headline in " ".join(shown.stdout.split())  # the table breaks long lines

    # One database for both.
    runs = postgres.ask("select status from runs")
    assert runs == [("SUCCESS",)] * 3
    assert postgres.ask("select distinct status from runs", "mlflow") == [("FINISHED",)]
    keys = s3.client().list_objects_v2(Bucket=BUCKET, Prefix="mlflow/")["KeyCount"]
    assert keys > 5
    S3FileSystem.clear_instance_cache()


def test_two_machines_materialize_one_asset_at_the_same_time(
    services: tuple[S3Server, Postgres], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both end, one is latest, none is mixed. To the moment: test_bucket.py."""
    from s3fs import S3FileSystem

    machines = [Machine.prepare(tmp_path / name, *services) for name in ("first", "second")]
    source = {"raw_archive": {"source": str(make_own_videos(tmp_path / "own"))}, "video_clips": {"dvc": "off"}}
    done = machines[0].materialize("+key:class_index", source)
    assert done.returncode == 0, log_of(done)[-4000:]
    shutil.copytree(machines[0].folder / "data", machines[1].folder / "data")  # as `dvc pull` brings it
    force = {"class_index": {"force": True}}
    running = [
        subprocess.Popen(
            machine.command(*machine.materialize_arguments("class_index", force)),
            cwd=machine.folder,
            env=machine.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for machine in machines
    ]
    said = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said[0][-3000:] + said[1][-3000:]
    for name, value in services[0].environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    third = open_store(f"s3://{BUCKET}/har", tmp_path / "third")
    versions = sorted(third.versions("class_index"), key=lambda version: version.record.created)
    assert len(versions) == 3
    assert third.latest("class_index") in versions[1:]
    assert all(describe_files(version.folder) == version.record.files for version in versions)
    assert services[1].ask("select status from runs") == [("SUCCESS",)] * 3
    S3FileSystem.clear_instance_cache()
