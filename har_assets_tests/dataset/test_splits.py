"""Manifests: the official splits as they are, validation by film, and checks that pass and fail."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from har_assets.dataset.archive import extract_split_lists, extract_videos
from har_assets.dataset.checks import (
    NOT_KNOWN,
    check_manifests,
    class_share,
    duplicate_names,
    films_on_both_sides,
    full_dataset_problems,
    label_problems,
    missing_files,
)
from har_assets.dataset.classes import HMDB51_CLASSES
from har_assets.dataset.groups import hmdb51_film, recording_of
from har_assets.dataset.known import HMDB51
from har_assets.dataset.lists import read_split_lists
from har_assets.dataset.manifests import MANIFEST_COLUMNS, Manifests, read_manifest, write_manifest
from har_assets.dataset.splits import build_manifests
from har_assets.errors import DatasetError

CLASSES = ("golf", "run", "wave")


def clip_name(label: str, film: str, number: int) -> str:
    return f"{film}_{label}_f_nm_np1_fr_med_{number}.avi"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Three classes of 40 clips from ten films each; one film gives clips to all classes."""
    folder = tmp_path / "videos"
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for film in range(10):
            title = "shared" if film == 0 else f"{label}{film}"
            for number in range(4):
                (folder / label / clip_name(label, title, number)).write_bytes(b"x" * (film + 1))
    return folder


@pytest.fixture
def lists(videos: Path) -> Path:
    """Split 1 of `videos`: films 0-5 train, 6-8 test, 9 unused."""
    folder = videos.parent / "lists"
    folder.mkdir()
    for label in CLASSES:
        rows = []
        for path in sorted((videos / label).iterdir()):
            film, _ = recording_of(path.name, label, hmdb51_film)
            rows.append(f"{path.name} {2 if film[-1] in '678' else 0 if film[-1] == '9' else 1} \n")
        (folder / f"{label}_test_split1.txt").write_text("".join(rows))
    return folder


@pytest.fixture(scope="session")
def official_lists(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official") / "lists"
    extract_split_lists(shared_data / "test_train_splits.rar", folder)
    return folder


@pytest.fixture(scope="session")
def full_dataset(official_lists: Path) -> Path:
    """All 6,766 names as empty files."""
    folder = official_lists.parent / "videos"
    clips = read_split_lists(official_lists)[["label", "name"]].drop_duplicates()
    for label in HMDB51_CLASSES:
        (folder / label).mkdir(parents=True)
    for label, name in clips.itertuples(index=False, name=None):
        (folder / label / name).touch()
    return folder


def clips_of(manifests: Manifests) -> dict[str, list[str]]:
    return {role: part["clip"].tolist() for role, part in manifests.items()}


# --- the official lists --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_full_data_set(full_dataset: Path, official_lists: Path, split: int):
    manifests = build_manifests(full_dataset, official_lists, split=split, class_names=HMDB51_CLASSES)
    problems = check_manifests(manifests, full_dataset, HMDB51_CLASSES, claims=HMDB51)
    assert all(not found for found in problems.values()), problems
    summary = manifests.summary
    assert (summary["listed"], summary["found"], summary["absent"]) == (6766, 6766, 0)
    assert len(manifests.train) + len(manifests.val) == 3570
    assert (len(manifests.test), summary["unused"]) == (1530, 1666)
    held_out = Counter(manifests.val["label"])
    assert set(Counter(manifests.test["label"]).values()) == {30}
    assert all(8 <= held_out[label] <= 16 for label in HMDB51_CLASSES)  # 15 % of 70 are 10.5
    assert abs(len(manifests.val) / 3570 - 0.15) < 0.01
    assert not set(manifests.train["film"]) & set(manifests.val["film"])
    json.dumps(summary)


def test_three_splits_take_less_than_two_seconds(full_dataset: Path, official_lists: Path):
    started = time.process_time()  # processor time: other processes share the cores
    for split in (1, 2, 3):
        build_manifests(full_dataset, official_lists, split=split, class_names=HMDB51_CLASSES)
    assert time.process_time() - started < 2


def test_films_that_both_train_and_test_are_told(full_dataset: Path, official_lists: Path):
    manifests = build_manifests(full_dataset, official_lists, split=1, class_names=HMDB51_CLASSES)
    assert manifests.summary["notes"] == [
        "133 films are both in train or validation and in test, 0 of them with the same class."
    ]


def test_hmdb51_mini(shared_data: Path, official_lists: Path, tmp_path: Path):
    extract_videos(shared_data / "hmdb51_mini.rar", tmp_path / "videos")
    manifests = build_manifests(tmp_path / "videos", official_lists, split=1, class_names=HMDB51_CLASSES)
    assert [len(part) for _, part in manifests.items()] == [6, 0, 2]
    assert manifests.summary["unused"] == 1
    assert sorted(manifests.test["label"]) == ["punch", "wave"]
    assert manifests.test["label_index"].tolist() == [
        HMDB51_CLASSES.index("punch"),
        HMDB51_CLASSES.index("wave"),
    ]
    notes = " ".join(manifests.summary["notes"])
    assert "6757 of 6766 listed clips are not on disk." in notes
    assert "validation set is empty" in notes
    assert "45 of 51 classes have no clip to train on." in notes
    problems = check_manifests(manifests, tmp_path / "videos", HMDB51_CLASSES, claims=HMDB51)
    assert "9 clips on disk instead of 6766." in problems.pop("full_dataset_problems")
    assert all(not found for found in problems.values()), problems


# --- building ------------------------------------------------------------------------------------------


def test_columns_and_roles(videos: Path, lists: Path):
    manifests = build_manifests(videos, lists, split=1, class_names=CLASSES)
    for role, part in manifests.items():
        assert list(part) == list(MANIFEST_COLUMNS)
        assert set(part["role"]) == {role}
        assert set(part["split"]) == {1}
        assert part["clip"].is_monotonic_increasing
        assert (part["label"].map(CLASSES.index) == part["label_index"]).all()
        for row in part.itertuples():
            assert (videos / row.clip).stat().st_size == row.bytes
            assert row.film == hmdb51_film(row.clip.split("/")[1], row.label)
    assert len(manifests.train) + len(manifests.val) == 72
    assert (len(manifests.test), manifests.summary["unused"]) == (36, 12)
    assert manifests.summary["per_class"]["run"] == {"train": 20, "val": 4, "test": 12}


def test_the_result_depends_on_names_and_seed_alone(videos: Path, lists: Path, tmp_path: Path):
    first = clips_of(build_manifests(videos, lists, split=1, class_names=CLASSES, seed=1))
    shuffled = tmp_path / "shuffled"
    paths = [path.relative_to(videos) for path in videos.rglob("*.avi")]
    random.Random(0).shuffle(paths)
    for path in paths:
        (shuffled / path).parent.mkdir(parents=True, exist_ok=True)
        (shuffled / path).write_bytes((videos / path).read_bytes())
    assert clips_of(build_manifests(shuffled, lists, split=1, class_names=CLASSES, seed=1)) == first
    assert clips_of(build_manifests(videos, lists, split=1, class_names=CLASSES, seed=2)) != first
    code = (
        "import sys, json; from pathlib import Path; from har_assets.dataset.splits import build_manifests\n"
        "made = build_manifests(Path(sys.argv[1]), Path(sys.argv[2]), split=1,"
        "                       class_names=('golf', 'run', 'wave'), seed=1)\n"
        "print(json.dumps({role: part['clip'].tolist() for role, part in made.items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(videos), str(lists)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == first


def test_absent_and_unlisted_clips_are_counted(videos: Path, lists: Path):
    (videos / "run" / clip_name("run", "run1", 0)).unlink()
    (videos / "run" / "extra_run_f_nm_np1_fr_med_0.avi").touch()
    (videos / "run" / "notes.txt").touch()
    summary = build_manifests(videos, lists, split=1, class_names=CLASSES).summary
    assert (summary["listed"], summary["found"], summary["absent"], summary["unlisted"]) == (120, 120, 1, 1)
    assert summary["notes"] == [
        "1 of 120 listed clips are not on disk.",
        "1 videos on disk are in no list of split 1 and are left out.",
    ]


def test_no_validation_on_request(videos: Path, lists: Path):
    manifests = build_manifests(videos, lists, split=1, class_names=CLASSES, val_fraction=0)
    assert manifests.val.empty
    assert list(manifests.val) == list(MANIFEST_COLUMNS)
    assert "none was asked for" in manifests.summary["notes"][0]


@pytest.mark.parametrize("val_fraction", [0.1, 0.5, 0.99])
def test_every_class_keeps_a_clip_to_train_on(videos: Path, lists: Path, val_fraction: float):
    manifests = build_manifests(videos, lists, split=1, class_names=CLASSES, val_fraction=val_fraction)
    assert set(manifests.train["label"]) == set(CLASSES)
    assert films_on_both_sides(manifests) == []


def test_without_lists_films_are_split_70_30(videos: Path):
    manifests = build_manifests(videos, None, split=1, class_names=CLASSES)
    assert Counter(manifests.test["label"]) == {"golf": 12, "run": 12, "wave": 12}
    assert films_on_both_sides(manifests) == []
    assert class_share(manifests) == []
    assert manifests.summary["source"] == "seeded 70/30 by film"
    assert manifests.summary["notes"][0].startswith("There are no split lists: a 70/30 split by film was made")
    other = build_manifests(videos, None, split=2, class_names=CLASSES)
    assert clips_of(other)["test"] != clips_of(manifests)["test"]
    for split in (0, 4):
        with pytest.raises(DatasetError, match=f"there is no split {split}: .* choose 1, 2 or 3"):
            build_manifests(videos, None, split=split, class_names=CLASSES)


def test_without_lists_and_films_files_are_split(tmp_path: Path):
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        for number in range(20):
            (tmp_path / label / f"{number:03d}.mp4").touch()
    manifests = build_manifests(tmp_path, None, split=1, class_names=("cats", "dogs"))
    assert Counter(manifests.test["label"]) == {"cats": 6, "dogs": 6}
    assert Counter(manifests.val["label"]) == {"cats": 2, "dogs": 2}
    assert manifests.summary["source"] == "seeded 70/30 by file"
    assert set(manifests.test["film"].str.partition("/")[0]) == {
        "cats",
        "dogs",
    }  # 001 of both is not one film
    assert films_on_both_sides(manifests) == [NOT_KNOWN]


def test_one_clip_a_class_is_enough(tmp_path: Path):
    for label in CLASSES:
        (tmp_path / label).mkdir()
        (tmp_path / label / "only.mp4").touch()
    manifests = build_manifests(tmp_path, None, split=1, class_names=CLASSES)
    assert [len(part) for _, part in manifests.items()] == [3, 0, 0]
    assert any("The test set is empty" in note for note in manifests.summary["notes"])


# --- refusals ------------------------------------------------------------------------------------------


def test_an_unknown_split_names_those_there_are(videos: Path, lists: Path):
    for split in (0, 4):
        with pytest.raises(DatasetError, match=f"there is no split {split} in .*: choose one of 1"):
            build_manifests(videos, lists, split=split, class_names=CLASSES)


def test_one_clip_with_two_roles_is_refused(videos: Path, lists: Path):
    path = lists / "run_test_split1.txt"
    line = path.read_text().splitlines()[0]
    path.write_text(path.read_text() + line + "\n")  # the same mark again does no harm
    build_manifests(videos, lists, split=1, class_names=CLASSES)
    path.write_text(path.read_text() + line.rstrip()[:-1] + "2\n")
    with pytest.raises(DatasetError, match="class run twice with different marks"):
        build_manifests(videos, lists, split=1, class_names=CLASSES)


@pytest.mark.parametrize("line", ["clip.avi", "clip.avi 3", "clip.avi one", " 1", "1", "clip.avi1"])
def test_a_line_that_is_no_entry_is_refused(lists: Path, line: str):
    path = lists / "run_test_split1.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DatasetError, match=r"line 41 of .*run_test_split1\.txt"):
        read_split_lists(lists)


def test_lists_as_other_systems_write_them(tmp_path: Path):
    (tmp_path / "run_test_split1.txt").write_bytes("\ufeffa b.avi 1\r\n\r\nc.avi\t0 \r\n".encode())
    assert read_split_lists(tmp_path).to_dict("records") == [
        {"label": "run", "name": "a b.avi", "split": 1, "role": "train"},
        {"label": "run", "name": "c.avi", "split": 1, "role": "unused"},
    ]
    (tmp_path / "run_test_split1.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="UTF-8"):
        read_split_lists(tmp_path)


def test_unknown_classes_are_refused(videos: Path, lists: Path):
    with pytest.raises(DatasetError, match=r"holds folders of 1 classes .* \(wave\)"):
        build_manifests(videos, lists, split=1, class_names=("golf", "run"))
    (lists / "swim_test_split1.txt").write_text("a.avi 1\n")
    with pytest.raises(DatasetError, match=r"holds lists of 1 classes .* \(swim\)"):
        build_manifests(videos, lists, split=1, class_names=CLASSES)
    with pytest.raises(DatasetError, match="twice"):
        build_manifests(videos, None, split=1, class_names=("golf", "golf"))


def test_nothing_to_train_on_is_refused(videos: Path, lists: Path, tmp_path: Path):
    for label in CLASSES:
        path = lists / f"{label}_test_split1.txt"
        path.write_text(path.read_text().replace(" 1 ", " 2 "))
    with pytest.raises(DatasetError, match="leaves no clip to train on"):
        build_manifests(videos, lists, split=1, class_names=CLASSES)
    (tmp_path / "empty" / "run").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no video"):
        build_manifests(tmp_path / "empty", lists, split=1, class_names=CLASSES)
    with pytest.raises(DatasetError, match="there is no folder"):
        build_manifests(tmp_path / "nowhere", lists, split=1, class_names=CLASSES)
    with pytest.raises(DatasetError, match="holds no split list"):
        build_manifests(videos, tmp_path / "empty", split=1, class_names=CLASSES)
    with pytest.raises(DatasetError, match="val_fraction"):
        build_manifests(videos, lists, split=1, class_names=CLASSES, val_fraction=1.0)


# --- checks, each failing ------------------------------------------------------------------------------


@pytest.fixture
def manifests(videos: Path, lists: Path) -> Manifests:
    made = build_manifests(videos, lists, split=1, class_names=CLASSES)
    problems = check_manifests(made, videos, CLASSES)
    assert list(problems) == [
        "films_on_both_sides",
        "missing_files",
        "duplicate_names",
        "class_share",
        "label_problems",
    ]
    assert not any(problems.values())
    return made


def test_films_on_both_sides_fails(manifests: Manifests):
    train, val, test = (part.copy() for _, part in manifests.items())
    val.loc[0, "film"] = train.loc[0, "film"]
    assert films_on_both_sides(replace(manifests, val=val)) == [
        f"1 films are both in train and in val, the first is {train.loc[0, 'film']}."
    ]
    test.loc[0, "film"] = train.loc[0, "film"]
    same = f"1 films are both in train and in test, the first is {train.loc[0, 'film']} (golf)."
    assert films_on_both_sides(replace(manifests, test=test)) == [same]
    test.loc[0, "label"] = "wave"  # another action of the same film, as in HMDB51's own lists
    train = train[train["film"] != "shared"]
    assert films_on_both_sides(Manifests(train, manifests.val, test, {})) == []


def test_missing_files_fails(manifests: Manifests, videos: Path):
    gone, changed = manifests.test["clip"].iloc[:2]
    (videos / gone).unlink()
    (videos / changed).write_bytes(b"another length")
    assert missing_files(manifests, videos) == [
        f"1 clips of test are not on disk, the first is {gone}.",
        f"1 clips of test have another size now, the first is {changed}.",
    ]


def test_duplicate_names_fails(manifests: Manifests):
    test = pd.concat([manifests.test, manifests.train.iloc[[3]]])
    assert duplicate_names(replace(manifests, test=test)) == [
        f"1 clips stand in the manifests twice, the first is {manifests.train['clip'].iloc[3]}."
    ]


def test_class_share_fails(manifests: Manifests):
    test = manifests.test[manifests.test["label"] != "run"]
    assert class_share(replace(manifests, test=test)) == ["run has 0 of 24 clips in test, not 30% of them."]


def test_label_problems_fails(manifests: Manifests):
    train, test = manifests.train.copy(), manifests.test.copy()
    train.loc[0, "label_index"] = 2
    test.loc[0, "clip"] = "run/" + test.loc[0, "clip"].split("/")[1]
    assert label_problems(Manifests(train, manifests.val, test, {}), CLASSES) == [
        f"1 clips of train have a label that does not fit their index or folder, the first is {train.loc[0, 'clip']}.",
        f"1 clips of test have a label that does not fit their index or folder, the first is {test.loc[0, 'clip']}.",
    ]
    assert label_problems(manifests, CLASSES[::-1])


def test_full_dataset_problems_fails(manifests: Manifests):
    assert full_dataset_problems(replace(manifests, summary=manifests.summary | {"split": 4}), CLASSES, HMDB51) == [
        "3 classes instead of 51.",
        "120 clips on disk instead of 6766.",
        "120 clips listed instead of 6766.",
        "72 train clips, validation included instead of 3570.",
        "36 test clips instead of 1530.",
        "12 unused clips instead of 1666.",
        "The class list is not that of HMDB51 in its order.",
        "Split 4 is not one of the official splits 1, 2, 3.",
    ]


# --- storing -------------------------------------------------------------------------------------------


def test_a_manifest_survives_the_disk(manifests: Manifests, tmp_path: Path):
    odd = manifests.train.copy()
    odd.loc[0, "film"] = 'NA, "quoted" ;#~[]@ é\n'
    odd.loc[1, "label"] = "nan"
    for part in (odd, manifests.val.iloc[:0]):
        write_manifest(part, tmp_path / "manifest.csv")
        pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.csv"), part)


def test_what_is_no_manifest_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="there is no manifest"):
        read_manifest(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_text("clip,label\n")
    with pytest.raises(DatasetError, match="lacks label_index, film, split, role, bytes"):
        read_manifest(tmp_path / "train.csv")
