"""data/ filled from an archive: what is published, refused, restored on a node. No Dagster; DVC is off here."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from har_assets.dataset.clips import DataUpdate, data_here, updating
from har_assets.dataset.dvc import DvcRepository, files_of, version_of
from har_assets.dataset.folder import Dataset, changed_files
from har_assets.dataset.sorting import sort_clips
from har_assets.dataset.sources import own
from har_assets.dataset.sources.source import Request
from har_assets.errors import DatasetError, HarError, MissingArtifactError
from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import Artifact
from har_assets_tests.dataset.publishing import publish
from har_assets_tests.dataset.test_archive_formats import NameInBytes


def update_of(project: Path, *, mode: str = "off", force: bool = False) -> DataUpdate:
    store = ArtifactFolder(project / "artifacts")
    return DataUpdate(project, store, DvcRepository(), mode, force=force, workers=1, log=lambda line: None)


def from_archive(project: Path, path: Path, clips: tuple[str, ...] = ("a.avi", "b.avi")) -> None:
    """Publish raw_archive with an archive of two classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name in (f"{label}/{clip}" for label in ("jump", "sit") for clip in clips):
            file.writestr(name, f"{path.name} {name}")
    store = ArtifactFolder(project / "artifacts")
    request = Request(str(path), project, store, DvcRepository())
    publish(store, "raw_archive", lambda build: own.build(build, request))


def published(update: DataUpdate) -> Artifact:
    with updating(update):
        made = publish(update.store, "video_clips", update.build, *update.upstream)
        update.track()
    return made


def test_data_is_filled_read_only_and_described(tmp_path: Path) -> None:
    from_archive(tmp_path, tmp_path / "own" / "mine.zip")
    update = update_of(tmp_path)
    made = published(update)
    data = tmp_path / "data"
    assert Dataset.read(data) == Dataset("mine", synthetic=False, classes=("jump", "sit"), complete=False)
    assert {path.stat().st_mode & 0o777 for path in data.rglob("*.*")} == {0o444}
    assert made.record.headline == "4 clips of 2 classes"
    assert made.record.data_version == version_of(files_of(data))
    assert made.record.metadata["clips_per_class"] == [{"class": "jump", "clips": 2}, {"class": "sit", "clips": 2}]
    assert update.is_still_there(made)
    assert changed_files(made, data) == {"changed": [], "missing": [], "new": []}
    for junk in ("Thumbs.db", "._a.avi", ".DS_Store"):  # made by looking at the folder
        (data / "videos" / "jump" / junk).touch()
    assert update.is_still_there(made)
    assert changed_files(made, data) == {"changed": [], "missing": [], "new": []}
    (data / "videos" / "jump" / "c.avi").touch()
    assert not update.is_still_there(made)
    assert changed_files(made, data)["new"] == ["videos/jump/c.avi"]
    (data / "videos" / "jump" / "c.avi").unlink()
    (data / "videos" / "jump" / "a.avi").unlink()
    assert not update.is_still_there(made)
    assert changed_files(made, data)["missing"] == ["videos/jump/a.avi"]


@pytest.mark.parametrize(("named", "label"), [("cp850", "läuft"), ("cp1251", "l„uft")])
def test_names_are_in_the_code_page_that_the_configuration_names(tmp_path: Path, named: str, label: str) -> None:
    path = tmp_path / "own" / "mine.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for name in ("läuft/a.avi", "geht/b.avi"):
            file.writestr(NameInBytes(name, "cp850"), name)
    store = ArtifactFolder(tmp_path / "artifacts")
    request = Request(str(path), tmp_path, store, DvcRepository(), names_code_page=named)
    publish(store, "raw_archive", lambda build: own.build(build, request))
    made = published(update_of(tmp_path))
    assert Dataset.read(tmp_path / "data").classes == ("geht", label)
    assert made.record.metadata["notes"] == []


def test_what_is_impossible_is_a_sentence_before_anything_is_locked_or_written(tmp_path: Path) -> None:
    for update, error, sentence in (
        (update_of(tmp_path, mode="maybe"), HarError, "choose off, add, push, pull"),
        (update_of(tmp_path, mode="pull"), HarError, r"There is no data\.dvc"),
        (update_of(tmp_path), MissingArtifactError, "raw_archive has not been materialized"),
    ):
        with pytest.raises(error, match=sentence), updating(update):
            pass
    assert not (tmp_path / "data").exists()


def test_a_real_data_set_is_replaced_with_force_alone(tmp_path: Path) -> None:
    from_archive(tmp_path, tmp_path / "own" / "mine.zip")
    before = published(update_of(tmp_path))
    from_archive(tmp_path, tmp_path / "own" / "other.zip")
    with pytest.raises(DatasetError, match="data/ holds the data set 'mine', the archive is 'other': set force"):
        published(update_of(tmp_path))
    from_archive(tmp_path, tmp_path / "elsewhere" / "mine.zip", ("z.avi",))
    with pytest.raises(DatasetError, match="the archive of that name is now"):
        published(update_of(tmp_path))
    assert update_of(tmp_path).is_still_there(before)
    assert published(update_of(tmp_path, force=True)).record.data_version != before.record.data_version
    assert not list(tmp_path.glob(".data.*"))


def test_a_folder_of_someone_else_is_not_taken_for_data(tmp_path: Path) -> None:
    from_archive(tmp_path, tmp_path / "own" / "mine.zip")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").touch()
    with pytest.raises(DatasetError, match="exists and was not made by har_assets"):
        published(update_of(tmp_path))
    assert os.listdir(tmp_path / "data") == ["thesis.txt"]


def test_data_that_is_tracked_elsewhere_is_not_replaced(tmp_path: Path) -> None:
    from_archive(tmp_path, tmp_path / "own" / "mine.zip")
    (tmp_path / "data.dvc").write_text(f"outs:\n- md5: {'0' * 32}.dir\n  path: data\nmeta:\n  dataset: theirs\n")
    with pytest.raises(DatasetError, match=r"tracks the data set 'theirs', the archive is 'mine': set dvc: pull"):
        published(update_of(tmp_path))


# --- on a node of a cluster ---------------------------------------------------------------------------------


def test_only_a_node_brings_data_to_what_was_published(tmp_path: Path) -> None:
    from_archive(tmp_path, tmp_path / "own" / "mine.zip")
    made = published(update_of(tmp_path))
    data, store = tmp_path / "data", ArtifactFolder(tmp_path / "artifacts")
    data.rename(tmp_path / "other disk")
    assert data_here(tmp_path, store, on_cluster=False) == data
    assert not data.exists()
    assert data_here(tmp_path, store, on_cluster=True) == data
    assert version_of(files_of(data)) == made.record.data_version
    inode = (data / "dataset.json").stat().st_ino
    data_here(tmp_path, store, on_cluster=True)
    assert (data / "dataset.json").stat().st_ino == inode  # left as it was


def test_a_node_whose_archive_is_absent_or_another_is_told(tmp_path: Path) -> None:
    path, store = tmp_path / "own" / "mine.zip", ArtifactFolder(tmp_path / "artifacts")
    from_archive(tmp_path, path)
    made = published(update_of(tmp_path))
    (tmp_path / "data").rename(tmp_path / "other disk")
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(DatasetError, match="is not on this node"):
        data_here(tmp_path, store, on_cluster=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("jump/a.avi", "another")
    with pytest.raises(DatasetError, match=f"video_clips published {made.record.data_version[:8]}"):
        data_here(tmp_path, store, on_cluster=True)
    path.write_bytes(kept)
    assert version_of(files_of(data_here(tmp_path, store, on_cluster=True))) == made.record.data_version


# --- manifests ----------------------------------------------------------------------------------------------


def test_manifests_say_what_was_sorted_and_carry_the_checks(tmp_path: Path) -> None:
    from_archive(tmp_path, tmp_path / "own" / "mine.zip", tuple(f"{number}.avi" for number in range(10)))
    published(update_of(tmp_path))
    found = sort_clips(tmp_path / "data", split=1, val_fraction=0.2, seed=3)
    assert not found.is_refused
    found.refuse()
    store = ArtifactFolder(tmp_path / "artifacts")
    made = {
        role: publish(store, f"{role}_manifest", lambda build, role=role: found.product(build, role))  # type: ignore[misc]
        for role in ("train", "val", "test")
    }
    assert {role: artifact.record.metadata["clips"] for role, artifact in made.items()} == {
        "train": 12,
        "val": 2,
        "test": 6,
    }
    assert made["test"].record.lineage == {"split": 1, "split_seed": 3, "val_fraction": 0.2}
    assert made["train"].record.checks == {}
    failed = {name: check for name, check in made["test"].record.checks.items() if not check["passed"]}
    assert failed.keys() == {"films_on_both_sides"}  # the names tell no film
    assert failed["films_on_both_sides"]["warning"]
    assert made["test"].record.metadata["groups"] == "unknown"
    assert "films" not in made["test"].record.metadata
    assert made["test"].record.checks["class_share"]["warning"]
    assert (made["test"].folder / "test.csv").read_text().count("\n") == 7


def test_a_part_that_claims_to_be_whole_is_short(tmp_path: Path) -> None:
    from_archive(tmp_path, tmp_path / "own" / "hmdb51.zip", tuple(f"{number}.avi" for number in range(10)))
    published(update_of(tmp_path))
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["complete"]
    found = sort_clips(tmp_path / "data", split=1, val_fraction=0.2, seed=3)
    assert not found.checks["full_dataset_problems"]["passed"]
    assert not found.checks["class_share"]["warning"]
    with pytest.raises(DatasetError, match=r"20 clips on disk instead of 6766.*another name than hmdb51"):
        found.refuse()
