"""Sources of one's own from raw_archive to manifests: the layouts and lists of docs/own_data.md, and refusals."""

import io
import json
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from har_assets.dataset.archive import extract_split_lists
from har_assets.dataset.checks import NOT_KNOWN
from har_assets.dataset.clips import unpack
from har_assets.dataset.dvc import DvcRepository, files_of, version_of
from har_assets.dataset.sorting import SortedClips, sort_clips
from har_assets.dataset.sources import own
from har_assets.dataset.sources.source import Request
from har_assets.errors import HarError
from har_assets.store.folder import ArtifactFolder
from har_assets.system.files import silent
from har_assets_tests.dataset.publishing import publish

Files = dict[str, bytes]


def videos(*names: str) -> Files:
    """Videos whose content is their name."""
    return {name: name.encode() for name in names}


def write(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zipped(folder: Path, files: Files) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return folder.with_suffix(".zip")


class Own:
    """A project on a source of one's own."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.data = project / "data"
        self.notes: tuple[str, ...] = ()

    def fill(
        self,
        files: Files,
        lists: Files | None = None,
        label: str = "auto",
        pack: Callable[[Path, Files], Path] = write,
    ) -> "Own":
        """Make raw_archive of a folder or archive `mine`, with lists in a folder, and unpack it as video_clips does."""
        source = pack(self.project / "mine", files)
        named = str(write(self.project / "lists", lists)) if lists else ""
        store = ArtifactFolder(self.project / "artifacts")
        request = Request(str(source), self.project, store, DvcRepository(), split_lists=named, label=label)
        own.identity(request)
        archive = publish(store, "raw_archive", partial(own.build, request=request))
        self.data.mkdir()
        self.notes = unpack(archive, self.data, 1, silent)
        return self

    @property
    def clips(self) -> dict[str, str]:
        """Video below data/videos to its content."""
        folder = self.data / "videos"
        return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.*"))}

    def sort(self, split: int = 1, val_fraction: float = 0.0) -> SortedClips:
        return sort_clips(self.data, split=split, val_fraction=val_fraction, seed=0)

    def roles(self, split: int = 1, val_fraction: float = 0.0) -> dict[str, list[str]]:
        manifests = self.sort(split, val_fraction).manifests
        return {role: part["clip"].tolist() for role, part in manifests.items()}

    def refused(self, match: str, files: Files, lists: Files | None = None, label: str = "auto") -> None:
        """The source, or what is made of it, is refused in one sentence."""
        with pytest.raises(HarError, match=match) as caught:
            self.fill(files, lists, label).sort()
        message = str(caught.value)
        assert message.endswith(".")
        assert "\n" not in message
        assert ": " in message


@pytest.fixture
def mine(tmp_path: Path) -> Own:
    return Own(tmp_path)


def divided(words: Iterable[str], form: str = "{split}/{label}/{number}.avi", count: int = 3) -> Files:
    return videos(
        *(
            form.format(split=split, label=label, number=number)
            for split in words
            for label in ("golf", "wave")
            for number in range(count)
        )
    )


# --- folders for splits -------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [write, zipped])
@pytest.mark.parametrize("form", ["{split}/{label}/{number}.avi", "data/{label}/{split}/{number}.avi"])
def test_folders_for_splits_are_the_split(mine: Own, form: str, pack: Callable[[Path, Files], Path]) -> None:
    mine.fill(divided(("Train", "TESTING"), form), pack=pack)
    assert len(mine.clips) == 12
    for clip, content in mine.clips.items():  # each under a name that tells where it was
        label, _, name = clip.partition("/")
        split, number = name.split("_")
        assert content == form.format(split=split, label=label, number=number.removesuffix(".avi"))
    roles = mine.roles()
    assert [clip.split("/")[1][:5] for clip in roles["train"]] == ["Train"] * 6
    assert [clip.split("/")[1][:7] for clip in roles["test"]] == ["TESTING"] * 6
    held_out = mine.roles(val_fraction=0.34)
    assert len(held_out["val"]) == 2
    assert held_out["test"] == roles["test"]
    notes = " ".join(mine.sort(val_fraction=0.34).manifests.summary["notes"])
    assert "The split is that of the source's folders" in notes
    assert "There is no folder for validation: it is held out of train by whole films" in notes
    assert any("12 videos share a name" in note for note in mine.notes)


@pytest.mark.parametrize(
    "words", [("train", "val", "test"), ("Training", "VALIDATION", "Testing"), ("train", "valid", "test")]
)
def test_a_folder_for_validation_is_the_validation_set(mine: Own, words: tuple[str, str, str]) -> None:
    mine.fill(divided(words, "{split}/{label}/{split}{number}.avi"))
    for word, part in zip(words, mine.roles(val_fraction=0.5).values(), strict=True):
        assert [clip.split("/")[1] for clip in part] == [f"{word}{number}.avi" for number in range(3)] * 2
    notes = mine.sort(val_fraction=0.5).manifests.summary["notes"]
    assert any("The validation set is that of the folders: val_fraction is not used" in note for note in notes)


def test_without_a_test_folder_the_test_set_is_empty_and_the_notes_say_what_to_do(mine: Own) -> None:
    mine.fill(divided(("train", "val")))
    assert mine.roles()["test"] == []
    notes = " ".join(mine.sort().manifests.summary["notes"])
    assert "name the validation set test instead" in notes


def test_one_folder_train_around_everything_is_no_split(mine: Own) -> None:
    mine.fill(divided(("train",), count=10))
    assert len(mine.roles()["test"]) == 6
    assert any("below the folder train, which is taken for no split" in note for note in mine.notes)
    assert not (mine.data / "splits").exists()


def test_archives_for_splits(mine: Own) -> None:
    mine.fill(
        {
            "train.zip": zip_of(videos("golf/1.avi", "wave/2.avi")),
            "test.zip": zip_of(videos("test/golf/3.avi", "test/wave/4.avi")),
        }
    )
    assert mine.roles() == {"train": ["golf/1.avi", "wave/2.avi"], "val": [], "test": ["golf/3.avi", "wave/4.avi"]}


def zip_of(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return buffer.getvalue()


def test_a_film_that_both_splits_show_is_still_seen_after_renaming(mine: Own) -> None:
    name = "film_golf_f_nm_np1_fr_med_0.avi"
    mine.fill(videos(f"train/golf/{name}", f"test/golf/{name}", "train/wave/1.avi", "test/wave/2.avi"))
    found = mine.sort()
    assert found.manifests.train["film"].tolist() == ["film", "wave/1"]
    shared = "1 films are both in train and in test, the first is film (golf)."
    assert found.problems["films_on_both_sides"] == [NOT_KNOWN, shared]
    assert not found.checks["films_on_both_sides"]["warning"]


def test_lists_go_before_folders_for_splits(mine: Own) -> None:
    names = ("train/golf/1.avi", "train/golf/2.avi", "test/golf/3.avi", "train/run/1.avi", "test/run/2.avi")
    lists = {"golf_test_split1.txt": b"1.avi 2\n2.avi 1\n3.avi 1\n", "run_test_split1.txt": b"1.avi 2\n2.avi 1\n"}
    mine.fill(videos(*names), lists)
    assert mine.roles()["test"] == ["golf/1.avi", "run/1.avi"]
    assert any("folders of the splits are passed over" in note for note in mine.notes)
    assert (mine.data / "splits" / "golf_test_split1.txt").read_bytes() == lists["golf_test_split1.txt"]


# --- classes ------------------------------------------------------------------------------------------

SCENES = videos(
    *(f"{label}/v_{label}_{scene:02}/{n}.mpg" for label in ("biking", "diving") for scene in range(4) for n in range(2))
)


def test_scenes_are_classes_or_recordings_as_label_says(mine: Own) -> None:
    mine.fill(SCENES, label="top")
    assert len(mine.clips) == 16
    assert {clip.split("/")[0] for clip in mine.clips} == {"biking", "diving"}
    manifests = mine.sort(val_fraction=0.3).manifests
    films = [set(part["film"]) for _, part in manifests.items()]
    assert [len(part) for part in films] == [4, 2, 2]
    assert set.union(*films) == {
        f"{label}/v_{label}_{scene:02}" for label in ("biking", "diving") for scene in range(4)
    }
    assert any("one recording" in note for note in mine.notes)
    again = Own(mine.project / "again").fill(SCENES, label="parent")
    assert len({clip.split("/")[0] for clip in again.clips}) == 8


@pytest.mark.parametrize("label", ["parent", "Top"])
def test_one_class_name_below_several_parents(mine: Own, label: str) -> None:
    files = videos("sport/s01/1.avi", "daily/s01/1.avi", "sport/s02/2.avi", "daily/s02/3.avi")
    mine.fill(files, label=label)
    assert sorted(mine.clips.values()) == sorted(files)
    assert list(mine.clips) == (
        ["s01/daily_1.avi", "s01/sport_1.avi", "s02/2.avi", "s02/3.avi"]
        if label == "parent"
        else ["daily/1.avi", "daily/3.avi", "sport/1.avi", "sport/2.avi"]
    )


AMBIGUOUS = {
    "scenes": (SCENES, r"set label on raw_archive to parent \(8 classes: .*\) or to top \(2 classes: biking, diving\)"),
    "several parents": (videos("sport/s01/1.avi", "daily/s01/2.avi"), "s01 occurs in 2 places"),
    "a folder in a class": (videos("golf/1.avi", "run/2.avi", "run/extra/3.avi"), "may be extra or run"),
    "one part beside the split": (videos("train/golf/1.avi", "test/golf/2.avi", "extra/golf/3.avi"), "extra/golf/3"),
    "a test set without classes": (videos("train/golf/1.avi", "train/run/2.avi", "test/3.avi"), "test/3.avi does not"),
    "splits without classes": (videos("train/1.avi", "test/2.avi"), "named like splits"),
    "several divisions": (divided(("a/train", "a/test", "b/train", "b/test")), "in 2 places"),
    "no train": (divided(("val", "test")), "none in a folder train"),
    "parts": (
        {f"p{n}.zip": zip_of(videos(f"golf/{n}.avi", f"run/{n}.avi")) for n in (1, 2)},
        "golf occurs in 2 places",
    ),
    "loose": (videos("golf/1.avi", "2.avi"), "2.avi lies outside any folder"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_a_layout_that_can_be_read_in_two_ways_is_refused(mine: Own, case: str) -> None:
    mine.refused(AMBIGUOUS[case][1], AMBIGUOUS[case][0])


def test_a_class_named_like_a_split_is_a_class(mine: Own) -> None:
    mine.fill(videos("training/1.avi", "training/2.avi", "running/1.avi"))
    assert set(mine.clips) == {"training/1.avi", "training/2.avi", "running/1.avi"}
    assert "The folder training is taken for a class, not for a split." in mine.notes
    again = Own(mine.project / "again").fill(videos("train/1.avi", "test/2.avi"), label="parent")
    assert set(again.clips) == {"train/1.avi", "test/2.avi"}


def test_classes_that_differ_in_case_alone_are_told(mine: Own) -> None:
    mine.fill(videos("train/Golf/1.avi", "train/run/2.avi", "test/golf/3.avi", "test/run/4.avi"))
    assert any("differ in nothing but case" in note for note in mine.notes)
    assert "1 of 3 classes have no clip to train on." in mine.sort().manifests.summary["notes"]


def test_a_new_name_that_is_taken_is_refused(mine: Own) -> None:
    files = videos("train/golf/1.avi", "test/golf/1.avi", "train/golf/test_1.avi", "train/run/1.avi", "test/run/2.avi")
    mine.refused("two members would become golf/test_1.avi", files)
    long = f"{'x' * 250}.avi"
    Own(mine.project / "long").refused("more than 255 bytes", videos(f"train/a/{long}", f"test/a/{long}"))


def tar_of(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


LABEL_FILES = {
    "shards": {f"00000{n}.tar": tar_of(videos(f"{n}.mp4", f"{n}.cls")) for n in (0, 1)},
    "shards of json": {f"shard-00000{n}.tar": tar_of(videos(f"{n}.mp4", f"{n}.json")) for n in (0, 1)},
    "unpacked shards": videos(*(f"00000{n}/{m}.{end}" for n in (0, 1) for m in (0, 1) for end in ("mp4", "txt"))),
    "no folders": videos("000000.mp4", "000000.cls", "000001.mp4", "000001.cls"),
    "a folder a video": videos("000000/v.mp4", "000000/label.txt", "000001/v.mp4", "000001/label.txt"),
}


@pytest.mark.parametrize("case", LABEL_FILES)
def test_classes_in_files_beside_the_videos_are_refused(mine: Own, case: str) -> None:
    mine.refused(r"beside .*, as in WebDataset shards", LABEL_FILES[case])


def test_texts_beside_videos_in_class_folders_do_no_harm(mine: Own) -> None:
    names = [f"{label}/{n}.{end}" for label in ("golf", "run") for n in (1, 2) for end in ("mp4", "json")]
    mine.fill(videos(*names))
    assert set(mine.clips) == {name for name in names if name.endswith("mp4")}


# --- a CSV --------------------------------------------------------------------------------------------

FLAT = videos(*(f"videos/v{n}.mp4" for n in range(8)))
ROWS = [("golf", "run")[n % 2] + f",v{n}.mp4,p{n // 2},{'Testing' if n > 5 else 'train'}" for n in range(8)]
TABLE = "\r\n".join(["Label,VIDEO,group,Split", *ROWS])
OF_TABLE = {
    "train": [f"golf/v{n}.mp4" for n in (0, 2, 4)] + [f"run/v{n}.mp4" for n in (1, 3, 5)],
    "val": [],
    "test": ["golf/v6.mp4", "run/v7.mp4"],
}


@pytest.mark.parametrize("label", ["auto", "csv", "CSV"])
@pytest.mark.parametrize("pack", [write, zipped])
@pytest.mark.parametrize(("separator", "mark"), [(",", ""), (";", "\ufeff")])
def test_a_table_tells_classes_split_and_recordings(
    mine: Own, label: str, pack: Callable[[Path, Files], Path], separator: str, mark: str
) -> None:
    mine.fill(FLAT, {"l.csv": (mark + TABLE.replace(",", separator)).encode()}, label, pack)
    assert mine.clips == {clip: f"videos/{clip.split('/')[1]}" for part in OF_TABLE.values() for clip in part}
    assert mine.roles() == OF_TABLE
    manifests = mine.sort(val_fraction=0.34).manifests
    assert [sorted(set(part["film"])) for _, part in manifests.items()] == [["p0", "p2"], ["p1"], ["p3"]]
    assert "The classes are those of l.csv." in mine.notes


def test_recordings_of_a_table_without_a_split_stay_together(mine: Own) -> None:
    rows = [f"mine/videos/v{n},{('golf', 'run')[n % 2]},p{n // 2}" for n in range(8)]
    mine.fill(FLAT, {"l.csv": "\n".join(["video,label,group", *rows]).encode()})
    films = []
    for split in (1, 2, 3):
        found = mine.sort(split, val_fraction=0.3)
        assert found.problems["films_on_both_sides"] == []
        assert [part["film"].nunique() for _, part in found.manifests.items()] == [2, 1, 1]
        assert found.manifests.summary["source"] == "seeded 70/30 by film"
        films.append(sorted(set(found.manifests.test["film"])))
    assert films[0] != films[1] or films[1] != films[2]
    with pytest.raises(HarError, match="there is no split 4"):
        mine.sort(4)


def test_a_table_inside_the_source_or_named_itself(mine: Own, tmp_path: Path) -> None:
    write(tmp_path / "in", {**FLAT, "labels.csv": TABLE.encode(), "videos/._labels.csv": b"junk"})
    assert extract_split_lists(tmp_path / "in", tmp_path / "from_folder") == 1
    assert extract_split_lists(tmp_path / "in" / "labels.csv", tmp_path / "itself") == 1
    for folder in ("from_folder", "itself"):
        assert (tmp_path / folder / "labels.csv").read_bytes() == TABLE.encode()
    with pytest.raises(HarError, match="is no split list: expected"):
        extract_split_lists(write(tmp_path / "x", {"labels.txt": b"x"}) / "labels.txt", tmp_path / "none")


def test_files_named_after_splits_and_numbered_splits(mine: Own) -> None:
    two = b"video,label\nv0.mp4,golf\nv1.mp4,run\n"
    other = b"video,label\nv2,golf\nvideos\\v3,run\n"
    mine.fill(FLAT, {"train.csv": two, "Test.csv": other})
    assert mine.roles() == {"train": ["golf/v0.mp4", "run/v1.mp4"], "val": [], "test": ["golf/v2.mp4", "run/v3.mp4"]}
    assert any("4 videos are in no list and are left out" in note for note in mine.notes)
    header = "video,label,split\n"
    again = Own(mine.project / "again").fill(
        FLAT,
        {
            "split1.csv": f"{header}v0.mp4,a,train\nv1.mp4,a,test\n".encode(),
            "split2.csv": f"{header}v0.mp4,a,test\nv1.mp4,a,train\n".encode(),
        },
    )
    assert [again.roles(split)["test"] for split in (1, 2)] == [["a/v1.mp4"], ["a/v0.mp4"]]
    with pytest.raises(HarError, match=r"there is no split 3 .*: choose one of 1, 2"):
        again.sort(3)


def test_a_table_goes_with_folders(mine: Own) -> None:
    files = videos("train/1.mp4", "train/2.mp4", "test/1.mp4", "test/2.mp4")
    table = b"video,label\ntrain/1.mp4,golf\ntrain/2.mp4,run\ntest/1.mp4,golf\ntest/2.mp4,run\n"
    mine.fill(files, {"l.csv": table})
    assert mine.roles()["test"] == ["golf/test_1.mp4", "run/test_2.mp4"]
    assert {mine.clips[clip] for clip in mine.roles()["test"]} == {"test/1.mp4", "test/2.mp4"}
    files = videos("golf/1.mp4", "run/1.mp4", "run/2.mp4")
    crossed = {"l.csv": b"video,label\ngolf/1.mp4,run\nrun/1.mp4,golf\n"}
    for label in ("auto", "parent"):
        Own(mine.project / label).refused(
            "gives mine / golf/1.mp4 the class run, and its folder", files, crossed, label
        )
    again = Own(mine.project / "again").fill(files, crossed, "csv")
    assert again.clips == {"golf/1.mp4": "run/1.mp4", "run/1.mp4": "golf/1.mp4"}


def test_names_with_accents_match_in_either_form_of_unicode(mine: Own) -> None:
    name = unicodedata.normalize("NFD", "videos/läuft.mp4")
    table = unicodedata.normalize("NFC", "video,label\nläuft.mp4,läuft\nb.mp4,geht\n")
    mine.fill(videos(name, "videos/b.mp4"), {"l.csv": table.encode()})
    assert sorted(mine.clips.values()) == sorted([name, "videos/b.mp4"])


def test_absent_videos_are_counted(mine: Own) -> None:
    rows = "video,label,split\nv0.mp4,golf,train\nv1.mp4,run,train\nold/v1.mp4,run,test\n"
    mine.fill(FLAT, {"l.csv": rows.encode()})
    summary = mine.sort().manifests.summary
    assert (summary["listed"], summary["absent"]) == (3, 1)
    assert "1 of 3 listed clips are not on disk." in summary["notes"]


WRONG = {
    "code page": ("video,label\nv0.mp4,gölf\n".encode("latin-1"), "l.csv is not a text in UTF-8"),
    "utf-16": (TABLE.encode("utf-16"), "not a text in UTF-8"),
    "zeros": (b"video,label\n\0\n", "zero bytes"),
    "empty": (b"\n", "l.csv is empty"),
    "header alone": (b"video,label\n", "no line below it"),
    "no header": (b"v0.mp4,golf\n", "not a header with the columns video and label"),
    "other columns": (b"clip,group\nv0.mp4,a\n", "not a header with the columns video and label"),
    "column twice": (b"video,label,label\nv0.mp4,a,b\n", "names a column twice"),
    "split": (b"video,label,split\nv0.mp4,golf,dev\n", "line 2 of l.csv has the split 'dev'"),
    "split of some": (b"video,label,split\nv0.mp4,golf,train\nv1.mp4,run,\n", "line 3 of l.csv has the split ''"),
    "cells": (b"video,label\nv0.mp4,golf,x\n", "line 2 of l.csv has 3 cells"),
    "quotes": (b'video,label\n"v0.mp4,golf\n', "no line of a CSV"),
    "two roles": (
        b"video,label,split\nv0.mp4,golf,train\nvideos/v0,golf,test\n",
        "twice, as golf train and as golf test",
    ),
    "two classes": (b"video,label\nv0.mp4,golf\nv0.mp4,run\n", "twice, as golf and as run"),
    "two groups": (b"video,label,group\nv0.mp4,golf,a\nv0.mp4,golf,b\n", "twice, as golf a and as golf b"),
    "case": (b"video,label\nv0.mp4,golf\nv1.mp4,Golf\n", "the classes Golf and golf"),
    "no class": (b"video,label\nv0.mp4,\n", "line 2 of l.csv names no class"),
    "no folder": (b"video,label\nv0.mp4,a/b\n", "cannot be the name of a folder"),
    "long": (b"video,label\nv0.mp4," + b"x" * 256 + b"\n", "more than 255 bytes"),
    "no video": (b"video,label\n,golf\n", "no path in the source"),
    "another data set": (b"video,label\nx.mp4,golf\n", "None of the 1 videos that l.csv lists is in mine"),
    "an absent class": (b"video,label\nv0.mp4,golf\nx.mp4,swim\n", r"1 classes of which mine holds no video \(swim\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_refused(mine: Own, case: str) -> None:
    mine.refused(WRONG[case][1], FLAT, {"l.csv": WRONG[case][0]})


def test_a_name_in_two_places_is_refused_without_its_folder(mine: Own) -> None:
    files = videos("golf/0.mp4", "run/0.mp4", "1.mp4", "run/1.mp4")
    mine.refused("may be golf/0.mp4 or run/0.mp4: write the folder", files, {"l.csv": b"video,label\n0.mp4,golf\n"})
    again = Own(mine.project / "again").fill(files, {"l.csv": b"video,label\n1.mp4,golf\nrun/1.mp4,run\n"})
    assert again.clips == {"golf/1.mp4": "1.mp4", "run/1.mp4": "run/1.mp4"}


def test_label_is_one_of_four_words(mine: Own) -> None:
    mine.refused("choose auto, parent, top, csv; split_lists names the list", FLAT, label="labels.csv")
    Own(mine.project / "b").refused("label: csv takes the classes from a list, and none is named", FLAT, label="csv")


# --- UCF101's lists -----------------------------------------------------------------------------------

UCF = [
    f"{label}/v_{label}_g{group:02}_c{clip:02}.avi"
    for label in ("Archery", "Biking")
    for group in range(1, 6)
    for clip in (1, 2)
]
UCF_CLASSES = b"1 Archery\n2 Biking\n"


def ucf_list(groups: Iterable[int], *, numbers: bool) -> bytes:
    names = [name for name in UCF if int(name[-10:-8]) in groups]
    lines = [f"{name} {1 + name.startswith('Biking')}" if numbers else name for name in names]
    return "\n".join(lines).encode()


@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("pack", [write, zipped])
def test_ucf101s_lists(mine: Own, numbers: bool, pack: Callable[[Path, Files], Path]) -> None:
    lists = {
        "ucfTrainTestlist/classInd.txt": UCF_CLASSES,
        "ucfTrainTestlist/trainlist01.txt": ucf_list((3, 4, 5), numbers=numbers),
        "ucfTrainTestlist/testlist01.txt": ucf_list((1, 2), numbers=False),
        "ucfTrainTestlist/trainlist02.txt": ucf_list((1, 2, 3), numbers=numbers),
        "ucfTrainTestlist/testlist02.txt": ucf_list((4, 5), numbers=False),
    }
    mine.fill(videos(*(f"UCF-101/{name}" for name in UCF)), lists, pack=pack)
    assert list(mine.clips) == UCF
    for split, groups in ((1, (1, 2)), (2, (4, 5))):
        manifests = mine.sort(split, val_fraction=0.34).manifests
        assert sorted(manifests.test["clip"]) == ucf_list(groups, numbers=False).decode().split()
        films = [set(part["film"]) for _, part in manifests.items()]
        assert [len(part) for part in films] == [4, 2, 4]
        assert not films[0] & films[1]


@pytest.mark.parametrize(
    ("lists", "match"),
    [
        (
            {"trainlist01.txt": b"Archery/v_Archery_g01_c01.avi 2\n", "classInd.txt": UCF_CLASSES},
            "the number 2, and classInd",
        ),
        (
            {"trainlist01.txt": b"Archery/v_Archery_g01_c01.avi 1\n", "classInd.txt": b"1 Rowing\n"},
            "not in classInd.txt",
        ),
        ({"trainlist01.txt": b"v_Archery_g01_c01.avi 1\n"}, "line 1 of trainlist01.txt is 'v_Archery"),
        ({"trainlist01.txt": b"Archery/v_Archery_g01_c01.avi 1\n", "classInd.txt": b"one\n"}, "line 1 of classInd.txt"),
        ({f"{name}list01.txt": b"Archery/v_Archery_g01_c01.avi\n" for name in ("train", "test")}, "twice"),
        ({"trainlist01.txt": b"Surfing/v_Surfing_g01_c01.avi 1\n"}, "None of the 1 videos"),
        ({"testlist01.txt": ucf_list((1,), numbers=False)}, "leaves no clip to train on"),
        ({"trainlist01.txt": b""}, "the class of no video"),
    ],
)
def test_wrong_lists_of_ucf101_are_refused(mine: Own, lists: Files, match: str) -> None:
    mine.refused(match, videos(*UCF), lists)


# --- Something-Something's lists ----------------------------------------------------------------------

TEMPLATES = ("Holding [something] next to [something]", "Pushing [something]")
CLASSES = tuple(template.replace("[", "").replace("]", "") for template in TEMPLATES)
KNOWN = json.dumps({label: str(number) for number, label in enumerate(CLASSES)}).encode()
WEBM = videos(*(f"20bn-something-something-v2/{number}.webm" for number in range(8)))


def json_list(numbers: Iterable[int], *, told: bool = True) -> bytes:
    entries = [
        {"id": str(n), "label": f"holding {n}", "template": TEMPLATES[n % 2], "placeholders": ["x"]}
        if told
        else {"id": n}
        for n in numbers
    ]
    return json.dumps(entries).encode()


@pytest.mark.parametrize("before", ["", "something-something-v2-"])
@pytest.mark.parametrize("told", [True, False])
def test_lists_of_the_something_something_kind(mine: Own, before: str, told: bool) -> None:
    lists = {
        f"{before}train.json": json_list(range(4)),
        f"{before}validation.json": json_list((4, 5)),
        f"{before}test.json": json_list((6, 7), told=told),
        f"{before}labels.json": KNOWN,
    }
    mine.fill(WEBM, lists)
    roles = mine.roles(val_fraction=0.5)
    assert roles["train"] == [f"{CLASSES[n % 2]}/{n}.webm" for n in (0, 2, 1, 3)]
    assert roles["val"] == [f"{CLASSES[n % 2]}/{n}.webm" for n in (4, 5)]
    assert roles["test"] == ([f"{CLASSES[n % 2]}/{n}.webm" for n in (6, 7)] if told else [])
    assert any("have no class there" in note for note in mine.notes) is not told


@pytest.mark.parametrize(
    ("lists", "match"),
    [
        ({"train.json": json_list((0, 1)), "labels.json": b'{"Other": "0"}'}, "which is not in labels.json"),
        ({"train.json": json_list((0, 1)), "labels.json": b"3"}, "labels.json is no object whose keys"),
        ({"train.json": b"[{"}, "train.json is no JSON"),
        ({"train.json": b"[" * 100_000}, "train.json is no JSON"),
        ({"train.json": b""}, "train.json is no JSON"),
        ({"train.json": b"[]"}, "the class of no video"),
        ({"train.json": b'{"0": "Pushing"}'}, "no list of objects with `id`"),
        ({"train.json": b'[{"id": "0", "template": 3}]'}, "no list of objects with `id`"),
        ({"train.json": b'[{"template": "Pushing"}]'}, "no list of objects with `id`"),
        ({"train.json": json_list((0, 1)), "test.json": json_list((1,))}, "lists 1 twice"),
        ({"train.json": json_list((10, 11))}, "None of the 2 videos"),
    ],
)
def test_wrong_lists_of_the_something_something_kind_are_refused(mine: Own, lists: Files, match: str) -> None:
    mine.refused(match, WEBM, lists)


# --- what stays ---------------------------------------------------------------------------------------


def test_class_folders_with_and_without_hmdb51s_lists_are_what_they_were(mine: Own) -> None:
    """The version of data/ as it was before layouts and other lists were read."""
    files = videos("golf/a.avi", "golf/b.avi", "run/a.avi", "run/b.avi")
    mine.fill(files)
    assert version_of(files_of(mine.data)) == "23f530f493c4938fa248133ca3babc02.dir"
    lists = {"golf_test_split1.txt": b"a.avi 1 \nb.avi 2 \n", "run_test_split1.txt": b"a.avi 1 \nb.avi 2 \n"}
    again = Own(mine.project / "again").fill(files, lists)
    assert version_of(files_of(again.data)) == "4b9024467a77dfc4e86a8a793f71b272.dir"
    assert again.notes == ()
