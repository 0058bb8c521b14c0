"""The graph on a Ray cluster of real nodes, with PostgreSQL and a bucket: same products, and a node that dies."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from har_assets import settings
from har_assets.cli.doctor.finding import OK, Finding
from har_assets.cli.doctor.services import check_ray_cluster
from har_assets.cluster import predictions as prediction_shards
from har_assets.cluster.address import connect
from har_assets.cluster.frames import PART
from har_assets.errors import HarError
from har_assets.graph.running.chosen import chosen_executor
from har_assets_tests.cluster import ray_site
from har_assets_tests.cluster.ray_nodes import Cluster
from har_assets_tests.cluster.ray_site import Site, keys_of, same_products, two_nodes
from har_assets_tests.postgres import Postgres
from har_assets_tests.project import Project, log_of, make_own_videos, make_split_lists, trainings_in
from har_assets_tests.s3_server import BUCKET, S3Server

PIPELINE = "+key:test_predictions"
PRODUCTS = (
    "raw_archive",
    "video_clips",
    "train_manifest",
    "val_manifest",
    "test_manifest",
    "class_index",
    "frame_cache",
    "trained_checkpoint",
    "onnx_model",
    "test_predictions",
)


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[S3Server, Postgres]]:
    pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")
    with ray_site.services() as started:
        yield started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, services: tuple[S3Server, Postgres]) -> Iterator[Cluster]:
    with two_nodes(tmp_path_factory.mktemp("cluster"), *services) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def own_videos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """On a disk that all nodes share, as a source of one's own has to be."""
    folder = tmp_path_factory.mktemp("shared")
    videos = make_own_videos(folder / "videos")
    return videos, make_split_lists(folder / "lists", videos)


def config(own_videos: tuple[Path, Path], epochs: int = 2) -> dict[str, dict[str, Any]]:
    videos, lists = own_videos
    return {
        "raw_archive": {"source": str(videos), "split_lists": str(lists)},
        "video_clips": {"dvc": "off"},
        "frame_cache": {"shard_clips": 4},
        "trained_checkpoint": {"epochs": epochs, "threads": 1},
        "test_predictions": {"shard_clips": 2},
    }


@pytest.fixture(scope="module")
def local_pipeline(tmp_path_factory: pytest.TempPathFactory, own_videos: tuple[Path, Path]) -> Project:
    project = Project.make(tmp_path_factory.mktemp("local"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as on the nodes: sums in another order differ in their last digits
        done = project.materialize(PIPELINE, config(own_videos))
    assert done.returncode == 0, log_of(done)[-4000:]
    return project


@pytest.fixture
def keys(services: tuple[S3Server, Postgres]) -> Iterator[None]:
    """What this process needs to read the bucket."""
    with keys_of(services[0]):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("keys")
def test_the_pipeline_on_two_nodes_equals_the_local_one_and_survives_the_death_of_a_node(
    tmp_path: Path,
    local_pipeline: Project,
    own_videos: tuple[Path, Path],
    cluster: Cluster,
    services: tuple[S3Server, Postgres],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3, postgres = services
    site = Site.prepare(tmp_path / "site", cluster, s3, postgres, "whole")
    done = site.materialize(PIPELINE, config(own_videos))
    assert done.returncode == 0, log_of(done)[-6000:]
    same_products(local_pipeline.store, site.store, PRODUCTS)
    # Steps ran on both nodes, none where the run was started; data/ came to the second node from the bucket.
    for node in cluster.nodes:
        assert (node.folder / "data" / "dataset.json").is_file()
    assert not (site.folder / "data").exists()
    asked = "select distinct step_key from event_logs where event like '%No node of the Ray cluster has a GPU%'"
    assert {step for (step,) in postgres.ask(asked)} == {"trained_checkpoint", "onnx_model", "test_predictions"}
    # frame_cache was made of five parts, which are gone.
    assert len(list(site.latest("frame_cache").folder.glob("*.npy"))) == 5
    assert site.store.versions(PART) == []
    # So were the predictions, of three.
    asked = "select event from event_logs where event like '%3 of 3 shards are made%'"
    assert len(postgres.ask(asked)) == 1
    assert site.store.versions(prediction_shards.PART) == []
    for node in cluster.nodes:
        assert [process.name() for process in node.processes() if process.name().startswith("dagster")] == []

    monkeypatch.setenv(settings.RAY, cluster.address)
    said = check_ray_cluster(site.folder)
    assert isinstance(said, Finding)
    assert "3 nodes with 2 CPUs and 0 GPUs" in said.found

    # Whoever reaches the job server reads this.
    submitted = str(connect(cluster.address).list_jobs())
    assert f"s3://{BUCKET}/whole" in submitted
    assert postgres.password not in submitted
    assert s3.secret not in submitted

    # The same again in a store of its own, and the node that trains loses power.
    site = Site.prepare(tmp_path / "again", cluster, s3, postgres, "again")
    for node in cluster.nodes:
        assert trainings_in(node.folder) == []
    arguments = site.materialize_arguments(PIPELINE, config(own_videos, epochs=2))
    run = subprocess.Popen(
        site.command(*arguments),
        cwd=site.folder,
        env=site.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 240
        while not (where := [node for node in cluster.nodes if trainings_in(node.folder)]):
            assert run.poll() is None, run.communicate()[0][-6000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (victim,) = where
        victim.kill()
        said, _ = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 0, said[-6000:]
    assert site.events("STEP_UP_FOR_RETRY") == ["trained_checkpoint"]
    same_products(local_pipeline.store, site.store, PRODUCTS)
    assert trainings_in(victim.folder) == []
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if str(victim.folder) in command] == []
    assert postgres.ask("select status from runs order by id") == [("SUCCESS",)] * 2
    assert postgres.ask("select count(*) from concurrency_slots where run_id is not null") == [(0,)]
    # Nothing listens beyond loopback.
    ours = {process.pid for node in (cluster.head, *cluster.nodes) for process in node.processes()}
    beyond = [
        connection.laddr
        for connection in psutil.net_connections("inet")
        if connection.pid in ours
        and connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    ]
    assert beyond == []


# ------------------------------------------------------------------------------------------ without a cluster


def test_without_an_address_steps_run_here_and_nothing_of_ray_is_imported() -> None:
    import sys

    code = "import sys; from har_assets import defs; sys.exit(bool({'ray', 'dagster_ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.RAY, "head:8265")
    with pytest.raises(HarError, match="http://HEAD:8265"):
        chosen_executor()


def test_every_step_says_what_it_needs() -> None:
    from har_assets.cluster.needs import NEEDS_TAG
    from har_assets.definitions import ASSETS

    made = [asset for asset in ASSETS if isinstance(asset, dg.AssetsDefinition) and asset.is_materializable]
    with_gpu = set()
    for asset in made:
        wanted = asset.op.tags[NEEDS_TAG]
        assert '"num_cpus"' in wanted, asset.op.name
        if '"num_gpus"' in wanted:
            with_gpu.add(asset.op.name)
    assert {"trained_checkpoint", "trt_engine"} <= with_gpu
    assert not {"frame_cache", "manifests", "raw_archive"} & with_gpu


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "HAR_ARTIFACTS is 'artifacts', a folder of each node"),
        ({"HAR_ARTIFACTS": "s3://team/har"}, "Dagster's storage is a file of this machine"),
    ],
)
def test_what_nodes_would_not_share_is_refused(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    from har_assets_tests.cluster.ray_nodes import free_port

    project = Project.make(tmp_path)
    environment = {**project.environment, settings.RAY: f"http://127.0.0.1:{free_port()}", **variables}
    done = subprocess.run(
        project.command(*project.materialize_arguments("raw_archive")),
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    assert said in log_of(done), log_of(done)[-3000:]


def test_doctor_says_what_there_is_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from har_assets_tests.cluster.ray_nodes import free_port

    monkeypatch.delenv(settings.RAY, raising=False)
    finding = check_ray_cluster(tmp_path)
    assert isinstance(finding, Finding)
    assert (finding.state, finding.found) == (OK, "none: steps run on this machine (HAR_RAY is not set)")
    monkeypatch.setenv(settings.RAY, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(HarError, match="No Ray job server answers"):
        check_ray_cluster(tmp_path)
