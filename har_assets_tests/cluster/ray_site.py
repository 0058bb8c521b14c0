"""A project whose steps run on a Ray cluster of two nodes, with PostgreSQL and a bucket; for tests and benchmarks."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from har_assets import settings
from har_assets.cluster.needs import PROJECT
from har_assets.store.opening import open_store
from har_assets.store.protocol import Store
from har_assets.video.frame_cache import FrameCache
from har_assets_tests.cluster.ray_nodes import Cluster, ray_cluster
from har_assets_tests.postgres import Postgres, postgres_server
from har_assets_tests.project import REPOSITORY, Project
from har_assets_tests.s3_server import BUCKET, S3Server, s3_server


@dataclass(frozen=True)
class Site(Project):
    """The project from which runs are started; nodes have folders of their own beside it."""

    s3: S3Server
    postgres: Postgres
    cluster: Cluster
    prefix: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            **services_of(self.s3, self.postgres),
            "HAR_ARTIFACTS": f"s3://{BUCKET}/{self.prefix}",
            "HAR_MLFLOW_URI": "postgresql:///mlflow",
            "HAR_MLFLOW_FILES": f"s3://{BUCKET}/mlflow",
            settings.RAY: self.cluster.address,
        }

    @property
    def store(self) -> Store:
        return open_store(f"s3://{BUCKET}/{self.prefix}", self.folder / "artifacts")

    @classmethod
    def prepare(cls, folder: Path, cluster: Cluster, s3: S3Server, postgres: Postgres, prefix: str) -> "Site":
        site = cls(Project.make(folder).folder, s3, postgres, cluster, prefix)
        (folder / "dagster.yaml").write_text((REPOSITORY / "deploy" / "dagster.yaml").read_text())
        return site

    def events(self, kind: str, step: str = "") -> list[str]:
        asked = f"select step_key from event_logs where dagster_event_type = '{kind}' order by id"
        return [name for (name,) in self.postgres.ask(asked) if step in ("", name)]


def services_of(s3: S3Server, postgres: Postgres) -> dict[str, str]:
    """What every node has in its environment: addresses and keys, none of which travels with a step."""
    return {
        **s3.environment,
        **postgres.environment,
        "HAR_BUCKET": BUCKET,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def services() -> Iterator[tuple[S3Server, Postgres]]:
    """A bucket and a database."""
    with postgres_server() as postgres, s3_server() as s3:
        yield s3, postgres


@contextlib.contextmanager
def two_nodes(folder: Path, s3: S3Server, postgres: Postgres) -> Iterator[Cluster]:
    """A head and two nodes of one CPU each below a folder; the first is the one with the project."""
    with ray_cluster(folder / "head", services_of(s3, postgres)) as cluster:
        for name, resources in (("one", {PROJECT: 1.0}), ("two", {})):
            cluster.add(folder / name, **resources)
        yield cluster


@contextlib.contextmanager
def keys_of(s3: S3Server) -> Iterator[None]:
    """This process may read the bucket."""
    from s3fs import S3FileSystem

    before = {name: os.environ.get(name) for name in s3.environment}
    os.environ.update(s3.environment)
    S3FileSystem.clear_instance_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        S3FileSystem.clear_instance_cache()


def same_products(here: Store, there: Store, assets: tuple[str, ...]) -> None:
    """Assert that two stores have the same keys, data versions, lineage, frames, accuracy and scores."""
    for asset in assets:
        one, two = here.latest(asset).record, there.latest(asset).record
        assert (one.key, one.data_version, one.inputs) == (two.key, two.data_version, two.inputs), asset
        own = {"mlflow_run_id"}  # another run, and only that
        assert {k: v for k, v in one.lineage.items() if k not in own} == {
            k: v for k, v in two.lineage.items() if k not in own
        }
    one, two = (FrameCache(store.latest("frame_cache").folder) for store in (here, there))
    assert one.rows.clips == two.rows.clips
    for clip in one.rows.clips:
        np.testing.assert_array_equal(one.frames(clip), two.frames(clip))
    first, second = here.latest("test_predictions"), there.latest("test_predictions")
    assert first.record.metadata["top1"] == second.record.metadata["top1"]
    assert first.file("test_predictions.csv").read_text() == second.file("test_predictions.csv").read_text()
    np.testing.assert_array_equal(np.load(first.file("scores.npy")), np.load(second.file("scores.npy")))
