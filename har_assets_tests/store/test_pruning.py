"""Removal of old versions: what stays, what a kill leaves, and that nobody loses what he reads."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from har_assets.errors import HarError
from har_assets.store.folder import ArtifactFolder
from har_assets.store.pruning import Plan, plan_pruning, prune
from har_assets.store.record import Artifact, FolderArtifact, describe_files
from har_assets.system.locks import FolderLock
from har_assets.tracking.registry import Registered
from har_assets_tests.project import REPOSITORY, Project
from har_assets_tests.published import make_record


def publish(store: ArtifactFolder, asset: str, name: str, **fields: object) -> Artifact:
    """A version whose key and data version are readable; each is a second younger than the one before it."""
    made = sum(1 for _ in store.root.glob("*/*/artifact.json"))
    record = make_record(asset, f"{name:_<64}", data_version=name, created=f"2026-01-01T00:00:{made:02d}+00:00")
    with store.staging(asset) as folder:
        (folder / "product.bin").write_bytes(name.encode() * 1000)
        found = store.publish(folder, replace(record, files=describe_files(folder), **fields))  # type: ignore[arg-type]
    assert isinstance(found, FolderArtifact)
    assert found.lock
    found.lock.release()
    return found


def names(plan: Plan) -> set[str]:
    return {candidate.folder.name.rstrip("_") for candidate in plan.candidates}


def remove(store: ArtifactFolder, registered: tuple[Registered, ...] = (), keep: int = 1) -> list[str]:
    """Prune; the reasons of what was left."""

    def plan_now(going: frozenset[Path] | None = None) -> Plan:
        return plan_pruning(store.root, registered, keep=keep, going=going)

    return [reason for _, reason in prune(plan_now(), plan_now).left]


def whole(store: ArtifactFolder) -> set[str]:
    """Versions that are there; each has to be complete and right, and every `latest` has to lead to one."""
    found = set()
    for home in store.root.iterdir():
        if not home.is_dir() or home.name == "split_evaluation":
            continue
        for folder in home.iterdir():
            if folder.name.startswith(".") or folder.is_symlink():
                continue
            artifact = FolderArtifact.read(folder)
            assert artifact, f"{folder} is half there"
            assert describe_files(folder) == artifact.record.files
            found.add(folder.name.rstrip("_"))
        if (home / "latest").is_symlink():
            assert (home / "latest" / "artifact.json").is_file()
    return found


@pytest.fixture
def store(tmp_path: Path) -> ArtifactFolder:
    return ArtifactFolder(tmp_path / "artifacts")


def test_the_latest_the_newest_and_what_they_were_made_from_stay(store: ArtifactFolder) -> None:
    for number in range(1, 6):
        publish(store, "frame_cache", f"cache{number}")
        publish(store, "trained_checkpoint", f"ckpt{number}", inputs={"frame_cache": f"cache{number}"})
    # The only ONNX model is one of the second checkpoint; the pointer of that one was set back to the third.
    publish(store, "onnx_model", "onnx2", inputs={"trained_checkpoint": "ckpt2"})
    third = store.find("trained_checkpoint", f"{'ckpt3':_<64}")
    assert third
    store.point_to(third)
    del third

    plan = plan_pruning(store.root, keep=1)
    assert names(plan) == {"cache1", "ckpt1", "cache4", "ckpt4"}
    assert plan.bytes == sum(1000 * len(name) for name in names(plan)) + sum(
        (candidate.folder / "artifact.json").stat().st_size for candidate in plan.candidates
    )
    assert whole(store) >= {"cache1", "ckpt1"}, "a plan changes nothing"

    assert remove(store) == []
    assert whole(store) == {"cache2", "ckpt2", "onnx2", "cache3", "ckpt3", "cache5", "ckpt5"}
    assert store.latest("trained_checkpoint").record.data_version == "ckpt3"
    assert not list(store.root.glob("*/.trash*"))
    assert names(plan_pruning(store.root, keep=1)) == set()


def test_keep_counts_the_newest_of_each_asset(store: ArtifactFolder) -> None:
    for number in range(5):
        publish(store, "class_index", f"index{number}")
    assert names(plan_pruning(store.root, keep=3)) == {"index0", "index1"}
    with pytest.raises(HarError, match="choose 1 or more"):
        plan_pruning(store.root, keep=0)


def test_an_alias_keeps_its_model_its_test_and_their_lineage(store: ArtifactFolder) -> None:
    for number in range(4):
        publish(store, "trained_checkpoint", f"ckpt{number}")
        publish(store, "onnx_model", f"onnx{number}", inputs={"trained_checkpoint": f"ckpt{number}"})
        for again in "ab":
            publish(store, "test_predictions", f"test{number}{again}", inputs={"onnx_model": f"onnx{number}"})
        registered = {"name": "har_video_action", "version": str(number)}
        publish(
            store,
            "serving_model",
            f"served{number}",
            inputs={"onnx_model": f"onnx{number}"},
            metadata={"registered": registered},
        )
    aliases = (Registered("har_video_action", "1", "onnx1", "champion"), Registered("other", "2", "", "best"))
    assert remove(store, aliases) == []
    assert whole(store) == {f"{name}{n}" for n in (1, 3) for name in ("ckpt", "onnx", "served")} | {"test1b", "test3b"}


def test_a_store_inside_the_store_is_pruned_and_keeps_what_it_borrows(store: ArtifactFolder) -> None:
    inside = ArtifactFolder(store.root / "split_evaluation" / "2")
    for number in range(3):
        publish(store, "class_index", f"index{number}")
        publish(inside, "train_manifest", f"manifest{number}")
    # As a store does that takes a version from another one.
    (inside.root / "class_index").mkdir()
    (inside.root / "class_index" / "latest").symlink_to(f"../../../class_index/{'index0':_<12}")
    assert remove(store) == []
    assert whole(store) >= {"index0", "index2"}
    assert "index1" not in whole(store)
    assert whole(inside) == {"manifest2"}


def test_what_another_process_reads_stays_until_it_has_ended(store: ArtifactFolder) -> None:
    publish(store, "onnx_model", "old")
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from har_assets.store.folder import ArtifactFolder\n"
            "held = ArtifactFolder(Path(sys.argv[1])).latest('onnx_model')\n"
            "print('held', flush=True); sys.stdin.read()",
            str(store.root),
        ],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdout
        assert reader.stdout.readline() == "held\n"
        publish(store, "onnx_model", "new")
        assert remove(store) == ["something uses it at this moment"]
        assert whole(store) == {"old", "new"}
    finally:
        reader.kill()  # the kernel gives back what a killed process held
        reader.communicate()
    assert remove(store) == []
    assert whole(store) == {"new"}


def test_what_something_in_use_was_made_from_stays_with_it(store: ArtifactFolder) -> None:
    publish(store, "onnx_model", "onnx_old")
    publish(store, "trt_engine", "engine_old", inputs={"onnx_model": "onnx_old"})
    publish(store, "onnx_model", "onnx_new")
    publish(store, "trt_engine", "engine_new", inputs={"onnx_model": "onnx_new"})
    held = store.find("trt_engine", f"{'engine_old':_<64}")
    assert held
    assert sorted(remove(store)) == ["it is needed by now", "something uses it at this moment"]
    assert whole(store) == {"onnx_old", "engine_old", "onnx_new", "engine_new"}
    del held
    assert remove(store) == []
    assert whole(store) == {"onnx_new", "engine_new"}


def test_what_has_become_an_input_since_the_plan_was_made_stays(store: ArtifactFolder) -> None:
    publish(store, "onnx_model", "old")
    publish(store, "onnx_model", "new")
    plan = plan_pruning(store.root, keep=1)
    publish(store, "trt_engine", "engine", inputs={"onnx_model": "old"})
    assert names(plan) == {"old"}
    assert [reason for _, reason in prune(plan, lambda going: plan_pruning(store.root, keep=1, going=going)).left] == [
        "it is needed by now"
    ]
    assert whole(store) == {"old", "new", "engine"}


def test_a_reader_that_comes_while_its_version_is_taken_away_gets_the_latest(store: ArtifactFolder) -> None:
    old = publish(store, "onnx_model", "old")
    lock = FolderLock.exclusive(old.folder)
    assert lock
    assert FolderLock.exclusive(old.folder) is None
    publish(store, "onnx_model", "new")
    script = (
        "import sys; from pathlib import Path; from har_assets.store.record import FolderArtifact\n"
        "print('waits', flush=True); print(FolderArtifact.hold(Path(sys.argv[1])))"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script, str(old.folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout
    reader.stdout.readline()
    time.sleep(0.3)
    old.folder.rename(old.folder.with_name(".trash-1-1"))
    lock.release()
    assert reader.communicate(timeout=20)[0] == "None\n"
    assert store.find("onnx_model", f"{'old':_<64}") is None
    assert store.latest("onnx_model").record.data_version == "new"


KILLED = """
import sys
from pathlib import Path
from har_assets.store.pruning import plan_pruning, prune
root = Path(sys.argv[1])
plan = lambda going=None: plan_pruning(root, keep=1, going=going)
print("begins", flush=True)
prune(plan(), plan)
"""


@pytest.mark.parametrize("times", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_half_there(times: int, store: ArtifactFolder) -> None:
    rng = random.Random(times)
    cut_short = 0
    for attempt in range(times):
        for number in range(12):
            asset = f"asset{number % 3}"
            with store.staging(asset) as folder:
                for file in range(40):
                    (folder / f"{file}.bin").write_bytes(b"x" * 2000)
                key = f"{attempt:02d}{number:02d}"
                record = make_record(asset, f"{key:_<64}", created=f"2026-01-01T{attempt:02d}:00:{number:02d}+00:00")
                store.publish(folder, replace(record, files=describe_files(folder)))
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(store.root)], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.05))
        process.kill()
        process.communicate()
        cut_short += bool(process.returncode)
        whole(store)
    assert cut_short
    assert remove(store) == []
    assert len(whole(store)) == 3
    assert not list(store.root.glob("*/.trash*"))


BUSY = """
import random, sys
from dataclasses import replace
from pathlib import Path
from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import describe_files
from har_assets_tests.published import make_record
store, number = ArtifactFolder(Path(sys.argv[1])), sys.argv[2]
for turn in range(int(sys.argv[3])):
    source = store.latest("source")
    with store.staging("source") as folder:
        (folder / "a.bin").write_bytes(random.randbytes(1000))
        key = f"{random.getrandbits(240):064x}"
        record = make_record("source", key, data_version=key, created=f"2026-01-01T00:00:{turn:06d}")
        store.publish(folder, replace(record, files=describe_files(folder)))
    with store.staging("product") as folder:
        assert describe_files(source.folder) == source.record.files, "the input was taken away"
        key = f"{random.getrandbits(240):064x}"
        record = make_record("product", key, inputs={"source": source.record.data_version},
                             created=f"2026-01-01T00:00:{turn:06d}")
        store.publish(folder, replace(record, files=describe_files(folder)))
"""


@pytest.mark.parametrize("turns", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_pruning_while_others_read_and_publish(turns: int, store: ArtifactFolder) -> None:
    publish(store, "source", "first")
    others = [
        subprocess.Popen(
            [sys.executable, "-c", BUSY, str(store.root), str(number), str(turns)],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    rounds = 0
    while any(process.poll() is None for process in others):
        remove(store)
        rounds += 1
    for process in others:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert rounds > 1
    whole(store)
    for product in (store.root / "product").glob("[!.]*/artifact.json"):
        record = json.loads(product.read_text())
        assert any(
            FolderArtifact.read(folder).record.data_version == record["inputs"]["source"]  # type: ignore[union-attr]
            for folder in (store.root / "source").glob("[!.]*/")
        ), "the lineage of a kept product is gone"


def test_old_work_and_caches_go_unless_their_asset_is_being_made(store: ArtifactFolder) -> None:
    publish(store, "trained_checkpoint", "ckpt")
    home = store.root / "trained_checkpoint"
    long_ago = time.time() - 20 * 86_400
    for name in (".work-aaaaaaaaaaaa", ".work-bbbbbbbbbbbb", ".timing_caches"):
        (home / name).mkdir()
        (home / name / "last.ckpt").write_bytes(b"x" * 500)
        os.utime(home / name / "last.ckpt", (long_ago, long_ago))
        os.utime(home / name, (long_ago, long_ago))
    (home / ".work-bbbbbbbbbbbb" / "last.ckpt").touch()
    found = plan_pruning(store.root)
    assert names(found) == {".work-aaaaaaaaaaaa", ".timing_caches"}
    assert found.bytes == 1000
    assert names(plan_pruning(store.root, older_than_days=30)) == set()
    with store.staging("trained_checkpoint"):
        assert remove(store) == ["something uses it at this moment"] * 2
    assert remove(store) == []
    assert {path.name for path in home.glob(".*")} == {".work-bbbbbbbbbbbb"}


def test_the_command_shows_and_removes_only_with_yes(store: ArtifactFolder, tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    for number in range(3):
        publish(store, "onnx_model", f"onnx{number}", headline="fp32")
    shown = project.run("har_assets.cli", "prune", "--keep", "1")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("onnx_model onnx") == 2
    assert "2 may go and free" in shown.stdout
    assert "Nothing was changed: the same command with --yes does it." in shown.stdout
    assert whole(store) == {"onnx0", "onnx1", "onnx2"}
    done = project.run("har_assets.cli", "prune", "--keep", "1", "--yes", "--json")
    assert len(json.loads(done.stdout)["removed"]) == 2
    assert whole(store) == {"onnx2"}


def test_the_job_is_dry_unless_it_is_told_to_remove(store: ArtifactFolder, tmp_path: Path) -> None:
    from har_assets.definitions import defs
    from har_assets.graph.ops.prune import prune_artifacts
    from har_assets.graph.resources.mlflow import MlflowTracking
    from har_assets.graph.resources.store import ArtifactStore

    resources = {"store": ArtifactStore(project=str(tmp_path)), "mlflow": MlflowTracking(tracking_uri="")}
    for number in range(5):
        publish(store, "onnx_model", f"onnx{number}")
    assert prune_artifacts.execute_in_process(resources=resources).success
    assert len(whole(store)) == 5
    with dg.build_schedule_context(scheduled_execution_time=datetime(2026, 11, 22, 5, tzinfo=UTC)) as context:
        requests = defs.resolve_schedule_def("weekly_pruning").evaluate_tick(context).run_requests
    assert requests
    assert prune_artifacts.execute_in_process(run_config=requests[0].run_config, resources=resources).success
    assert whole(store) == {"onnx2", "onnx3", "onnx4"}


def test_read_only_folders_go_too(store: ArtifactFolder) -> None:
    old = publish(store, "serving_model", "old")
    (old.folder / "model").mkdir()
    (old.folder / "model" / "x").write_text("x")
    (old.folder / "model").chmod(0o555)
    publish(store, "serving_model", "new")
    assert remove(store) == []
    assert not list((store.root / "serving_model").glob(".trash*"))
    shutil.rmtree(store.root)
