"""Removal of old versions from a bucket: what stays, who may read on, and what kills and a second prune leave."""

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from har_assets import settings
from har_assets.cli.doctor import finding
from har_assets.cli.doctor import project as project_checks
from har_assets.cluster.sharding import make_parts
from har_assets.errors import HarError, PassingError, StorageGoneError
from har_assets.graph import failures
from har_assets.graph.running.dead_runs import at_work_since
from har_assets.store import bucket_pruning, remote_lock
from har_assets.store.bucket import STAMP, ArtifactBucket, BucketArtifact
from har_assets.store.bucket_pruning import CONDEMNED_PREFIX, GRACE_HOURS, plan_bucket, prune_bucket
from har_assets.store.building import ProductKey, find_or_build
from har_assets.store.opening import open_store
from har_assets.store.product import Build, Product
from har_assets.store.protocol import Store
from har_assets.store.pruning import Candidate, Plan, Pruned
from har_assets.store.record import Artifact, describe_files
from har_assets.store.remote_folder import RemoteFolder
from har_assets.tracking.registry import Registered
from har_assets.tracking.run_log import RunLog
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


def plan_now(
    store: ArtifactBucket, *registered: Registered, grace: timedelta = NOW, since: float | None = None
) -> Plan:
    return plan_bucket(store, registered, keep=1, grace=grace, at_work_since=since)


def prune(store: ArtifactBucket, *registered: Registered, grace: timedelta = NOW, since: float | None = None) -> Pruned:
    return prune_bucket(store, lambda: plan_now(store, *registered, grace=grace, since=since))


def names(candidates: Iterable[Candidate]) -> set[str]:
    return {candidate.folder.name[:12].rstrip("_") for candidate in candidates}


def waiting(found: Plan | Pruned) -> dict[str, str]:
    """Version to the reason for which it may not go yet."""
    return {candidate.folder.name[:12].rstrip("_"): reason for candidate, reason in found.left}


def found(store: ArtifactBucket, asset: str, name: str) -> Artifact:
    artifact = store.find(asset, f"{name:_<64}")
    assert artifact
    return artifact


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


def test_a_version_goes_in_one_prune_once_it_was_superseded_for_the_grace_period(machines: Machines) -> None:
    one = machines["one"]
    for name in ("first", "second", "third"):
        publish(one, "onnx_model", name)
    before = machines.objects()
    plan = plan_now(machines["two"], grace=timedelta(hours=1))
    assert plan.candidates == ()
    due = datetime.now(UTC) + timedelta(hours=1)
    minutes = {f"{due - timedelta(minutes=ago):%Y-%m-%d %H:%M}" for ago in (0, 1)}
    for name in ("first", "second"):
        assert any(waiting(plan)[name] == f"it may go after {minute} UTC" for minute in minutes), waiting(plan)
    assert prune(machines["two"], grace=timedelta(hours=1)).removed == ()
    assert names(plan_now(machines["two"]).candidates) == {"first", "second"}
    assert machines.objects() == before, "a plan changes nothing"

    done = prune(machines["three"])
    assert [candidate.folder.name[:5] for candidate in done.removed] == ["secon", "first"], "the newest first"
    assert done.bytes == sum(candidate.bytes for candidate, _ in plan.left) > 0
    assert len(machines.objects()) == 4  # record, two files, latest
    assert whole(machines) == {"third"}
    assert prune(machines["two"]) == Pruned((), ())


def test_the_end_of_the_next_upload_supersedes_not_its_beginning(machines: Machines) -> None:
    """A run that begins while a large version is uploaded reads the one before it."""
    publish(machines["one"], "onnx_model", "old")
    record = make_record("onnx_model", f"{'new':_<64}", created="2026-02-01T00:00:00+00:00")
    long_ago = datetime.now(UTC) - timedelta(days=2)
    machines.put(f"onnx_model/new_________.{long_ago:{STAMP}}-aaaaaa/artifact.json", record.text().encode())
    machines.put("onnx_model/latest", f"new_________.{long_ago:{STAMP}}-aaaaaa\n".encode())
    assert set(waiting(plan_now(machines["one"], grace=timedelta(hours=1)))) == {"old"}


def test_what_a_version_was_made_from_waits_with_it(machines: Machines) -> None:
    one = machines["one"]
    publish(one, "trained_checkpoint", "ckpt1")
    publish(one, "trained_checkpoint", "ckpt2")
    time.sleep(1.1)
    publish(one, "onnx_model", "onnx1", inputs={"trained_checkpoint": "ckpt1"})
    publish(one, "onnx_model", "onnx2", inputs={"trained_checkpoint": "ckpt2"})
    grace = timedelta(seconds=1)
    plan = plan_now(one, grace=grace)
    assert set(waiting(plan)) == {"onnx1", "ckpt1"}
    assert waiting(plan)["ckpt1"].endswith("was made from it")
    time.sleep(1.1)
    assert [candidate.folder.name[:5] for candidate in prune(one, grace=grace).removed] == ["onnx1", "ckpt1"]


def test_what_is_needed_stays(machines: Machines) -> None:
    one = machines["one"]
    for number in range(1, 6):
        publish(one, "frame_cache", f"cache{number}")
        publish(one, "trained_checkpoint", f"ckpt{number}", inputs={"frame_cache": f"cache{number}"})
    publish(one, "onnx_model", "onnx2", inputs={"trained_checkpoint": "ckpt2"})
    publish(one, "onnx_model", "onnx9")
    one.point_to(found(one, "trained_checkpoint", "ckpt3"))
    inside = one.below("split_evaluation/2")
    inside.point_to(found(inside, "frame_cache", "cache1"))
    for number in range(2):
        publish(inside, "train_manifest", f"manifest{number}")
    champion = Registered("har_video_action", "1", "onnx2", "champion")
    prune(machines["two"], champion)
    assert whole(machines) == {"onnx2", "onnx9", "ckpt2", "cache2", "ckpt3", "cache3", "ckpt5", "cache5", "cache1"} | {
        "manifest1"
    }
    with pytest.raises(HarError, match="choose 1 or more"):
        plan_bucket(one, keep=0)


def at_request(monkeypatch: pytest.MonkeyPatch, request: str, path: str, first: Callable[[], object]) -> None:
    """Do something once, right before the first request of this kind for a path that ends so."""
    real, waiting_for_it = getattr(RemoteFolder, request), [True]

    def at(self: RemoteFolder, *arguments: Any) -> Any:
        paths = arguments[0] if isinstance(arguments[0], list) else [arguments[0]]
        if waiting_for_it and any(each.endswith(path) for each in paths):
            waiting_for_it.clear()
            first()
        return real(self, *arguments)

    monkeypatch.setattr(RemoteFolder, request, at)


@pytest.mark.parametrize(
    ("request_", "path"),
    [("read_object", "/artifact.json"), ("remove_objects", "/artifact.json")],
    ids=["before the record is read", "before the record is removed"],
)
def test_a_version_that_is_found_again_while_it_goes_stays(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, request_: str, path: str
) -> None:
    old = publish(machines["one"], "onnx_model", "old")
    publish(machines["one"], "onnx_model", "new")
    pruner = machines["pruner"]
    pruner.latest("onnx_model")
    plan = plan_now(pruner)
    assert names(plan.candidates) == {"old"}
    time.sleep(1.1)  # the times of objects are told by the second
    at_request(monkeypatch, request_, path, lambda: machines["two"].point_to(old))
    done = prune_bucket(pruner, lambda: plan)
    assert done.removed == ()
    assert waiting(done) == {"old": "it is in use again"}
    assert machines["three"].latest("onnx_model") == old
    assert whole(machines) == {"old", "new"}


def test_a_version_that_was_found_again_since_the_plan_is_not_touched(machines: Machines) -> None:
    old = publish(machines["one"], "onnx_model", "old")
    publish(machines["one"], "onnx_model", "new")
    plan = plan_now(machines["two"])
    time.sleep(1.1)  # the times of objects are told by the second
    machines["three"].point_to(old)
    before = machines["one"].remote.objects("onnx_model")
    time.sleep(1.1)
    assert waiting(prune_bucket(machines["two"], lambda: plan)) == {"old": "it is in use again"}
    assert machines["one"].remote.objects("onnx_model") == before


def test_whoever_finds_a_version_too_late_is_told_so_and_latest_stays(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish(machines["one"], "onnx_model", "old")
    publish(machines["one"], "onnx_model", "new")
    at_request(monkeypatch, "write_object", "/.reused", lambda: prune(machines["two"]))
    with pytest.raises(
        StorageGoneError, match=r"onnx_model/old.* was removed by a prune .*: run the same command again"
    ):
        machines["one"].point_to(old)
    assert machines["three"].latest("onnx_model").record.data_version == "new"
    assert whole(machines) == {"new"}
    assert len(machines.objects()) == 4


def test_a_version_without_a_record_is_none_also_where_a_copy_of_it_is(machines: Machines) -> None:
    """So a killed prune leaves it."""
    old = publish(machines["one"], "onnx_model", "old")
    publish(machines["one"], "onnx_model", "new")
    assert old.folder.is_dir()
    machines["two"].remote.remove_objects([f"{old.address.removeprefix(machines.address + '/')}/artifact.json"])
    assert machines["one"].find("onnx_model", old.record.key) is None
    assert [version.record.data_version for version in machines["one"].versions("onnx_model")] == ["new"]


def test_a_step_whose_version_goes_when_it_has_found_it_builds_it_anew(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "RETRY_PAUSES_S", (0.0,) * len(failures.RETRY_PAUSES_S))
    store, built = machines["one"], []

    def build(into: Build) -> Product:
        built.append(into)
        (into.folder / "model.onnx").write_text(f"build {len(built)}")
        return Product("a model")

    @contextlib.contextmanager
    def no_run(lineage: dict[str, Any]) -> Iterator[RunLog]:
        yield RunLog(None)

    def make(content: str) -> Artifact:
        key = ProductKey("onnx_model", "1", {"precision": content})
        return find_or_build(store, key, build, options={}, run=no_run, log=lambda line: None)[0]

    @dg.asset
    def onnx_model() -> None:
        with failures.failures_in_words():
            make("fp32")

    make("fp32")
    time.sleep(1.1)  # records are dated by the second
    make("fp16")
    plan = plan_now(machines["two"])
    assert len(plan.candidates) == 1
    time.sleep(1.1)
    at_request(monkeypatch, "write_object", "/.reused", lambda: prune_bucket(machines["two"], lambda: plan))
    assert dg.materialize([onnx_model]).success
    assert len(built) == 3
    assert machines["three"].latest("onnx_model").file("model.onnx").read_text() == "build 3"


@pytest.mark.parametrize("inside", [False, True], ids=["this store", "a store inside"])
def test_a_version_that_was_latest_again_was_superseded_when_latest_moved_on(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    monkeypatch.setattr(bucket_pruning, "CLOCKS_S", 0.0)
    one = machines["one"]
    publish(one, "frame_cache", "old")
    publish(one, "frame_cache", "new")
    store = one.below("split_evaluation/2") if inside else one
    store.point_to(found(store, "frame_cache", "old"))
    time.sleep(1.1)  # the times of objects are told by the second
    if inside:
        publish(one, "frame_cache", "newer")
        time.sleep(1.1)
    began = time.time()  # a run that reads `old`, as `latest` says
    time.sleep(1.1)
    store.point_to(found(store, "frame_cache", "new"))
    assert "old" in waiting(plan_now(one, since=began)), "a run is at work that began before latest moved on"
    assert prune(one, since=began).removed == ()
    assert "old" in names(prune(one, since=time.time()).removed)


def test_parts_that_a_run_takes_over_stay_while_it_is_at_work(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_pruning, "CLOCKS_S", 0.0)
    for name in ("one", "two", "three"):
        publish(machines["one"], "some_part", name)
    time.sleep(1.1)  # the times of objects are told by the second
    began = time.time()
    assert names(plan_now(machines["one"], since=began).candidates) == {"one", "two"}
    time.sleep(1.1)
    shards = {f"{name:_<64}": ["wave/clip.avi"] for name in ("one", "two")}
    make_parts("some_part", shards, pytest.fail, store=machines["two"], wanted={}, log=lambda line: None)  # type: ignore[arg-type]
    assert plan_now(machines["one"], since=began).candidates == ()


def test_latest_is_not_written_again_where_it_says_so_already(machines: Machines) -> None:
    """Its time would be younger, and what it named before would have to wait."""
    only = publish(machines["one"], "onnx_model", "only")
    before = machines["one"].remote.objects()
    machines["two"].point_to(only)
    assert machines["one"].remote.objects() == before


def test_marks_of_earlier_releases_hide_nothing_and_are_removed(machines: Machines) -> None:
    one = machines["one"]
    for name in ("by alias", "by lineage", "by none", "last"):
        old = publish(one, "onnx_model", name)
        place = f"onnx_model/{CONDEMNED_PREFIX}{old.address.rpartition('/')[2]}"
        machines.put(place, json.dumps({"since": "2026-01-01T00:00:00+00:00"}).encode())
    publish(one, "trt_engine", "engine", inputs={"onnx_model": "by lineage"})
    assert found(machines["two"], "onnx_model", "by lineage").folder.is_dir()
    assert len(machines["two"].versions("onnx_model")) == 4
    done = prune(one, Registered("har_video_action", "1", "by alias", "champion"))
    assert names(done.removed) == {"by none"}
    assert not [path for path in machines.objects() if CONDEMNED_PREFIX in path]
    assert whole(machines) == {"by alias", "by lineage", "last", "engine"}


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
        assert prune(machines["one"], since=since).removed == ()
        monkeypatch.setattr(bucket_pruning, "CLOCKS_S", 0.0)
        (reason,) = waiting(plan_now(machines["one"], since=since - 30)).values()
        assert reason.startswith("a run is at work that began before it was superseded (20")
        assert prune(machines["one"], since=since - 30).removed == ()
        assert names(prune(machines["one"], since=since).removed) == {"old"}, "that run began after it"
        instance.report_run_failed(run)
        assert at_work_since(instance) is None


def test_a_reader_that_comes_too_late_is_told_so_and_one_with_a_copy_reads_on(machines: Machines) -> None:
    publish(machines["one"], "onnx_model", "old")
    late, early = machines["late"].latest("onnx_model"), machines["early"].latest("onnx_model")
    assert early.folder.is_dir()
    publish(machines["one"], "onnx_model", "new")
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


QUICK = {"BEAT_S": 0.2, "LOST_S": 2.0, "LOOK_S": 0.05}
"""Times of the lock, so that what follows a kill does not wait for a minute."""

PRUNES = f"""
import time
from datetime import timedelta
from pathlib import Path
from har_assets.store import remote_lock
from har_assets.store.bucket_pruning import plan_bucket, prune_bucket
vars(remote_lock).update({QUICK})
def plan():
    plan = plan_bucket(store, keep=1, grace=timedelta(seconds=float(sys.argv[3])))
    print("begins", flush=True)
    return plan
"""


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_half_there_is_listed(
    times: int, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(times)
    cut_short = 0
    for attempt in range(times):
        for number in range(6):
            publish(machines["one"], f"asset{number % 2}", f"{attempt:02d}{number:02d}")
        process = machines.start("two", PRUNES + "prune_bucket(store, plan)", "0")
        assert process.stdout
        assert process.stdout.readline() == "begins\n"
        time.sleep(rng.uniform(0.0, 0.6))
        process.kill()
        process.communicate()
        cut_short += bool(process.returncode)
        whole(machines)
    assert cut_short
    time.sleep(1.1)
    for number in range(2):
        publish(machines["one"], f"asset{number}", f"last{number}")  # supersedes the rests
    for name, value in QUICK.items():
        monkeypatch.setattr(remote_lock, name, value)
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
    code = PRUNES + "while not Path(sys.argv[4]).exists(): prune_bucket(store, plan)"
    stop = machines.folder / "stop"
    prunes = [machines.start(f"pruner{number}", code, "5", str(stop)) for number in range(2)]
    others = [machines.start(f"reader{number}", BUSY, str(number), str(turns)) for number in range(2)]
    said = [process.communicate(timeout=300)[0] for process in others]
    assert [process.returncode for process in others] == [0, 0], said
    stop.touch()
    told = [process.communicate(timeout=60)[0] for process in prunes]
    assert [process.returncode for process in prunes] == [0, 0], told
    whole(machines)
    prune(machines["one"])
    listed = [version for asset in ("source", "product") for version in machines["checker"].versions(asset)]
    sources = {version.record.data_version for version in listed if version.record.asset == "source"}
    products = [version for version in listed if version.record.asset == "product"]
    assert 1 <= len(products) <= 2, "the newest, and the latest"
    assert all(product.record.inputs["source"] in sources for product in products), "a lineage is gone"
    assert len(machines.objects()) == sum(len(version.record.files) + 1 for version in listed) + 2


@pytest.fixture
def machines_long_ago(machines: Machines) -> Iterator[Machines]:
    """Machines whose bucket has a clock that is more than the grace period late: what they write is as old."""
    with s3_server(clock_s=-3600 * (GRACE_HOURS + 1)) as server:
        for name, value in server.environment.items():
            os.environ[name] = value  # which the fixture `machines` sets back
        from s3fs import S3FileSystem

        S3FileSystem.clear_instance_cache()
        yield Machines(server, machines.folder)


def test_the_command_shows_what_goes_and_what_waits_and_removes(machines_long_ago: Machines, tmp_path: Path) -> None:
    machines = machines_long_ago
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

    shown = har_prune("--grace-hours", str(GRACE_HOURS + 2))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("    left  onnx_model onnx") == shown.stdout.count(": it may go after ") == 2
    assert "Nothing may go. 2 may not go yet. The store holds " in shown.stdout
    assert "Nothing was changed" not in shown.stdout
    shown = har_prune()
    assert shown.stdout.count("B  onnx_model onnx") == 2
    assert re.search(r"^2 may go and free 2\.\d kB\. The store holds 3\.\d kB of", shown.stdout, re.MULTILINE)
    assert "of a quota of 1.0 GB; 1 versions stay." in shown.stdout
    assert "Nothing was changed: the same command with --yes does it." in shown.stdout
    assert len(machines.objects()) == 10
    facts = json.loads(har_prune("--yes", "--json").stdout)
    assert len(facts["removed"]) == len(facts["candidates"]) == 2
    assert whole(machines) == {"onnx2"}
    (tmp_path / "elsewhere").mkdir()
    refused = har_prune(folder=tmp_path / "elsewhere")
    assert refused.returncode == 1
    assert "has no dagster.yaml" in refused.stderr


def test_the_job_removes_and_looks_at_its_own_instance(
    machines_long_ago: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from har_assets.graph.ops.prune import prune_artifacts
    from har_assets.graph.resources.mlflow import MlflowTracking
    from har_assets.graph.resources.store import ArtifactStore

    machines = machines_long_ago
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
    assert len(handled.step_output_data.metadata["what"].value) == 3  # with the work
    assert len(machines.objects()) == len(before) - 2 * 3
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
