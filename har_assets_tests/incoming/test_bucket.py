"""New videos in a bucket, on a real server on loopback: the sensor and the asset, driven as the daemon drives them."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError, StorageAwayError
from har_assets.graph.assets.incoming import NAME
from har_assets.graph.resources.incoming import IncomingVideos
from har_assets.graph.sensors.incoming import PARTITIONS
from har_assets.incoming.bucket import COPIES_PREFIX, VideoBucket
from har_assets.incoming.folder import GoneError, LocalVideo, partition_key
from har_assets.store.remote_folder import S3_OPTIONS
from har_assets_tests.graph.assets.test_incoming import Here, make_video
from har_assets_tests.incoming.server import current, instance_of, publish_model, results_of, table_of
from har_assets_tests.project import Project
from har_assets_tests.s3_server import BUCKET, S3Server, s3_server

pytest.importorskip("s3fs", reason="no s3fs: `pip install 'har_assets[cluster]'`")
pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def connected(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    from s3fs import S3FileSystem

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield server
    S3FileSystem.clear_instance_cache()


class Camera(Here):
    """As Here, with its videos in a bucket."""

    server: S3Server
    most_copied = "1 GB"

    @property
    def prefix(self) -> str:
        return f"{self.project.folder.parent.name}/new"

    @property
    def resources(self) -> dict[str, Any]:
        folder = f"s3://{BUCKET}/{self.prefix}"
        incoming = IncomingVideos(folder=folder, videos_a_run=50, most_copied=self.most_copied)
        return {**super().resources, "incoming": incoming}

    def put(self, name: str, seed: int, frames: int = 12) -> int:
        """Upload a video; its size."""
        path = make_video(self.project.folder / "made.avi", seed, frames)
        self.server.client().upload_file(str(path), BUCKET, f"{self.prefix}/{name}")
        return path.stat().st_size

    def remove(self, name: str) -> None:
        self.server.client().delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")

    def copies(self) -> list[Path]:
        return list((self.project.folder / "artifacts" / NAME).glob(f"{COPIES_PREFIX}*"))


@pytest.fixture
def camera(tmp_path: Path, tiny_onnx: Path, connected: S3Server) -> Iterator[Camera]:
    project = Project.make(tmp_path / "project")
    publish_model(project, tiny_onnx)
    with instance_of(project) as instance:
        made = Camera(project, instance)
        made.server = connected
        yield made
    assert made.copies() == [], "copies were left"


def test_new_changed_and_removed_objects(camera: Camera) -> None:
    camera.put("a b.avi", 0)
    camera.put("day 1/c.AVI", 1)
    result = camera.go()
    assert result
    assert result.success
    rows = current(camera.project)
    assert set(rows) == {"a b.avi", "day 1/c.AVI"}
    assert all(row["label"] for row in rows.values())
    assert len(results_of(camera.project)) == 2
    shown = camera.shown(partition_key(b"day 1/c.AVI"))
    assert shown["video"] == f"s3://{BUCKET}/{camera.prefix}/day 1/c.AVI"
    assert shown["contact_sheet"].startswith("![frames]")
    assert camera.go() is None

    before = rows["a b.avi"]["content_sha256"]
    camera.put("a b.avi", 2)
    camera.remove("day 1/c.AVI")
    result = camera.go()
    assert result
    assert result.success
    assert [event.partition for event in result.get_asset_materialization_events()] == [partition_key(b"a b.avi")]
    assert current(camera.project)["a b.avi"]["content_sha256"] != before
    assert camera.instance.get_dynamic_partitions(PARTITIONS) == [partition_key(b"a b.avi")]
    assert len(results_of(camera.project)) == 3, "the results of what is gone stay"

    # The same bytes put once more, and under another name, are known.
    camera.put("a b.avi", 2)
    camera.put("copy.avi", 2)
    predicted = {row["predicted"] for row in table_of(camera.project)}
    result = camera.go()
    assert result
    asked = {event.partition for event in result.get_asset_materialization_events()}
    # S3 has times in seconds: put again within one, it is the same object.
    assert {partition_key(b"copy.avi")} <= asked <= {partition_key(b"a b.avi"), partition_key(b"copy.avi")}
    assert {row["predicted"] for row in table_of(camera.project)} == predicted


def test_names_that_lead_elsewhere_and_names_of_no_video(camera: Camera) -> None:
    names = ["../../up.avi", "a//b.avi", "/abs.avi", "дорога 一#?&+%2e.avi", "x" * 300 + ".avi"]
    for seed, name in enumerate(names):
        camera.put(name, seed)
    others = [".hidden.avi", "notes.txt", "folder.avi/", ".cache/d.avi", "film.part.avi", "@eaDir/a.avi", "._a.avi"]
    for name in others:
        camera.server.client().put_object(Bucket=BUCKET, Key=f"{camera.prefix}/{name}", Body=b"")
    camera.server.client().put_object(Bucket=BUCKET, Key=f"{camera.prefix}2/other.avi", Body=b"x")
    camera.server.client().put_object(Bucket=BUCKET, Key=f"{camera.prefix}/empty.avi", Body=b"")
    videos = VideoBucket(f"s3://{BUCKET}/{camera.prefix}", camera.project.folder, 10**9)
    notes: list[str] = []
    found = {name.decode() for name in videos.scan([".avi"], notes.append)}
    assert notes == [
        "3 files that are no videos were left out: 2 hidden or unfinished, 1 .txt.",
        "4 files or folders that systems keep beside videos were left out: 1 .., 1 ._*, 1 .cache, 1 @eaDir.",
    ]
    # The two of `..` are hidden folders by the rule for all folders: they are no videos.
    assert found == {*names[1:], "empty.avi"}
    result = camera.go()
    assert result
    assert result.success
    rows = current(camera.project)
    assert {name: row["reason"] for name, row in rows.items() if row["reason"]} == {
        "empty.avi": "the file is empty (0 bytes)"
    }
    assert set(rows) == found


def test_copies_are_bounded_and_all_are_predicted(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    size = max(camera.put(f"{number}.avi", number) for number in range(9))
    camera.put("film.avi", 9, frames=400)
    camera.most_copied = f"{3 * size} B"
    held: list[int] = []
    drop = VideoBucket._drop

    def watched(self: VideoBucket, path: Path) -> None:
        held.append(sum(file.stat().st_size for file in path.parent.iterdir()))
        drop(self, path)

    monkeypatch.setattr(VideoBucket, "_drop", watched)
    result = camera.go()
    assert result
    assert result.success
    rows = current(camera.project)
    reason = rows.pop("film.avi")["reason"]
    assert "may be copied: raise most_copied" in reason
    assert len(rows) == 9
    assert all(row["label"] for row in rows.values())
    assert 0 < max(held) <= 3 * size


def test_a_film_is_copied_again_when_its_turn_comes(camera: Camera) -> None:
    camera.put("film.avi", 0, frames=60)
    camera.put("short.avi", 1)
    request = camera.look().run_requests[0]
    result = camera.predict(request, film_from_s=1.0)
    assert result.success
    found = {row["video"]: row for row in results_of(camera.project)}
    assert found["film.avi"]["timeline"]["duration_s"] > 1
    assert found["film.avi"]["top"]
    assert found["short.avi"]["timeline"] is None


def test_replaced_and_removed_between_listing_and_reading(camera: Camera, tmp_path: Path) -> None:
    for number in range(3):
        camera.put(f"{number}.avi", number)
    with VideoBucket(f"s3://{BUCKET}/{camera.prefix}", tmp_path, 10**9) as videos:
        names = list(videos.scan([".avi"]))
        camera.put("0.avi", 7)
        camera.remove("1.avi")
        found = {name: what for _, name, what in videos.read(deque((partition_key(name), name) for name in names))}
        assert isinstance(found[b"0.avi"], GoneError)
        assert isinstance(found[b"1.avi"], GoneError)
        kept = found[b"2.avi"]
        assert isinstance(kept, LocalVideo)
        videos.release(kept)
        camera.put("2.avi", 8)
        with pytest.raises(GoneError, match="replaced or removed"):
            videos.read_again(kept)


def test_a_bucket_that_is_away_or_missing_skips_the_tick_and_loses_nothing(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    camera.put("a.avi", 0)
    assert camera.go()
    camera.put("b.avi", 1)
    request = camera.look().run_requests[0]
    known = camera.instance.get_dynamic_partitions(PARTITIONS)
    cursor = dict(camera.cursors)

    monkeypatch.setitem(S3_OPTIONS["config_kwargs"], "retries", {"mode": "standard", "max_attempts": 1})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    skipped = camera.look()
    assert f"s3://{BUCKET}/{camera.prefix} cannot be reached" in skipped.skip_message
    assert skipped.run_requests == []
    assert camera.instance.get_dynamic_partitions(PARTITIONS) == known
    assert camera.cursors == cursor

    monkeypatch.setenv("AWS_ENDPOINT_URL", camera.server.url)
    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(Camera, "prefix", "x")
    monkeypatch.setattr("har_assets_tests.incoming.test_bucket.BUCKET", "nowhere")
    assert "There is no bucket nowhere: correct s3://nowhere/x (HAR_INCOMING)" in camera.look().skip_message
    monkeypatch.undo()
    for name, value in camera.server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    again = camera.look().run_requests[0]
    assert again.run_key == request.run_key, "the request that was never launched is made again"
    assert camera.predict(again).success
    assert set(current(camera.project)) == {"a.avi", "b.avi"}


def test_a_bucket_that_never_answers_is_named_before_dagster_ends_the_tick(
    monkeypatch: pytest.MonkeyPatch, connected: S3Server, tmp_path: Path
) -> None:
    import socket

    from s3fs import S3FileSystem

    monkeypatch.setattr("har_assets.incoming.bucket.LISTING_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        S3FileSystem.clear_instance_cache()
        began = time.monotonic()
        with pytest.raises(StorageAwayError, match="cannot be reached, or failed"):
            VideoBucket(f"s3://{BUCKET}/x", tmp_path, 10**9).scan([".avi"])
        assert time.monotonic() - began < 10


def test_copies_of_a_killed_run_are_removed_by_the_next(camera: Camera) -> None:
    camera.put("a.avi", 0)
    home = camera.project.folder / "artifacts" / NAME
    code = (
        "import sys, time; from collections import deque; from pathlib import Path;"
        "from har_assets.incoming.bucket import VideoBucket;"
        f"videos = VideoBucket('s3://{BUCKET}/{camera.prefix}', Path(sys.argv[1]), 10**9); videos.scan(['.avi']);"
        "next(videos.read(deque([('a', b'a.avi')]))); print('copied', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, env=dict(os.environ))
    try:
        assert process.stdout
        assert process.stdout.readline() == b"copied\n"
        (left,) = camera.copies()
        assert [path.suffix for path in left.iterdir()] == [".avi"]
        result = camera.go()
        assert result
        assert result.success
        assert camera.copies() == [left], "it is held by a living process"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    camera.put("b.avi", 1)
    result = camera.go()
    assert result
    assert result.success


@pytest.mark.parametrize("address", ["gs://camera/new", "http://camera/new", "s3://", "s3:///"])
def test_other_addresses_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(HarError, match=r"is no place of new videos: name a folder or s3://bucket/prefix"):
        IncomingVideos(folder=address).videos(tmp_path, tmp_path)
