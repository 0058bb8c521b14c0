"""The whole sample pipeline on a Ray cluster of two nodes, with PostgreSQL and a bucket: the same as on one machine."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from har_assets.graph.stage import STAGES
from har_assets.store.record import Artifact
from har_assets_tests.cluster.ray_site import Site, keys_of, same_products, services, two_nodes
from har_assets_tests.project import Project, log_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # two pipelines

SELECT = "+key:runtime_benchmark or +key:evaluation_report or +key:serving_model"
# hmdb51_benchmark is of three trainings.
PRODUCTS = tuple(name for name, stage in STAGES.items() if name != "hmdb51_benchmark" and not stage.partitioned)

OF_REGISTRY = ("serving_model",)
"""Products whose keys name the registry that they are registered at."""


def figures(artifact: Artifact) -> dict[str, Any]:
    """All that a product says of itself, without its time, its size and its run of MLflow."""
    own = {"usage", "mlflow_run", "page_bytes"}
    return {name: value for name, value in artifact.record.metadata.items() if name not in own}


def test_the_sample_pipeline_on_two_nodes_equals_the_local_one(
    tmp_path: Path, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")
    # As the nodes have it: with other numbers of threads scores differ in their last digits.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    local = Project.make(tmp_path / "local")
    done = local.materialize(SELECT, timeout=1200)
    assert done.returncode == 0, log_of(done)[-4000:]
    with services() as (s3, postgres), two_nodes(tmp_path, s3, postgres) as cluster, keys_of(s3):
        site = Site.prepare(tmp_path / "site", cluster, s3, postgres, "pipeline")
        started = time.monotonic()
        done = site.materialize(SELECT, timeout=1200)
        seconds = time.monotonic() - started
        assert done.returncode == 0, log_of(done)[-6000:]
        record_property("seconds_on_two_nodes", round(seconds, 1))
        same_products(local.store, site.store, tuple(set(PRODUCTS) - set(OF_REGISTRY)))
        for asset in ("test_predictions", "evaluation_report"):
            here, there = (figures(store.latest(asset)) for store in (local.store, site.store))
            assert here == there, asset
        served = site.latest("serving_model").record
        assert served.checks["answers_like_predict"]["passed"]
        assert served.inputs == local.latest("serving_model").record.inputs
        assert postgres.ask("select status from runs") == [("SUCCESS",)]
        print(f"\nthe sample pipeline on two Ray nodes: {seconds:.0f} s")
