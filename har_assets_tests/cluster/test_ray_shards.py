"""frame_cache in shards while a node of the Ray cluster dies, and while the run itself does."""

import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from har_assets.cluster.frames import PART
from har_assets_tests.cluster import ray_site
from har_assets_tests.cluster.ray_nodes import Cluster, Node
from har_assets_tests.cluster.ray_site import Site, keys_of, two_nodes
from har_assets_tests.postgres import Postgres
from har_assets_tests.project import log_of, make_own_videos, make_split_lists
from har_assets_tests.s3_server import BUCKET, S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SELECT = "+key:frame_cache"
CLIPS, SHARD_CLIPS, SHARDS = 60, 4, 15
FEW = 3
"""Parts that are there when something is killed."""


@dataclass
class Parts:
    """What is seen of the parts in the bucket: names of versions by the first digits of their key."""

    s3: S3Server
    prefix: str
    begun: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    complete: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def look(self) -> None:
        below = f"{self.prefix}/{PART}/"
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=below)
        for path in [entry["Key"].removeprefix(below) for page in pages for entry in page.get("Contents", [])]:
            name, _, file = path.partition("/")
            if file:
                self.begun[name.partition(".")[0]].add(name)
            if file == "artifact.json":
                self.complete[name.partition(".")[0]].add(name)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Parts are there until the whole is published: none is missed."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.1):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[S3Server, Postgres]]:
    pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")
    with ray_site.services() as started, keys_of(started[0]):
        yield started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, services: tuple[S3Server, Postgres]) -> Iterator[Cluster]:
    with two_nodes(tmp_path_factory.mktemp("cluster"), *services) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("shared")
    videos = make_own_videos(folder / "videos", CLIPS // 3)
    return {
        "raw_archive": {"source": str(videos), "split_lists": str(make_split_lists(folder / "lists", videos))},
        "video_clips": {"dvc": "off"},
        "frame_cache": {"shard_clips": SHARD_CLIPS},
    }


def content(site: Site) -> dict[str, bytes]:
    """Every file of the latest frame cache."""
    folder = site.latest("frame_cache").folder
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "artifact.json"}


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
    cluster: Cluster,
    services: tuple[S3Server, Postgres],
    settings: dict[str, dict[str, object]],
) -> dict[str, bytes]:
    site = Site.prepare(tmp_path_factory.mktemp("undisturbed"), cluster, *services, "undisturbed")
    done = site.materialize(SELECT, settings)
    assert done.returncode == 0, log_of(done)[-6000:]
    assert site.store.versions(PART) == []
    found = content(site)
    assert len([name for name in found if name.endswith(".npy")]) == SHARDS
    return found


@contextmanager
def started(site: Site, settings: dict[str, dict[str, object]]) -> Iterator["subprocess.Popen[str]"]:
    """A run in its midst: FEW parts are there."""
    run = subprocess.Popen(
        site.command(*site.materialize_arguments(SELECT, settings)),
        cwd=site.folder,
        env=site.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield run
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


def wait_for(ready: object, run: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 180
    assert callable(ready)
    while not ready():
        assert run.poll() is None, run.communicate()[0][-6000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_step(node: Node) -> bool:
    return any("execute_step" in " ".join(process.cmdline()) for process in node.processes())


def shards_in_work(node: Node) -> list[str]:
    return [path.name for path in (node.folder / "artifacts" / PART).glob(".work-*")]


def test_a_node_that_dies_costs_the_shards_that_it_was_at(
    tmp_path: Path,
    cluster: Cluster,
    services: tuple[S3Server, Postgres],
    settings: dict[str, dict[str, object]],
    undisturbed: dict[str, bytes],
) -> None:
    s3, postgres = services
    site = Site.prepare(tmp_path / "site", cluster, s3, postgres, "node")
    parts = Parts(s3, "node")
    victims: list[Node] = []

    def ready() -> bool:
        if len(parts.complete) < FEW:
            return False
        victims[:] = [node for node in cluster.nodes if shards_in_work(node) and not has_step(node)]
        return bool(victims)

    with parts.watched(), started(site, settings) as run:
        wait_for(ready, run)
        victim = victims[0]
        victim.kill()
        lost = shards_in_work(victim)
        there = {key: set(names) for key, names in parts.complete.items()}
        said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said[-6000:]
    assert content(site) == undisturbed
    # What was there stayed; what the dead node was at, and only that, was made by the other one.
    assert FEW <= len(there) < SHARDS
    assert len(lost) == 1
    assert {key: parts.complete[key] for key in there} == there
    assert len(parts.complete) == SHARDS
    assert sum(len(names) for names in parts.complete.values()) == SHARDS
    assert {key for key, names in parts.begun.items() if len(names) > 1} <= {
        name.removeprefix(".work-") for name in lost
    }
    record = site.latest("frame_cache").record
    assert (record.metadata["decoded"], record.metadata["resumed"]) == (CLIPS, 0), "one call made all"
    assert site.events("STEP_UP_FOR_RETRY") == []
    for node in cluster.nodes:
        if node is not victim:
            assert list((node.folder / "artifacts" / PART).glob("[!.]*/*.npy")) == [], "no copy is left on a node"
    assert site.store.versions(PART) == []
    cluster.add(tmp_path / "another")


def test_the_same_command_after_the_death_of_the_run_goes_on_with_the_parts_that_are_there(
    tmp_path: Path,
    cluster: Cluster,
    services: tuple[S3Server, Postgres],
    settings: dict[str, dict[str, object]],
    undisturbed: dict[str, bytes],
) -> None:
    s3, postgres = services
    site = Site.prepare(tmp_path / "site", cluster, s3, postgres, "run")
    parts = Parts(s3, "run")
    with parts.watched():
        with started(site, settings) as run:
            wait_for(lambda: len(parts.complete) >= FEW, run)
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        there = {key: set(names) for key, names in parts.complete.items()}
        assert site.store.find_latest("frame_cache") is None
        done = site.materialize(SELECT, settings)
    assert done.returncode == 0, log_of(done)[-6000:]
    assert content(site) == undisturbed
    assert FEW <= len(there) < SHARDS
    assert {key: parts.complete[key] for key in there} == there, "none of them was made again"
    record = site.latest("frame_cache").record
    # At least those: the step that had lost its run may have finished one more before it noticed.
    assert len(there) * SHARD_CLIPS <= record.metadata["resumed"] < CLIPS
    assert record.metadata["decoded"] + record.metadata["resumed"] == CLIPS
    asked = f"select count(*) from event_logs where event like '%{SHARDS} shards, "
    before = record.metadata["resumed"] // SHARD_CLIPS
    assert postgres.ask(f"{asked}{before} of them made before%'") == [(1,)]
    assert site.store.versions(PART) == []
