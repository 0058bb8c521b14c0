"""The quota of the store: what counts, and what a publication over it comes to."""

import os
from pathlib import Path

import pytest

from har_assets import settings
from har_assets.errors import HarError
from har_assets.graph.resources.store import ArtifactStore
from har_assets.options import parse_size
from har_assets.store.folder import ArtifactFolder
from har_assets.store.quota import Quota
from har_assets.system.files import size_of
from har_assets_tests.published import make_record
from har_assets_tests.store.test_folder import publish


def test_sizes() -> None:
    assert parse_size("200 GB") == 200 * 10**9
    assert parse_size("1.5tb") == 1_500_000_000_000
    assert parse_size(" 4 GiB ") == 4 * 2**30
    assert parse_size("1000") == 1000


@pytest.mark.parametrize("text", ["much", "-1 GB", "1 XB", "GB", "1,5 GB", "nan", "1e9"])
def test_what_is_no_size_is_one_sentence(text: str) -> None:
    with pytest.raises(HarError, match="is no size: write a number and a unit"):
        parse_size(text)


def test_hard_links_count_once_and_links_to_elsewhere_not(tmp_path: Path) -> None:
    inside, outside = tmp_path / "a" / "b", tmp_path / "outside"
    inside.mkdir(parents=True)
    outside.write_bytes(b"x" * 5000)
    (inside / "one").write_bytes(b"x" * 100)
    os.link(inside / "one", tmp_path / "a" / "two")
    (tmp_path / "a" / "link").symlink_to(outside)
    assert size_of(tmp_path / "a") - (tmp_path / "a" / "link").lstat().st_size == 100


def test_a_publication_over_the_quota_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    before = publish(ArtifactFolder(tmp_path), make_record(key="a" * 64), "x" * 1000)
    full = ArtifactFolder(tmp_path, quota=Quota(tmp_path, size_of(tmp_path) + 500))
    with pytest.raises(HarError, match=r"onnx_model is not published, .*: run `har prune`.*HAR_STORE_QUOTA") as error:
        publish(full, make_record(key="b" * 64), "x" * 1000)
    assert "\n" not in str(error.value)
    assert full.latest("onnx_model") == before
    assert sorted(path.name for path in (tmp_path / "onnx_model").iterdir()) == ["a" * 12, "latest"]
    roomy = ArtifactFolder(tmp_path, quota=Quota(tmp_path, size_of(tmp_path) + 5000))
    assert publish(roomy, make_record(key="b" * 64), "x" * 1000).folder.name == "b" * 12


def test_a_full_store_is_told_before_the_work(tmp_path: Path) -> None:
    publish(ArtifactFolder(tmp_path), make_record(), "x" * 1000)
    full = ArtifactFolder(tmp_path, quota=Quota(tmp_path, 100))
    with pytest.raises(HarError, match="run `har prune`"), full.staging("trained_checkpoint"):
        pytest.fail("the work has begun")


def test_the_resource_takes_its_quota_from_its_field_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(settings.STORE_QUOTA, raising=False)
    assert ArtifactStore(project=str(tmp_path)).folder.quota is None
    monkeypatch.setenv(settings.STORE_QUOTA, "2 GB")
    assert ArtifactStore(project=str(tmp_path)).folder.quota == Quota(tmp_path / "artifacts", 2 * 10**9)
    assert ArtifactStore(project=str(tmp_path), quota="1 GB").folder.quota == Quota(tmp_path / "artifacts", 10**9)
