import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from har_assets.errors import HarError, MissingArtifactError
from har_assets.store.folder import ArtifactFolder
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact, FolderArtifact, Record, describe_files, merge_lineage
from har_assets.store.work_folder import STAGING_PREFIX, WorkFolder
from har_assets.system.files import hash_of
from har_assets_tests.published import make_record


def publish(store: Store, record: Record, content: str = "x") -> Artifact:
    with store.staging(record.asset) as folder:
        (folder / "model.onnx").write_text(content)
        return store.publish(folder, replace(record, files=describe_files(folder)))


def test_latest_is_the_version_published_last_and_is_readable_by_path(tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path)
    publish(store, make_record(key="a" * 64), "old")
    publish(store, make_record(key="b" * 64), "new")
    assert store.latest("onnx_model").file("model.onnx").read_text() == "new"
    assert (tmp_path / "onnx_model" / "latest" / "model.onnx").read_text() == "new"
    found = store.find("onnx_model", "a" * 64)
    assert found is not None
    assert found.file("model.onnx").read_text() == "old"


def test_latest_leads_to_a_whole_version_at_every_moment(tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path)
    publish(store, make_record(key="a" * 64))
    stopped = threading.Event()
    missed: list[OSError] = []

    def look() -> None:
        while not stopped.is_set():
            try:
                (tmp_path / "onnx_model" / "latest" / "model.onnx").read_text()
            except OSError as error:
                missed.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    version = (tmp_path / "onnx_model" / "latest").resolve()
    for _ in range(1000):
        WorkFolder(tmp_path).link_latest("onnx_model", version)
    stopped.set()
    reader.join()
    assert missed == []


def test_same_key_again_keeps_both_versions(tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path)
    first = publish(store, make_record(), "first")
    second = publish(store, make_record(), "second")
    assert first.file("model.onnx").read_text() == "first"
    assert store.latest("onnx_model").folder == second.folder != first.folder
    found = store.find("onnx_model", "a" * 64)
    assert found is not None
    assert found.folder == second.folder


def test_missing_asset_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=r"trt_engine has not been materialized.*\+key:trt_engine"):
        ArtifactFolder(tmp_path).latest("trt_engine")


def test_a_failed_build_leaves_the_previous_version_and_no_rest(tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path)
    before = publish(store, make_record())

    def build_half() -> None:
        with store.staging("onnx_model") as folder:
            (folder / "model.onnx").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build_half()
    assert store.latest("onnx_model") == before
    assert sorted(path.name for path in (tmp_path / "onnx_model").iterdir()) == ["a" * 12, "latest"]


def test_staging_of_a_dead_process_is_removed_and_that_of_a_living_one_kept(tmp_path: Path) -> None:
    home = tmp_path / "onnx_model"
    dead, alive = home / f"{STAGING_PREFIX}4194305-x", home / f"{STAGING_PREFIX}{os.getppid()}-x"
    dead.mkdir(parents=True)
    alive.mkdir()
    with ArtifactFolder(tmp_path).staging("onnx_model"):
        assert not dead.exists()
        assert alive.exists()


def test_a_folder_without_a_record_is_not_a_version(tmp_path: Path) -> None:
    folder = tmp_path / "onnx_model" / ("a" * 12)
    folder.mkdir(parents=True)
    (folder / "artifact.json").write_text('{"asset": "onnx_model", "key"')
    assert ArtifactFolder(tmp_path).find("onnx_model", "a" * 64) is None


def test_a_file_removed_by_hand_is_named(tmp_path: Path) -> None:
    artifact = publish(ArtifactFolder(tmp_path), make_record())
    artifact.file("model.onnx").unlink()
    with pytest.raises(MissingArtifactError, match="force: true"):
        artifact.file("model.onnx")


def test_hash_ignores_the_order_of_keys_and_sees_every_value() -> None:
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1}) != hash_of({"a": 1, "b": 3})


def test_lineage_of_different_splits_is_refused(tmp_path: Path) -> None:
    one = FolderArtifact(tmp_path, make_record("frame_cache", lineage={"split": 1, "dataset": "hmdb51"}))
    two = FolderArtifact(tmp_path, make_record("test_manifest", lineage={"split": 2, "dataset": "hmdb51"}))
    with pytest.raises(HarError, match="test_manifest was made with split 2, frame_cache with 1"):
        merge_lineage({"frame_cache": one, "test_manifest": two})
    assert merge_lineage({"frame_cache": one}) == {"split": 1, "dataset": "hmdb51"}
