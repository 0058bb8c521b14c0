"""Recordings: told by names, inferred from names and pictures, or not known; and content on two sides of a split."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from har_assets.dataset import fingerprints as prints
from har_assets.dataset.checks import near_twins
from har_assets.dataset.dvc import FileHash
from har_assets.dataset.fingerprints import VALUES, Content
from har_assets.dataset.folder import Dataset
from har_assets.dataset.groups import INFERRED, KNOWN, UNKNOWN, knowledge_of
from har_assets.dataset.recordings import find_recordings, neighbours
from har_assets.dataset.sorting import SortedClips, sort_clips
from har_assets.errors import DatasetError
from har_assets.system.files import silent
from har_assets_tests.videos import write_video

CLASSES = ("run", "sit", "walk")


def seen(count: int) -> NDArray[np.bool_]:
    return np.ones(count, dtype=bool)


def places(recordings: NDArray[np.int64], noise: float = 3.0, spread: float = 40.0) -> NDArray[np.uint8]:
    """Fingerprints of videos of these recordings, each before a background of its own."""
    rng = np.random.default_rng(0)
    backgrounds = rng.normal(128, spread, (int(recordings.max()) + 1, VALUES))
    return (backgrounds[recordings] + rng.normal(0, noise, (len(recordings), VALUES))).clip(0, 255).astype(np.uint8)


def test_a_part_of_the_names_that_pictures_confirm_is_the_recording() -> None:
    people = np.arange(60) % 10
    clips = [f"{CLASSES[n % 3]}/{'abcdefghij'[people[n]]}na_{CLASSES[n % 3]}_{n}.mp4" for n in range(60)]
    found = find_recordings(clips, places(people), seen(60))
    assert found is not None
    assert "by part 1 of the file names" in found.how
    assert len(set(zip(people.tolist(), found.groups_N, strict=True))) == len(set(found.groups_N)) == 10


def test_a_serial_number_that_pictures_do_not_confirm_is_none() -> None:
    """Where every background differs nothing is known; where some are shared these are the recordings."""
    serial = [f"{CLASSES[n % 3]}/{CLASSES[n % 3]}_{n // 3 % 10:02d}.mp4" for n in range(60)]
    assert find_recordings(serial, places(np.arange(60)), seen(60)) is None
    shuffled = np.random.default_rng(1).permutation(60) % 12
    found = find_recordings(serial, places(shuffled), seen(60))
    assert found is not None
    assert found.how.startswith("by their backgrounds")
    assert len(set(zip(shuffled.tolist(), found.groups_N, strict=True))) == len(set(found.groups_N)) == 12


def test_one_background_for_all_a_ladder_of_backgrounds_and_few_videos_tell_nothing() -> None:
    names = [f"run/{n:x}q.mp4" for n in range(60)]
    assert find_recordings(names, places(np.zeros(60, dtype=np.int64)), seen(60)) is None
    ladder = np.repeat(np.arange(60)[:, None] * 4, VALUES, axis=1).astype(np.uint8)  # a chain, each link alike
    assert find_recordings(names, ladder, seen(60)) is None
    assert find_recordings(names[:8], places(np.arange(8) // 2), seen(8)) is None


def test_backgrounds_that_some_videos_alone_share_are_not_believed() -> None:
    some = np.concatenate([np.arange(42) % 10, np.arange(10, 28)])
    assert find_recordings([f"run/{n:x}q.mp4" for n in range(60)], places(some), seen(60)) is None


def test_a_video_without_a_fingerprint_is_a_recording_of_its_own() -> None:
    recordings = np.arange(60) % 12
    lost = seen(60)
    lost[[0, 12]] = False
    found = find_recordings([f"run/{n:x}q.mp4" for n in range(60)], places(recordings), lost)
    assert found is not None
    assert len(set(found.groups_N)) == 14


def test_neighbours_are_those_of_all_distances() -> None:
    few, many = places(np.arange(300) % 40), places(np.arange(500))
    distance_NM = np.sqrt(((few[:, None].astype(float) - many[None]) ** 2).mean(axis=2))
    distances, found = neighbours(few, many, 3)
    np.testing.assert_allclose(np.sort(distances), np.sort(distance_NM)[:, :3], atol=0.05)
    np.testing.assert_allclose(np.take_along_axis(distance_NM, found, 1), distances, atol=0.05)
    itself, _ = neighbours(few, few, 1)
    assert itself.min() > 1


class Videos:
    """A data folder of videos, each before one of some backgrounds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, clip: str, place: int, mark: int = 0) -> None:
        rng = np.random.default_rng(place)
        background = rng.integers(0, 255, (6, 8, 3)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
        frames = np.repeat(background[None], 8, axis=0)
        for number, frame in enumerate(frames):
            frame[4 + mark % 40 : 8 + mark % 40, 4 + 4 * number : 10 + 4 * number] = 255
        path = self.folder / "videos" / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames)

    def copy(self, clip: str, other: str) -> None:
        target = self.folder / "videos" / other
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / "videos" / clip, target)

    def sort(self, groups: str = "auto", lists: str = "", val_fraction: float = 0.2) -> SortedClips:
        Dataset("mine", synthetic=False, classes=CLASSES, complete=False).write(self.folder)
        if lists:
            (self.folder / "splits").mkdir(exist_ok=True)
            (self.folder / "splits" / "split1.csv").write_text(lists)
        return sort_clips(self.folder, split=1, val_fraction=val_fraction, seed=0, groups=groups, content=self.content)

    @property
    def content(self) -> Content:
        return dataclasses.replace(Content.of(self.folder, (), self.folder / "work", silent), workers=1)


def films(found: SortedClips) -> dict[str, str]:
    return {
        clip: film for _, part in found.manifests.items() for clip, film in zip(part["clip"], part["film"], strict=True)
    }


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 videos of three classes before nine backgrounds; names tell nothing."""
    folder = tmp_path_factory.mktemp("filmed")
    made = Videos(folder)
    for number in range(36):
        made.add(f"{CLASSES[number % 3]}/{hashlib.md5(bytes([number])).hexdigest()}.mp4", number // 4, number)
    return folder


@pytest.fixture
def videos(filmed: Path, tmp_path: Path) -> Videos:
    shutil.copytree(filmed, tmp_path / "data")
    return Videos(tmp_path / "data")


def test_videos_of_one_background_stay_on_one_side(videos: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    found = videos.sort()
    summary = found.manifests.summary
    assert summary["groups"] == INFERRED
    assert summary["groups_found"].startswith("by their backgrounds: 100%")
    assert len(set(films(found).values())) == 9
    assert found.problems["films_on_both_sides"] == found.problems["near_twins"] == []
    assert summary["source"] == "seeded 70/30 by film"
    assert found.identity != videos.sort(groups="none").identity
    monkeypatch.setattr(prints, "decode_many", None)  # a second look decodes nothing
    assert films(videos.sort()) == films(found)


def test_a_damaged_file_of_fingerprints_is_made_again(videos: Videos) -> None:
    first = films(videos.sort())
    kept = videos.folder / "work" / prints.FILE
    kept.write_bytes(kept.read_bytes()[:200])
    assert films(videos.sort()) == first


def test_an_undecodable_video_costs_itself_alone(videos: Videos) -> None:
    (videos.folder / "videos" / "run" / "broken.mp4").write_bytes(b"no video")
    found = videos.sort()
    assert found.manifests.summary["groups"] == INFERRED
    assert len(set(films(found).values())) == 10


def test_a_split_by_file_is_said_and_its_twins_are_counted(videos: Videos) -> None:
    found = videos.sort(groups="none")
    assert found.manifests.summary["groups"] == UNKNOWN
    assert found.manifests.summary["source"] == "seeded 70/30 by file"
    assert found.checks["films_on_both_sides"] == {
        "passed": False,
        "problems": [
            "It is not known which videos are of one recording, so the split is by file: name the recordings with the "
            "option groups of the manifests."
        ],
        "warning": True,
    }
    assert not found.checks["near_twins"]["passed"]
    assert found.checks["near_twins"]["warning"]
    assert found.problems["near_twins"][0].startswith(("100% of the test", "9")), found.problems["near_twins"]


def test_near_twins_are_looked_for_where_films_are_not_known_alone(videos: Videos) -> None:
    manifests = videos.sort(groups="([0-9a-f])[0-9a-f]*[.]mp4").manifests
    assert manifests.summary["groups"] == KNOWN
    assert near_twins(manifests, videos.folder / "videos", videos.content) == []


@pytest.mark.parametrize("groups", ["auto", "none"])
def test_equal_files_stay_on_one_side_of_a_split_that_is_made(videos: Videos, groups: str) -> None:
    clips = sorted(videos.content.hashes)
    for number, clip in enumerate(clips):
        videos.copy(clip, f"{clip.partition('/')[0]}/copy{number}.mp4")
    found = videos.sort(groups=groups)
    film_of = films(found)
    assert all(film_of[clip] == film_of[f"{clip.partition('/')[0]}/copy{n}.mp4"] for n, clip in enumerate(clips))
    assert found.problems["equal_content"] == []
    assert not found.is_refused


def test_equal_files_in_train_and_test_of_given_lists_are_refused(videos: Videos) -> None:
    clips = sorted(videos.content.hashes)
    videos.copy(clips[0], "run/again.mp4")
    roles = {clip: "test" if number % 3 == 1 else "train" for number, clip in enumerate(clips)} | {
        clips[0]: "train",
        "run/again.mp4": "test",
    }
    lists = "video,label,split\n" + "".join(f"{c},{c.partition('/')[0]},{role}\n" for c, role in roles.items())
    found = videos.sort(lists=lists, val_fraction=0)
    assert found.problems["equal_content"] == [
        f"1 test videos are also in train or validation, byte for byte: run/again.mp4 = {clips[0]}."
    ]
    assert found.checks["equal_content"]["warning"] is False
    assert found.is_refused
    with pytest.raises(DatasetError, match=rf"tests on files that it trains on .*again\.mp4 = {clips[0]}.*: take one"):
        found.refuse()


def test_one_file_in_two_classes_fails_its_check(videos: Videos) -> None:
    clip = next(iter((videos.folder / "videos" / "run").iterdir()))
    videos.copy(f"run/{clip.name}", "sit/again.mp4")
    found = videos.sort()
    (problem,) = found.problems["equal_content"]
    assert problem.startswith("1 videos are in two classes, byte for byte: ")
    assert "sit/again.mp4" in problem
    assert f"run/{clip.name}" in problem
    assert not found.checks["equal_content"]["passed"]
    assert not found.checks["equal_content"]["warning"]


def test_an_expression_names_the_recording(tmp_path: Path) -> None:
    made = Videos(tmp_path)
    for number in range(18):
        made.add(f"{CLASSES[number % 3]}/{number}-day{number // 3}.mp4", number)
    found = made.sort(groups=r"-(day\d+)")
    assert found.manifests.summary["groups"] == KNOWN
    assert set(films(found).values()) == {f"day{day}" for day in range(6)}
    assert found.problems["films_on_both_sides"] == []
    refused = {
        "(": "no regular expression",
        "day": "with 0 groups",
        "(x)": "of no video",
        "name": "of no video",
        "folder": "label: top",
    }
    for wrong, why in refused.items():
        with pytest.raises(DatasetError, match=why):
            made.sort(groups=wrong)


def test_published_hashes_are_taken_and_a_file_put_there_by_hand_is_hashed(tmp_path: Path) -> None:
    for name in ("1.mp4", "2.mp4"):
        (tmp_path / "videos" / "run").mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / "run" / name).write_bytes(b"video")
    listed = [FileHash(md5="published", relpath="videos/run/1.mp4")]
    found = Content.of(tmp_path, listed, tmp_path / "work", silent)
    assert found.hashes == {"run/1.mp4": "published", "run/2.mp4": hashlib.sha256(b"video").hexdigest()}


def test_an_old_manifest_says_what_it_knows() -> None:
    assert knowledge_of({"split_source": "seeded 70/30 by file", "clips": 9, "films": 9}) == (UNKNOWN, "")
    assert knowledge_of({"split_source": "lists", "clips": 9, "films": 9}) == (UNKNOWN, "")
    assert knowledge_of({"split_source": "lists", "clips": 9, "films": 4}) == (KNOWN, "")
    assert knowledge_of({"groups": INFERRED, "groups_found": "by x"}) == (INFERRED, "by x")
