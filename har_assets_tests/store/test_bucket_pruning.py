"""Removal of old versions from a bucket: what stays, who may read on, and what kills and a second prune leave."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from har_assets import settings
from har_assets.cli.doctor import finding
from har_assets.cli.doctor import project as project_checks
from har_assets.errors import HarError, PassingError, StorageGoneError
from har_assets.graph.running.dead_runs import at_work_since
from har_assets.store import bucket_pruning
from har_assets.store.bucket import CONDEMNED_PREFIX, ArtifactBucket, BucketArtifact
from har_assets.store.bucket_pruning import GRACE_HOURS, Condemned, Doomed, plan_bucket, prune_bucket
from har_assets.store.opening import open_store
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact, describe_files
from har_assets.store.remote_folder import RemoteFolder
from har_assets.tracking.registry import Registered
from har_assets_tests.project import Project
from har_assets_tests.published import make_record
from har_assets_tests.s3_server import S3Server, s3_server
from har_assets_tests.store.test_bucket import Machines

pytest.importorskip("s3fs", reason="no s3fs: `pip install 'har_assets[cluster]'`")
pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")

NOW = timedelta(0)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def machines(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    from s3fs import S3FileSystem

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(settings.STORE_QUOTA, raising=False)
    S3FileSystem.clear_instance_cache()
    yield Machines(server, tmp_path)
    S3FileSystem.clear_instance_cache()


made = iter(range(10**6))


def publish(store: Store, asset: str, name: str, **fields: object) -> Artifact:
    """A version whose key and data version are readable, younger than all before it."""
    number = next(made)
    created = f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}+00:00"
    record = make_record(asset, f"{name:_<64}", data_version=name, created=created)
    with store.staging(asset) as folder:
        (folder / "product.bin").write_bytes(name.encode() * 100)
        (folder / "inside").mkdir()
        (folder / "inside" / "more [1].bin").write_bytes(b"x" * 50)
        return store.publish(folder, replace(record, files=describe_files(folder), **fields))  # type: ignore[arg-type]


def prune(
    store: ArtifactBucket, *registered: Registered, keep: int = 1, grace: timedelta = NOW, since: float | None = None
) -> Condemned:
    return prune_bucket(store, lambda: plan_bucket(store, registered, keep=keep, grace=grace, at_work_since=since))


def names(versions: tuple[Doomed, ...]) -> set[str]:
    return {doomed.place.rpartition("/")[2][:12].rstrip("_") for doomed in versions}


def whole(machines: Machines, reader: str = "checker") -> set[str]:
    """Keys of versions that are listed, by a machine that has no copies: all of them can be read, and are right."""
    shutil.rmtree(machines.folder / reader, ignore_errors=True)
    store = machines[reader]
    listing = store.remote.listing()
    found = set()
    for path in listing:
        home, _, name = path.rpartition("/")
        if name == "latest":
            latest = store.find_latest(home)
            assert latest is not None, f"{path} leads nowhere"
            assert describe_files(latest.folder) == latest.record.files
            for version in store.versions(home):
                assert describe_files(version.folder) == version.record.files
                found.add(version.record.key.rstrip("_"))
    return found


def test_a_version_is_condemned_by_one_prune_and_removed_by_one_after_the_grace_period(machines: Machines) -> None:
    one = machines["one"]
    for name in ("first", "second", "third"):
        publish(one, "onnx_model", name)
    before = machines.objects()
    plan = plan_bucket(machines["two"], keep=1)
    assert (names(plan.condemn), plan.remove, plan.waiting) == ({"first", "second"}, (), ())
    assert plan.bytes == sum(one.remote.listing().values())
    assert machines.objects() == before, "a plan changes nothing"

    done = prune(machines["two"], grace=timedelta(hours=1))
    assert (names(done.condemned), done.removed) == ({"first", "second"}, ())
    assert set(before) < set(machines.objects())
    plan = plan_bucket(machines["three"], keep=1, grace=timedelta(hours=1))
    assert (plan.condemn, names(plan.waiting), plan.remove) == ((), {"first", "second"}, ())
    assert all("it may go after" in doomed.waits for doomed in plan.waiting)

    done = prune(machines["three"])
    assert names(done.removed) == {"first", "second"}
    assert done.bytes == sum(doomed.bytes for doomed in plan.waiting) > 0
    assert len(machines.objects()) == 4  # record, two files, latest
    assert whole(machines) == {"third"}
    assert prune(machines["two"]) == Condemned((), (), ())


def test_what_is_needed_stays(machines: Machines) -> None:
    one = machines["one"]
    for number in range(1, 6):
        publish(one, "frame_cache", f"cache{number}")
        publish(one, "trained_checkpoint", f"ckpt{number}", inputs={"frame_cache": f"cache{number}"})
    publish(one, "onnx_model", "onnx2", inputs={"trained_checkpoint": "ckpt2"})
    publish(one, "onnx_model", "onnx9")
    third = one.find("trained_checkpoint", f"{'ckpt3':_<64}")
    assert third
    one.point_to(third)
    inside = one.below("split_evaluation/2")
    borrowed = inside.find("frame_cache", f"{'cache1':_<64}")
    assert borrowed
    inside.point_to(borrowed)
    for number in range(2):
        publish(inside, "train_manifest", f"manifest{number}")
    champion = Registered("har_video_action", "1", "onnx2", "champion")
    for _ in range(2):
        prune(machines["two"], champion)
    assert whole(machines) == {"onnx2", "onnx9", "ckpt2", "cache2", "ckpt3", "cache3", "ckpt5", "cache5", "cache1"} | {
        "manifest1"
    }
    with pytest.raises(HarError, match="choose 1 or more"):
        plan_bucket(one, keep=0)


def test_nothing_new_comes_to_rest_on_a_condemned_version_and_who_has_it_reads_on(machines: Machines) -> None:
    old = publish(machines["one"], "onnx_model", "old")
    held = machines["two"].latest("onnx_model")
    publish(machines["one"], "onnx_model", "new")
    prune(machines["three"])
    assert machines["two"].find("onnx_model", old.record.key) is None
    assert machines["one"].find("onnx_model", old.record.key) is None, "its copy is here, and it is going all the same"
    assert [version.record.data_version for version in machines["two"].versions("onnx_model")] == ["new"]
    assert held.file("product.bin").read_bytes() == b"old" * 100


def test_a_condemned_version_that_is_needed_after_all_is_pardoned(machines: Machines) -> None:
    one = machines["one"]
    for name in ("by alias", "by lineage", "by latest", "by none", "last"):
        publish(one, "onnx_model", name)
    by_latest = one.find("onnx_model", f"{'by latest':_<64}")
    assert by_latest
    prune(one)
    publish(one, "trt_engine", "engine", inputs={"onnx_model": "by lineage"})
    machines["two"].point_to(by_latest)
    done = prune(one, Registered("har_video_action", "1", "by alias", "champion"))
    assert names(done.removed) == {"by none"}
    assert len(done.pardoned) == 3
    assert not [path for path in machines.objects() if CONDEMNED_PREFIX in path]
    assert whole(machines) == {"by alias", "by lineage", "by latest", "last", "engine"}


@dg.job
def nothing() -> None:
    """A run of it is at work as long as nobody says how it ended."""


def test_nothing_goes_while_a_run_is_at_work_that_began_before(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        publish(machines["one"], "onnx_model", name)
    with dg.DagsterInstance.ephemeral() as instance:
        assert at_work_since(instance) is None
        time.sleep(1.1)  # times are told by the second
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        since = at_work_since(instance)
        assert since == pytest.approx(time.time(), abs=60)
        assert prune(machines["one"], since=since).condemned == (), "it may be a part of what that run makes"
        monkeypatch.setattr(bucket_pruning, "CLOCKS_S", 0.0)
        time.sleep(1.1)
        assert names(prune(machines["one"], since=since).condemned) == {"old"}
        plan = plan_bucket(machines["one"], keep=1, grace=NOW, at_work_since=since)
        assert [doomed.waits for doomed in plan.waiting] == ["a run is at work that began before it was condemned"]
        assert prune(machines["one"], since=since).removed == ()
        instance.report_run_failed(run)
        assert names(prune(machines["one"], since=at_work_since(instance)).removed) == {"old"}


def test_a_reader_that_comes_too_late_is_told_so_and_one_with_a_copy_reads_on(machines: Machines) -> None:
    publish(machines["one"], "onnx_model", "old")
    late, early = machines["late"].latest("onnx_model"), machines["early"].latest("onnx_model")
    assert early.folder.is_dir()
    publish(machines["one"], "onnx_model", "new")
    for _ in range(2):
        prune(machines["one"])
    with pytest.raises(StorageGoneError, match=r"was removed by a prune .*: run the same command again") as error:
        _ = late.folder
    assert isinstance(error.value, PassingError), "a step is tried again, with the newest version"
    assert "\n" not in str(error.value)
    assert not list((machines.folder / "late/onnx_model").glob(".fetching-*"))
    assert machines["late"].latest("onnx_model").file("product.bin").read_bytes() == b"new" * 100
    assert early.file("product.bin").read_bytes() == b"old" * 100


def test_a_pointer_that_moves_while_its_version_goes_is_read_again(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        publish(machines["one"], "onnx_model", name)
    for _ in range(2):
        prune(machines["one"])
    read, stale = RemoteFolder.read_object, iter([b"old_________.20260101T000000-000000\n"])
    monkeypatch.setattr(
        RemoteFolder,
        "read_object",
        lambda self, path: next(stale, None) or read(self, path) if path.endswith("latest") else read(self, path),
    )
    assert machines["two"].latest("onnx_model").record.data_version == "new"


def test_rests_go_and_uploads_under_way_stay(machines: Machines) -> None:
    publish(machines["one"], "onnx_model", "kept")
    machines.put("onnx_model/cccccccccccc.20200101T000000-000000/model.onnx", b"half")
    machines.put("onnx_model/dddddddddddd.20990101T000000-000000/model.onnx", b"being uploaded")
    machines.put(f"onnx_model/{CONDEMNED_PREFIX}eeeeeeeeeeee.20260101T000000-000000", b"of nothing")
    machines.put("notes/latest.txt", b"somebody's own")
    machines.put("README", b"somebody's own")
    prune(machines["one"])
    assert {path for path in machines.objects() if "kept" not in path} == {
        "onnx_model/latest",
        "onnx_model/dddddddddddd.20990101T000000-000000/model.onnx",
        "notes/latest.txt",
        "README",
    }


KILLED = """
from datetime import timedelta
from har_assets.store.bucket_pruning import plan_bucket, prune_bucket
store.remote.listing(); print("begins", flush=True)
for _ in range(2):
    prune_bucket(store, lambda: plan_bucket(store, keep=1, grace=timedelta(0)))
"""


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_half_there_is_listed(times: int, machines: Machines) -> None:
    rng = random.Random(times)
    cut_short = 0
    for attempt in range(times):
        for number in range(6):
            publish(machines["one"], f"asset{number % 2}", f"{attempt:02d}{number:02d}")
        process = machines.start("two", KILLED)
        assert process.stdout
        assert process.stdout.readline() == "begins\n"
        time.sleep(rng.uniform(0.0, 0.6))
        process.kill()
        process.communicate()
        cut_short += bool(process.returncode)
        whole(machines)
    assert cut_short
    for _ in range(2):
        prune(machines["three"])
    assert len(whole(machines)) == 2
    assert len(machines.objects()) == 2 * 4, machines.objects()


BUSY = """
import random, time
from dataclasses import replace
from har_assets.store.record import describe_files
from har_assets.errors import StorageGoneError
number, late = sys.argv[3], 0
for turn in range(int(sys.argv[4])):
    source = store.latest("source")
    try:
        assert describe_files(source.folder) == source.record.files, "a mixed version"
    except StorageGoneError:
        late += 1
        continue
    for asset, inputs in (("source", {}), ("product", {"source": source.record.data_version})):
        with store.staging(asset) as folder:
            (folder / "a.bin").write_bytes(random.randbytes(1000))
            key = f"{random.getrandbits(240):064x}"
            record = make_record(asset, key, data_version=key, inputs=inputs, created=f"2026-01-01T00:00:{turn:06d}")
            store.publish(folder, replace(record, files=describe_files(folder)))
print(late)
"""


@pytest.mark.parametrize("turns", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_two_prunes_at_once_while_others_read_and_publish(turns: int, machines: Machines) -> None:
    """With a grace period of five seconds, longer than anybody here takes from reading to publishing."""
    publish(machines["one"], "source", "first")
    code = "import time; from pathlib import Path\n" + KILLED.replace(
        "for _ in range(2):", "while not Path(sys.argv[3]).exists():"
    ).replace("timedelta(0)", "timedelta(seconds=5)")
    stop = machines.folder / "stop"
    prunes = [machines.start(f"pruner{number}", code, str(stop)) for number in range(2)]
    others = [machines.start(f"reader{number}", BUSY, str(number), str(turns)) for number in range(2)]
    said = [process.communicate(timeout=300)[0] for process in others]
    assert [process.returncode for process in others] == [0, 0], said
    stop.touch()
    told = [process.communicate(timeout=60)[0] for process in prunes]
    assert [process.returncode for process in prunes] == [0, 0], told
    whole(machines)
    for _ in range(2):
        prune(machines["one"])
    listed = [version for asset in ("source", "product") for version in machines["checker"].versions(asset)]
    sources = {version.record.data_version for version in listed if version.record.asset == "source"}
    products = [version for version in listed if version.record.asset == "product"]
    assert 1 <= len(products) <= 2, "the newest, and the latest"
    assert all(product.record.inputs["source"] in sources for product in products), "a lineage is gone"
    assert len(machines.objects()) == sum(len(version.record.files) + 1 for version in listed) + 2


def test_the_command_shows_condemns_and_removes(machines: Machines, tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    for number in range(3):
        publish(machines["one"], "onnx_model", f"onnx{number}", headline="fp32")
    environment = {
        **project.environment,
        **machines.server.environment,
        settings.ARTIFACTS: machines.address,
        settings.STORE_QUOTA: "1 GB",
    }

    def har_prune(*arguments: str, folder: Path = project.folder) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "har_assets.cli", "prune", "--keep", "1", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    shown = har_prune()
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("may be condemned") == 2
    assert "To do: 2 condemned, 0 waiting, 0 removed" in shown.stdout
    assert "of a quota of 1.0 GB" in shown.stdout
    assert "Nothing was changed: the same command with --yes does it." in shown.stdout
    assert len(machines.objects()) == 10
    facts = json.loads(har_prune("--yes", "--json").stdout)
    assert len(facts["condemned"]) == 2
    long_ago = (datetime.now(UTC) - timedelta(hours=GRACE_HOURS + 1)).isoformat()
    for doomed in facts["condemned"]:
        home, _, name = doomed["place"].rpartition("/")
        machines.put(f"{home}/{CONDEMNED_PREFIX}{name}", json.dumps({"since": long_ago}).encode())
    done = har_prune("--yes")
    assert done.stdout.count(": removed") == 2
    assert "0 condemned, 0 waiting, 2 removed" in done.stdout
    assert whole(machines) == {"onnx2"}
    (tmp_path / "elsewhere").mkdir()
    refused = har_prune(folder=tmp_path / "elsewhere")
    assert refused.returncode == 1
    assert "has no dagster.yaml" in refused.stderr


def test_the_job_condemns_and_removes_and_looks_at_its_own_instance(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from har_assets.graph.ops.prune import prune_artifacts
    from har_assets.graph.resources.mlflow import MlflowTracking
    from har_assets.graph.resources.store import ArtifactStore

    monkeypatch.setenv(settings.ARTIFACTS, machines.address)
    for number in range(5):
        publish(machines["one"], "onnx_model", f"onnx{number}")
    old_work = tmp_path / "artifacts" / "trained_checkpoint" / ".work-aaaaaaaaaaaa"
    old_work.mkdir(parents=True)
    os.utime(old_work, (0, 0))
    resources = {"store": ArtifactStore(project=str(tmp_path)), "mlflow": MlflowTracking(tracking_uri="")}
    before = machines.objects()
    assert prune_artifacts.execute_in_process(resources=resources).success
    assert machines.objects() == before
    assert old_work.exists()
    config = {"ops": {"prune_store": {"config": {"remove": True}}}}
    result = prune_artifacts.execute_in_process(resources=resources, run_config=config)
    (handled,) = [event for event in result.all_events if event.is_successful_output]
    assert len(handled.step_output_data.metadata["condemned"].value) == 2
    assert len(machines.objects()) == len(before) + 2
    assert not old_work.exists()


def test_the_quota_of_a_bucket_refuses_before_anything_is_uploaded(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(machines["one"], "onnx_model", "first")
    used = sum(machines["one"].remote.listing().values())

    def of(size: int) -> Store:
        return open_store(machines.address, machines.folder / "one", quota=f"{size} B")

    before = machines.objects()
    with pytest.raises(HarError, match=r"onnx_model is not published, as s3://.*: run `har prune`.*HAR_STORE_QUOTA"):
        publish(of(used + 10), "onnx_model", "second")
    with pytest.raises(HarError, match="run `har prune`"), of(used - 1).below("split_evaluation/1").staging("x"):
        pytest.fail("the work has begun")
    assert machines.objects() == before
    monkeypatch.setenv(settings.ARTIFACTS, machines.address)
    for size, expected in ((used * 20, "ok"), (used + 10, "warning"), (used - 1, "problem")):
        monkeypatch.setenv(settings.STORE_QUOTA, str(size))
        found = project_checks.check_quota(machines.folder)
        assert isinstance(found, finding.Finding)
        assert found.state == expected
    monkeypatch.setenv(settings.STORE_QUOTA, "1 GB")
    assert isinstance(
        publish(open_store(machines.address, machines.folder / "one"), "onnx_model", "second"), BucketArtifact
    )
