"""A frame cache in parts: which clips go where, and that the whole is what one process would have made."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from har_assets.cluster.frames import PART, frame_shards
from har_assets.cluster.needs import needs, tasks_that_need
from har_assets.cluster.sharding import make_parts, parts, publish_part, remove_parts
from har_assets.errors import HarError
from har_assets.store.folder import ArtifactFolder
from har_assets.store.opening import StoreLocation
from har_assets.store.protocol import Store
from har_assets.video.frame_cache import CacheParams, FrameCache, build_frame_cache, merge_frame_caches
from har_assets_tests.cluster.ray_nodes import ray_cluster
from har_assets_tests.project import REPOSITORY
from har_assets_tests.published import make_record
from har_assets_tests.videos import write_video

PARAMS = CacheParams(12, 16, 1, 8)


def build(clips: dict[str, Path], folder: Path, params: CacheParams = PARAMS) -> Path:
    build_frame_cache(
        clips,
        params=params,
        folder=folder,
        work=folder.with_suffix(".work"),
        workers=1,
        may_be_empty=True,
        log=lambda line: None,
    )
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    made = {}
    for number in range(5):
        name = f"wave/clip{number}.avi"
        made[name] = write_video(folder / name, rng.integers(0, 255, (4 + number, 24, 32, 3), dtype=np.uint8))
    for name in ("wave/bad0.avi", "wave/bad1.avi"):
        made[name] = folder / name
        made[name].write_bytes(b"no video")
    return made


def test_merged_parts_hold_what_one_build_holds(tmp_path: Path, clips: dict[str, Path]) -> None:
    whole = build(clips, tmp_path / "whole")
    names = sorted(clips)
    parts = [
        build({name: clips[name] for name in names[first:last]}, tmp_path / f"part{first}")
        for first, last in ((0, 2), (2, 4), (4, 7))  # the first has damaged videos alone
    ]
    report = merge_frame_caches(parts, tmp_path / "merged")
    one, merged = FrameCache(whole), FrameCache(tmp_path / "merged")
    assert merged.rows.clips == one.rows.clips
    for clip in one.rows.clips:
        np.testing.assert_array_equal(one.frames(clip), merged.frames(clip))
    same = [column for column in one.index.columns if column not in ("pack", "first_frame")]
    assert one.index[same].equals(merged.index[same])
    assert one.quarantine.equals(merged.quarantine)
    assert (report.clips, report.frames, set(report.quarantined)) == (5, 30, {"wave/bad0.avi", "wave/bad1.avi"})
    assert report.bytes == sum(pack.stat().st_size for pack in (tmp_path / "merged").glob("*.npy"))


def test_parts_of_other_parameters_and_parts_without_a_clip_are_refused(tmp_path: Path, clips: dict[str, Path]) -> None:
    good = {name: path for name, path in clips.items() if "clip" in name}
    one, two = build(good, tmp_path / "one"), build(good, tmp_path / "two", replace(PARAMS, height=10))
    with pytest.raises(HarError, match="different parameters"):
        merge_frame_caches([one, two], tmp_path / "merged")
    bad = build({name: path for name, path in clips.items() if "bad" in name}, tmp_path / "bad")
    with pytest.raises(HarError, match="None of the 2 clips could be decoded"):
        merge_frame_caches([bad], tmp_path / "merged")


def test_a_part_is_known_by_its_clips_and_parameters() -> None:
    hashes = {f"wave/{number:03d}.avi": f"md5-{number}" for number in range(10)}
    shards = frame_shards(hashes, PARAMS, 120.0, 4)
    assert [len(clips) for clips in shards.values()] == [4, 4, 2]
    assert sorted(name for clips in shards.values() for name in clips) == sorted(hashes)
    assert frame_shards(dict(reversed(hashes.items())), PARAMS, 120.0, 4) == shards
    changed = frame_shards({**hashes, "wave/009.avi": "another"}, PARAMS, 120.0, 4)
    assert len(shards.keys() & changed.keys()) == 2, "one changed video costs its own part"
    assert not shards.keys() & frame_shards(hashes, replace(PARAMS, width=20), 120.0, 4).keys()


def test_a_part_is_made_once_found_by_its_key_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAR_ARTIFACTS", str(tmp_path / "of_the_environment"))
    location = StoreLocation("chosen", project=str(tmp_path))
    store = location.open()
    shards = {letter * 64: [f"wave/{letter}.avi"] for letter in "abc"}
    built = []

    def build(here: Store, staging: Path, work: Path) -> tuple[str, dict[str, int]]:
        assert here.root == store.root
        built.append(staging)
        work.mkdir()
        (staging / "clips.txt").write_text(str(len(built)))
        return "a clip", {"clips": 1}

    for key in (*shards, *shards):
        publish_part("some_part", key, build, location)
    assert len(built) == len(shards)
    publish_part("some_part", "d" * 64, build, location)  # of another plan
    found = parts("some_part", ["c" * 64, "a" * 64], store)
    assert [part.file("clips.txt").read_text() for part in found] == ["3", "1"]
    assert found[0].record.metadata["clips"] == 1
    assert list((tmp_path / "chosen" / "some_part").glob(".work-*")) == []
    said: list[str] = []
    made = make_parts("some_part", shards, pytest.fail, store=store, wanted={}, log=said.append)  # type: ignore[arg-type]
    assert (made, said) == ({}, ["3 shards, 3 of them made before."])
    remove_parts("some_part", shards, store)
    assert [part.record.key for part in store.versions("some_part")] == ["d" * 64]
    with pytest.raises(HarError, match="some_part, was removed before it was used"):
        parts("some_part", shards, store)


ON_THE_STEP = """
import json, sys
from pathlib import Path
from har_assets.cluster.frames import build_on_cluster, frame_shards
from har_assets.store.opening import StoreLocation
from har_assets.video.frame_cache import CacheParams
root, project, folder, clips = json.loads(sys.argv[1])
params = CacheParams(12, 16, 1, 8)
shards = frame_shards(dict.fromkeys(clips, "md5"), params, 60.0, 2)
report, _ = build_on_cluster(shards, location=StoreLocation(root, project=project), params=params, timeout_s=60.0,
                             folder=Path(folder), log=print)
print(len(shards), report.clips)
"""


@pytest.mark.slow  # starts a cluster
def test_shards_are_published_to_the_store_of_the_step_whatever_the_node_would_choose(
    tmp_path: Path, clips: dict[str, Path]
) -> None:
    """On a real node, whose environment names another store."""
    good = [name for name in clips if "clip" in name]
    for name in good:
        target = tmp_path / "project" / "data" / "videos" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(clips[name].read_bytes())
    chosen, merged = tmp_path / "chosen", tmp_path / "merged"
    merged.mkdir()
    environment = {"HAR_ARTIFACTS": str(tmp_path / "of_the_environment"), "PYTHONPATH": str(REPOSITORY)}
    arguments = json.dumps([str(chosen), str(tmp_path / "project"), str(merged), good])
    with ray_cluster(tmp_path / "head", environment) as cluster:
        cluster.add(tmp_path / "node")
        done = subprocess.run(
            [sys.executable, "-c", ON_THE_STEP, arguments],
            env={**cluster.environment, "RAY_ADDRESS": cluster.gcs},
            text=True,
            capture_output=True,
            check=False,
            timeout=200,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "3 5"
    assert len(ArtifactFolder(chosen).versions(PART)) == 3
    assert not (tmp_path / "of_the_environment").exists()


def test_a_shard_asks_for_a_gpu_where_there_is_one() -> None:
    said: list[str] = []
    wanted = needs(1, gpus=1)
    assert tasks_that_need(wanted, {"CPU": 4.0, "GPU": 1.0}, said.append) == {"num_cpus": 1, "num_gpus": 1}
    assert said == []
    assert tasks_that_need(wanted, {"CPU": 4.0}, said.append) == {"num_cpus": 1}
    assert said == ["No node of the Ray cluster has a GPU: the shards go to CPUs."]
    assert tasks_that_need(needs(0.5), {"CPU": 4.0}, said.append) == {"num_cpus": 0.5}
    assert len(said) == 1


def test_a_version_that_was_discarded_is_gone(tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path)
    with store.staging("frame_cache_part") as staging:
        (staging / "file").write_text("x")
        part = store.publish(staging, make_record("frame_cache_part", key="k" * 64))
    assert store.find("frame_cache_part", "k" * 64) == part
    store.discard(part)
    assert store.find("frame_cache_part", "k" * 64) is None
