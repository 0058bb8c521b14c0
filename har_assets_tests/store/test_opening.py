"""Which store is opened, here and by a description that has travelled to another machine."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from har_assets import settings
from har_assets.graph.assets.splits import SplitStore
from har_assets.graph.resources.store import ArtifactStore
from har_assets.store.bucket import ArtifactBucket
from har_assets.store.opening import StoreLocation
from har_assets_tests.published import make_record
from har_assets_tests.store.test_folder import publish

KEY = "a" * 64


def test_a_location_opens_the_same_store_whatever_the_other_machine_would_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(settings.STORE_QUOTA, raising=False)
    monkeypatch.setenv(settings.ARTIFACTS, str(tmp_path / "by_environment"))
    by_option = ArtifactStore(root=str(tmp_path / "by_option"), quota="3 GB")
    by_environment = ArtifactStore()
    publish(by_option.folder, make_record(), "option")
    publish(by_environment.folder, make_record(), "environment")
    sent = pickle.dumps((by_option.location, by_environment.location))

    monkeypatch.setenv(settings.ARTIFACTS, str(tmp_path / "of_the_other_machine"))
    option, environment = (location.open() for location in pickle.loads(sent))
    assert option.latest("onnx_model").file("model.onnx").read_text() == "option"
    assert environment.latest("onnx_model").file("model.onnx").read_text() == "environment"
    assert option.quota is not None
    assert option.quota.bytes == 3 * 10**9
    assert environment.quota is None


def test_relative_folders_are_those_of_the_machine_that_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(settings.ARTIFACTS, raising=False)
    location = ArtifactStore(project="project").location
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert location.open().root == tmp_path / name / "project" / "artifacts"
        assert location.project_folder == tmp_path / name / "project"


def test_the_location_of_a_split_is_inside_the_store(tmp_path: Path) -> None:
    outer = ArtifactStore(root=str(tmp_path / "artifacts"))
    published = publish(outer.folder, make_record())
    split = SplitStore.of(outer, "2")
    inner = pickle.loads(pickle.dumps(split.location)).open()
    assert inner.root == split.folder.root == tmp_path / "artifacts" / "split_evaluation" / "2"
    assert inner.find("onnx_model", KEY) == published
    assert inner.find_latest("onnx_model") is None


def test_a_bucket_inside_a_bucket_has_its_folder_and_address(tmp_path: Path) -> None:
    location = StoreLocation("s3://team/har/", "work", str(tmp_path), inside="split_evaluation/2")
    store = location.open()
    assert isinstance(store, ArtifactBucket)
    assert (store.address, store.root) == ("s3://team/har/split_evaluation/2", tmp_path / "work/split_evaluation/2")


def test_a_folder_is_opened_without_what_a_bucket_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from har_assets.store.opening import open_store; open_store(sys.argv[1])\n"
        "print(sorted({'har_assets.store.bucket', 'fsspec', 'dagster', 'mlflow'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], text=True, capture_output=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
