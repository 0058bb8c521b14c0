"""A training over several nodes of a Ray cluster: same model as on one machine, and every way in which it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from har_assets import settings
from har_assets.cluster.training import (
    cause_of,
    copied,
    fetch,
    for_this_node,
    node_needs,
    options_of,
    shortage,
    train_here,
)
from har_assets.errors import HarError
from har_assets.model.lightning import load_checkpoint
from har_assets.model.spec import ModelSpec
from har_assets.store.opening import StoreLocation
from har_assets.store.record import Artifact
from har_assets.training.request import ERROR_FILE, STOPPED, TrainingRequest
from har_assets_tests.cluster.ray_nodes import Cluster, Node, ray_cluster
from har_assets_tests.cluster.ray_site import Site, services_of
from har_assets_tests.postgres import Postgres, postgres_server
from har_assets_tests.project import log_of, make_own_videos, make_split_lists, trainings_in
from har_assets_tests.published import publish
from har_assets_tests.s3_server import BUCKET, S3Server, s3_server
from har_assets_tests.training.test_fit import request_for

# ------------------------------------------------------------------------------------------ without a cluster

GPU_NODES = [{"CPU": 16.0, "GPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 2.0}]


@pytest.mark.parametrize(
    ("nodes", "devices", "offered", "wanted"),
    [
        (2, 1, [{"CPU": 4.0}, {"CPU": 4.0}], {"CPU": 1}),
        (2, 0, [{"CPU": 4.0}, {"CPU": 4.0}], {"CPU": 1}),
        (2, 4, [{"CPU": 2.0}, {"CPU": 1.0}], {"CPU": 1}),
        (2, 2, GPU_NODES, {"CPU": 2, "GPU": 2}),
        (1, 0, GPU_NODES, {"CPU": 8, "GPU": 8}),
        (2, 0, GPU_NODES, {"CPU": 4, "GPU": 4}),
        (3, 0, GPU_NODES, {"CPU": 1, "GPU": 1}),  # waits for a third node with a GPU
        (2, 1, [], {"CPU": 1}),
    ],
)
def test_what_a_training_takes_of_each_node(
    nodes: int, devices: int, offered: list[dict[str, float]], wanted: dict[str, float]
) -> None:
    assert node_needs(nodes, devices, offered) == wanted


@pytest.mark.parametrize(
    ("step", "config", "wanted"),
    [
        ("trained_checkpoint", {}, (1, 1, False)),
        ("trained_checkpoint", {"nodes": 3, "devices": 0}, (3, 0, True)),
        ("trained_checkpoint", {"nodes": 2, "rendezvous": "one:29400"}, (2, 1, False)),
        ("trained_checkpoint", {"nodes": {"env": "NODES"}}, (1, 1, False)),
        ("trained_checkpoint", {"nodes": -1}, (1, 1, False)),
        ("split_evaluation", {"changes": {"trained_checkpoint": {"nodes": 2}}}, (2, 1, True)),
        ("split_evaluation", {"nodes": 2}, (1, 1, False)),
        ("onnx_model", {"nodes": 2}, (1, 1, False)),
    ],
)
def test_the_options_of_a_step_are_read_from_the_run(
    step: str, config: dict[str, Any], wanted: tuple[int, int, bool]
) -> None:
    assert options_of({"ops": {step: {"config": config}}}, step) == wanted
    assert options_of({}, step) == (1, 1, False)


def on_cluster(work: Path, cache: Path, spec: ModelSpec, **fields: object) -> TrainingRequest:
    return request_for(
        work, cache, spec, **{"nodes": 3, "ray_job": "har-1", "node_needs": {"CPU": 2, "GPU": 2}, **fields}
    )


def test_a_cluster_without_the_nodes_is_told_with_what_there_is(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    request = on_cluster(tmp_path, tiny_cache, tiny_spec, node_wait_s=30)
    offered = {"b/1f": {"CPU": 8.0, "GPU": 2.0}, "a/0c": {"CPU": 1.0, "memory": 1e9}}
    assert shortage(request, offered) == (
        "The training has waited 30 s for 3 nodes with 2 CPUs and 2 GPUs each, of which the Ray cluster has 1 (a/0c "
        "with 1 CPU and 0 GPUs, b/1f with 8 CPUs and 2 GPUs): start more nodes, or choose fewer nodes or devices."
    )
    busy = {name: {"CPU": 8.0, "GPU": 2.0} for name in "abc"}
    assert "cluster has 3" in shortage(request, busy)
    assert "others are at work on them" in shortage(request, busy)


def test_a_cause_is_what_a_node_has_put_into_words() -> None:
    lost_peer, written = "Training failed with RuntimeError: Connection closed by peer", "Choose a smaller batch_size."
    assert cause_of([lost_peer, "", STOPPED, written]) == written
    assert cause_of([STOPPED, lost_peer]) == lost_peer
    assert "without a word" in cause_of(["", STOPPED])


def test_another_node_reads_its_own_copies(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    first = "/project/artifacts/train_manifest/3f"
    request = on_cluster(
        tmp_path / "first",
        tiny_cache,
        tiny_spec,
        pretrained="/elsewhere/weights.pt",
        manifests={"train": f"{first}/train.csv", "val": f"{first}0/val.csv"},
        origins={first: "s3://team/har/train_manifest/3f", str(tiny_cache / "cache"): "s3://team/har/frame_cache/ab"},
    )
    asked = []

    def copy(address: str) -> Path:
        asked.append(address)
        return Path("/node", *address.split("/")[-2:])

    own = for_this_node(request, tmp_path / "own", copy)
    assert asked == list(request.origins.values())
    assert own.work == str(tmp_path / "own")
    assert own.frame_cache == "/node/frame_cache/ab"
    assert own.manifests == {"train": "/node/train_manifest/3f/train.csv", "val": f"{first}0/val.csv"}
    assert own.pretrained == "/elsewhere/weights.pt"
    assert TrainingRequest.read(own.write(tmp_path / "request.json")) == own


def test_a_version_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(HarError, match="was removed while a training started on it"):
        copied(StoreLocation(), str(tmp_path / "frame_cache" / "3f"))


def test_another_node_works_in_the_store_of_the_step(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(settings.ARTIFACTS, "s3://of-this-node/har")
    there = StoreLocation(f"memory://{tmp_path.name}", "copies", str(tmp_path / "project"))
    files = {path.name: path for path in (tiny_cache / "cache").iterdir()}
    frames = publish(replace(there, work_root=str(tmp_path / "first")).open(), "frame_cache", files)
    inner = replace(there, work_root=str(tmp_path / "first"), inside="split_evaluation/2").open()
    roles = {f"{role}.csv": tiny_cache / f"{role}.csv" for role in ("train", "val")}
    lists = publish(inner, "train_manifest", roles)
    request = on_cluster(
        tmp_path / "first",
        tiny_cache,
        tiny_spec,
        nodes=1,
        node_rank=1,
        manifests={role: str(lists.file(f"{role}.csv")) for role in ("train", "val")},
        origins={str(made.folder): made.address for made in (frames, lists)},
        store=there,
        epochs=1,
    ).model_copy(update={"frame_cache": str(frames.folder)})
    assert TrainingRequest.read(request.write(tmp_path / "request.json")) == request
    fetch(request.store, list(request.origins.values()))
    copies = tmp_path / "project" / "copies"
    assert len(list(copies.glob("frame_cache/*.*/index.csv"))) == 1
    shutil.rmtree(tmp_path / "first")  # on the disk of another machine
    assert train_here(request, b"") == ""
    assert (copies / "trained_checkpoint").is_dir()
    assert not (tmp_path / "artifacts").exists()


# ------------------------------------------------------------------------------------------ on two nodes


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[S3Server, Postgres]]:
    pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")
    with postgres_server() as postgres, s3_server() as s3:
        yield s3, postgres


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, services: tuple[S3Server, Postgres]) -> Iterator[Cluster]:
    with ray_cluster(tmp_path_factory.mktemp("head"), services_of(*services)) as cluster:
        for name in ("one", "two"):
            cluster.add(tmp_path_factory.mktemp(name))
        yield cluster


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, services: tuple[S3Server, Postgres]
) -> Iterator[Site]:
    """A project whose products up to the frame cache are in the bucket, made without Ray."""
    folder = tmp_path_factory.mktemp("site")
    videos = make_own_videos(folder / "videos")
    lists = make_split_lists(folder / "lists", videos)
    site = Site.prepare(folder / "project", cluster, *services, "har")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in services[0].environment.items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "1")
        config = {"raw_archive": {"source": str(videos), "split_lists": str(lists)}, "video_clips": {"dvc": "off"}}
        arguments = site.materialize_arguments("+key:frame_cache or key:class_index or key:pretrained_weights", config)
        done = subprocess.run(
            site.command(*arguments),
            cwd=site.folder,
            env={**site.environment, "HAR_RAY": ""},
            text=True,
            capture_output=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, log_of(done)[-6000:]
        yield site


def config(epochs: int, **fields: Any) -> dict[str, dict[str, Any]]:
    return {"trained_checkpoint": {"epochs": epochs, "threads": 1, "batch_size": 4, **fields}}


def trained_locally(site: Site, epochs: int) -> Artifact:
    """The same training by torchrun, two processes on this machine."""
    arguments = site.materialize_arguments("trained_checkpoint", config(epochs, devices=2))
    done = subprocess.run(
        site.command(*arguments),
        cwd=site.folder,
        env={**site.environment, "HAR_RAY": ""},
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, log_of(done)[-6000:]
    return site.latest("trained_checkpoint")


def same_model(one: Artifact, two: Artifact) -> None:
    histories = [
        [json.loads(line) for line in artifact.file("history.jsonl").read_text().splitlines()]
        for artifact in (one, two)
    ]
    for first, second in zip(*histories, strict=True):
        assert first["epoch"] == second["epoch"]
        for figure in ("train_loss", "train_top1", "val_loss", "val_top1"):
            assert second[figure] == pytest.approx(first[figure], rel=1e-4), (figure, first["epoch"])
    weights = [load_checkpoint(artifact.file("video_action_model.ckpt")).state_dict() for artifact in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)
    assert two.record.metadata["device"] == one.record.metadata["device"]
    assert two.record.metadata["best_epoch"] == one.record.metadata["best_epoch"]


def start(site: Site, epochs: int, **fields: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        site.command(*site.materialize_arguments("trained_checkpoint", config(epochs, nodes=2, **fields))),
        cwd=site.folder,
        env=site.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def lines_of(site: Site) -> list[str]:
    """What the last run has logged."""
    asked = "select event from event_logs where run_id = (select run_id from runs order by id desc limit 1) order by id"
    return [json.loads(event)["user_message"] for (event,) in site.postgres.ask(asked)]


def runs_in_mlflow(site: Site) -> int:
    return int(site.postgres.ask("select count(*) from runs", "mlflow")[0][0])


def wait_for(happens: Callable[[], Any], seconds: float, run: "subprocess.Popen[str] | None" = None) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert run is None or run.poll() is None, run.communicate()[0][-6000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def epochs_at(node: Node) -> int:
    """Epochs that trainings whose step is or was on this node have finished."""
    histories = list(node.folder.glob("artifacts/trained_checkpoint/.work-*/history.jsonl"))
    return sum(len(history.read_text().splitlines()) for history in histories)


def at_work(cluster: Cluster, run: "subprocess.Popen[str]", epochs: int = 2) -> tuple[Node, Node]:
    """The node of the step and the other one, after some more epochs on both."""
    before = {node.folder: epochs_at(node) for node in cluster.nodes}  # of trainings that were ended here

    def found() -> tuple[Node, Node] | None:
        alive = [node for node in cluster.nodes if node.process.poll() is None]
        first = [
            node
            for node in alive
            if epochs_at(node) >= before.get(node.folder, 0) + epochs and trainings_in(node.folder)
        ]
        others = [node for node in alive if node not in first and trainings_in(node.folder)]
        return (first[0], others[0]) if len(first) == len(others) == 1 else None

    pair: tuple[Node, Node] = wait_for(found, 240, run)
    return pair


def wait_until_free(cluster: Cluster, seconds: float = 60) -> None:
    """Nothing trains on any node, and Ray lends nothing."""
    wait_for(lambda: not any(trainings_in(node.folder) for node in cluster.nodes), seconds)
    code = (
        "import json, ray; ray.init('auto', log_to_driver=False, configure_logging=False);"
        "lent = lambda: ray.cluster_resources().get('CPU', 0) - ray.available_resources().get('CPU', 0);"
        "import time; deadline = time.monotonic() + 20\n"
        "while lent() and time.monotonic() < deadline: time.sleep(.2)\n"
        "groups = [g for g in ray.util.placement_group_table().values() if g['state'] != 'REMOVED']\n"
        "print(json.dumps([lent(), len(groups)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**cluster.environment, "RAY_ADDRESS": cluster.gcs},
        text=True,
        capture_output=True,
        check=True,
        timeout=90,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 0]


@pytest.mark.slow
def test_two_nodes_train_the_model_of_two_local_processes(site: Site, cluster: Cluster) -> None:
    local = trained_locally(site, 4)
    run = start(site, 4)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said[-6000:] + "\n".join(lines_of(site))[-3000:]
    found = site.latest("trained_checkpoint")
    assert found.record.config["nodes"] == 2
    same_model(local, found)
    lines = lines_of(site)
    assert [line.split(":")[0] for line in lines if line.startswith("epoch ")] == [f"epoch {n}/4" for n in (1, 2, 3, 4)]
    assert [line for line in lines if line.startswith("Training on 2 nodes of the Ray cluster: ")] != []
    assert [line for line in lines if "[pipes] unexpected" in line] == []
    wait_until_free(cluster)


@pytest.mark.slow
def test_lost_nodes_cost_time_and_nothing_else(
    site: Site, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, services: tuple[S3Server, Postgres]
) -> None:
    epochs = 60
    local = trained_locally(site, epochs)
    tracked = runs_in_mlflow(site)
    run = start(site, epochs)
    try:
        first, other = at_work(cluster, run)
        other.kill()
        cluster.add(tmp_path_factory.mktemp("three"))
        # Goes on after the last whole epoch, in the same step.
        first_again, replacement = at_work(cluster, run, 1)
        assert (first_again, replacement) == (first, cluster.nodes[-1])
        assert site.events("STEP_UP_FOR_RETRY") == []
        assert runs_in_mlflow(site) == tracked + 1
        first.kill()
        cluster.add(tmp_path_factory.mktemp("four"))
        said, _ = run.communicate(timeout=400)
    finally:
        run.kill()
    assert run.returncode == 0, said[-6000:]
    lines = lines_of(site)
    assert len([line for line in lines if line.startswith("A node was lost under the training")]) == 1
    assert len([line for line in lines if ", going on from " in line]) == 1
    assert site.events("STEP_UP_FOR_RETRY") == ["trained_checkpoint"]
    same_model(local, site.latest("trained_checkpoint"))
    # The run that died with the node of the step is closed; the training that began anew has one of its own.
    statuses = site.postgres.ask("select status from runs order by start_time", "mlflow")
    assert [status for (status,) in statuses][tracked:] == ["KILLED", "FINISHED"]
    assert services[1].ask("select count(*) from concurrency_slots where run_id is not null") == [(0,)]
    wait_until_free(cluster)


@pytest.mark.slow
def test_a_cluster_with_too_few_nodes_is_refused_in_a_sentence(site: Site, cluster: Cluster) -> None:
    run = subprocess.run(
        site.command(*site.materialize_arguments("trained_checkpoint", config(4, nodes=3, node_wait_s=3, seed=1))),
        cwd=site.folder,
        env=site.environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )
    said = log_of(run)
    assert run.returncode != 0
    assert "Waiting up to 3 s for 2 more nodes with 1 CPU." in lines_of(site)
    assert "has waited 3 s for 3 nodes with 1 CPU each, of which the Ray cluster has 2 (" in said
    assert "start more nodes, or choose fewer nodes or devices" in said
    assert "Traceback" not in said
    wait_until_free(cluster)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_trains_on_when_the_run_ends(site: Site, cluster: Cluster, number: signal.Signals) -> None:
    run = start(site, 5000, seed=int(number))
    try:
        at_work(cluster, run)
        run.send_signal(number)
        run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode != 0
    wait_until_free(cluster, 90)


@pytest.mark.slow
def test_a_process_that_is_killed_on_the_other_node_ends_the_training_in_words(site: Site, cluster: Cluster) -> None:
    from s3fs import S3FileSystem

    run = start(site, 5000, seed=3)
    try:
        _, other = at_work(cluster, run)
        started = trainings_in(other.folder)
        (worker,) = (number for number in started if psutil.Process(number).ppid() in started)  # by torchrun
        os.kill(worker, signal.SIGKILL)
        said, _ = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode != 0
    assert "ended with -9 and no word of why" in said, said[-6000:]
    # What the other node has printed is in the step's log.
    logs = S3FileSystem()
    printed = b"".join(logs.cat(path) for path in logs.find(f"{BUCKET}/dagster_logs"))
    assert b"(train_here" in printed, printed[-6000:]
    wait_until_free(cluster)


def test_options_are_fields_of_the_configuration() -> None:
    """`options_of` reads them by name before Dagster has checked the configuration."""
    from har_assets.graph.assets.training import TrainingConfig

    assert {"nodes", "devices", "rendezvous", "node_wait_s"} <= TrainingConfig.model_fields.keys()
    assert {"nodes", "rendezvous", "node_wait_s"} <= TrainingConfig.not_content


def test_each_entry_point_names_the_other_one(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    def start(module: str, request: TrainingRequest) -> tuple[int, str]:
        path = request.write(tmp_path / "request.json")
        done = subprocess.run(
            [sys.executable, "-m", module, str(path)], text=True, capture_output=True, check=False, timeout=100
        )
        assert "Traceback" not in done.stderr
        assert (tmp_path / ERROR_FILE).read_text() == done.stderr.removeprefix("error: ").rstrip("\n")
        return done.returncode, done.stderr

    status, said = start("har_assets.training", on_cluster(tmp_path, tiny_cache, tiny_spec))
    assert status == 1
    assert "asks for 3 nodes of a Ray cluster: start `python -m har_assets.cluster" in said
    status, said = start("har_assets.cluster", request_for(tmp_path, tiny_cache, tiny_spec))
    assert status == 1
    assert "asks for no nodes of a Ray cluster: start `python -m har_assets.training" in said


def test_local_projects_need_a_rendezvous(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    with pytest.raises(HarError, match="set rendezvous to host:port of one of them, a free port, or run on a Ray"):
        request_for(tmp_path, tiny_cache, tiny_spec, nodes=2)
