"""The assets from source to frames: what they refuse and what their checks say."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetCheckEvaluation, AssetCheckSeverity

from har_assets.dataset import checks as manifest_checks
from har_assets.dataset.checks import MANIFEST_CHECKS
from har_assets.dataset.manifests import read_manifest_of
from har_assets_tests.project import (
    REPOSITORY,
    Project,
    execute_here,
    make_own_videos,
    make_split_lists,
    materialize_here,
)

BAD_REQUESTS: dict[str, tuple[str, dict[str, dict[str, object]], str]] = {
    "an unknown source": ("raw_archive", {"raw_archive": {"source": "kinetics"}}, "There is no source 'kinetics'"),
    "a missing archive": ("raw_archive", {"raw_archive": {"source": "/nowhere/x.rar"}}, "There is no source"),
    "missing split lists": ("raw_archive", {"raw_archive": {"split_lists": "/nowhere"}}, "There are no split lists"),
    "an unreadable archive": ("+key:video_clips", {"raw_archive": {"source": "GARBAGE"}}, "not a RAR, ZIP, 7z or TAR"),
    "an archive without videos": ("+key:video_clips", {"raw_archive": {"source": "EMPTY"}}, "video"),
    "a split outside 1..3": (
        "+key:test_manifest",
        {"raw_archive": {"split_lists": "LISTS"}, "manifests": {"split": 4}},
        "there is no split 4",
    ),
    "a split outside 1..3 without lists": ("+key:test_manifest", {"manifests": {"split": 4}}, "there is no split 4"),
    "an unknown label": (
        "raw_archive",
        {"raw_archive": {"label": "labels.csv"}},
        "label of raw_archive is 'labels.csv': choose auto, parent, top, csv",
    ),
    "an unknown dvc mode": ("+key:video_clips", {"video_clips": {"dvc": "maybe"}}, "There is no dvc mode"),
    "an unknown network": (
        "+key:trained_checkpoint",
        {"trained_checkpoint": {"network": "resnet"}},
        "There is no network 'resnet': choose one of cnn3d",
    ),
    "a clip larger than the frames": (
        "+key:trained_checkpoint",
        {"trained_checkpoint": {"frame_height": 500}},
        "cannot be cut from frames",
    ),
    "a video that is no video": ("+key:frame_cache", {"raw_archive": {"source": "BROKEN"}}, "could be decoded"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path, name: str) -> None:
    select, config, sentence = BAD_REQUESTS[name]
    project = Project.make(tmp_path / "project")
    source = {"source": str(make_own_videos(tmp_path / "own", clips_per_class=4)), **config.get("raw_archive", {})}
    if source.get("split_lists") == "LISTS":
        source["split_lists"] = str(make_split_lists(tmp_path / "lists", tmp_path / "own"))
    if source["source"] == "GARBAGE":
        (tmp_path / "garbage.rar").write_bytes(b"Rar!" + bytes(1000))
        source["source"] = str(tmp_path / "garbage.rar")
    if source["source"] == "EMPTY":
        shutil.make_archive(str(tmp_path / "empty"), "zip", REPOSITORY / "conf")
        source["source"] = str(tmp_path / "empty.zip")
    if source["source"] == "BROKEN":
        for clip in (tmp_path / "own").rglob("*.avi"):
            clip.write_bytes(clip.read_bytes()[:100])
        source["source"] = str(tmp_path / "own")
    config = {"video_clips": {"dvc": "off"}, **config, "raw_archive": source}
    failures = materialize_here(project, select, {name: config[name] for name in config if needs(select, name)})
    assert len(failures) == 1
    assert sentence in failures[0]
    assert "\n" not in failures[0]
    assert project.store.find_latest(select.removeprefix("+key:")) is None
    leftovers = [
        path.name for path in project.folder.rglob("*") if re.search(r"^\.(staging|data\.)|partial", path.name)
    ]
    assert leftovers == []


def checks_of(project: Project, select: str, config: dict[str, dict[str, Any]]) -> dict[str, AssetCheckEvaluation]:
    """Evaluations of the asset checks of a run that succeeds, by name."""
    result = execute_here(project, select, {"video_clips": {"dvc": "off"}, **config})
    assert result.success
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def test_a_table_tells_classes_split_and_recordings(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    (tmp_path / "own").mkdir()
    rows = ["Video;Label;Group;Split"]
    for number in range(12):
        (tmp_path / "own" / f"{number}.mp4").write_bytes(bytes(number))
        rows.append(f"{number};{('fade', 'grow')[number % 2]};p{number // 2};{'test' if number > 9 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    source = {"source": str(tmp_path / "own"), "split_lists": str(tmp_path / "labels.csv"), "label": "csv"}
    config = {"raw_archive": source, "video_clips": {"dvc": "off"}, "manifests": {"val_fraction": 0.2}}
    assert materialize_here(project, "+key:test_manifest or key:val_manifest", config) == []
    assert read_manifest_of(project.latest("test_manifest"), "test")["clip"].tolist() == ["fade/10.mp4", "grow/11.mp4"]
    held_out = read_manifest_of(project.latest("val_manifest"), "val")
    assert len(held_out) == 2
    assert held_out["film"].nunique() == 1


def test_asset_checks_pass_and_fail_with_their_problems(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    own = make_own_videos(tmp_path / "own", clips_per_class=6)
    source = {"source": str(own), "split_lists": str(make_split_lists(tmp_path / "lists", own))}
    broken = next((own / "down").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])

    first = checks_of(project, "+key:frame_cache", {"raw_archive": source})
    assert first.keys() == {*MANIFEST_CHECKS, "all_clips_decoded"}
    failed = {name: check for name, check in first.items() if not check.passed}
    assert failed.keys() == {"all_clips_decoded", "films_on_both_sides", "near_twins"}  # nothing tells the recordings
    assert {check.severity for check in failed.values()} == {AssetCheckSeverity.WARN}
    assert first["all_clips_decoded"].metadata["quarantined"].value == 1

    for listed in (tmp_path / "lists").glob("down_*"):  # all but one clip of a class is test now
        listed.write_text(re.sub(r" 1 ", " 2 ", listed.read_text(), count=3))
    second = checks_of(project, "+key:test_manifest", {"raw_archive": source})
    assert not second["class_share"].passed
    assert "down has 5 of 6 clips in test" in str(second["class_share"].metadata["problems"].value)
    assert second["films_on_both_sides"].severity == AssetCheckSeverity.WARN


def test_a_film_on_both_sides_fails_its_check(tmp_path: Path) -> None:
    own = make_own_videos(tmp_path / "own", clips_per_class=6)
    for folder in own.iterdir():
        for number, clip in enumerate(sorted(folder.iterdir())):
            clip.rename(folder / f"film{number // 3}_{folder.name}_f_nm_np1_fr_med_{number}.avi")
    source = {"source": str(own), "split_lists": str(make_split_lists(tmp_path / "lists", own))}
    checks = checks_of(Project.make(tmp_path / "project"), "+key:test_manifest", {"raw_archive": source})
    assert {name for name, check in checks.items() if not check.passed} == {"films_on_both_sides"}
    assert checks["films_on_both_sides"].severity == AssetCheckSeverity.ERROR
    assert "3 films are both in" in str(checks["films_on_both_sides"].metadata["problems"].value)


@pytest.mark.parametrize("name", ["missing_files", "duplicate_names", "label_problems"])
def test_a_problem_of_the_manifests_fails_the_check_of_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests made a moment ago have none of these: test_splits.py has the problems themselves."""
    monkeypatch.setattr(manifest_checks, name, lambda *_: ["something is wrong."])
    source = {"source": str(make_own_videos(tmp_path / "own", clips_per_class=3))}
    checks = checks_of(Project.make(tmp_path / "project"), "+key:test_manifest", {"raw_archive": source})
    assert not checks[name].passed
    assert checks[name].metadata["problems"].value == ["something is wrong."]


def test_a_part_that_claims_to_be_all_of_hmdb51_is_refused(tmp_path: Path) -> None:
    own = make_own_videos(tmp_path / "hmdb51", clips_per_class=3)
    for old, new in (("down", "jump"), ("right", "sit"), ("still", "stand")):
        (own / old).rename(own / new)
    project = Project.make(tmp_path / "project")
    config = {"raw_archive": {"source": str(own)}, "video_clips": {"dvc": "off"}}
    result = execute_here(project, "+key:test_manifest", config)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["full_dataset_problems"].passed
    assert "9 clips on disk instead of 6766." in checks["full_dataset_problems"].metadata["problems"].value
    (failure,) = materialize_here(project, "key:test_manifest", {})
    assert failure.startswith("data/ claims to be all of HMDB51 and is not (9 clips on disk instead of 6766.")
    assert "another name than hmdb51" in failure
    assert project.store.find_latest("test_manifest") is None


def needs(select: str, name: str) -> bool:
    """True when the configuration of that asset belongs to a selection."""
    return name == "raw_archive" or (select != "raw_archive" and name in ("video_clips", "manifests")) or name in select
