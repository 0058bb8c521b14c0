import os
from pathlib import Path

import pytest

from har_assets.dataset.archive import extract_videos
from har_assets.errors import HarError
from har_assets.incoming.folder import scan
from har_assets.video.walk import VIDEO_SUFFIXES, class_videos, find_videos, has_suffix, is_junk, junk_of, walk_files

JUNK = [
    "run/._a.avi",
    ".Trash/a.avi",
    ".Trash-1000/files/a.avi",
    "run/.AppleDouble/a.avi",
    "__MACOSX/run/a.avi",
    "@eaDir/a.avi/SYNO.mp4",
    "run/@eaDir/a.avi",
    "run/@EADIR/a.avi",
    "#recycle/a.avi",
    "@Recycle/a.avi",
    "$RECYCLE.BIN/S-1-5/$R1.avi",
    "System Volume Information/a.avi",
    "lost+found/a.avi",
    "FOUND.000/FILE0001.avi",
    "PaxHeaders.123/a.avi",
    "run/:2e_a.avi",
    "run/~$a.avi",
    "run/Thumbs.db",
    "THUMBS.DB",
    "ehthumbs.db",
    "Desktop.ini",
    "run/.DS_Store",
    "run/Icon\r",
]
SOUND = ["run/a.avi", "run/.a.avi", "..avi", "recycled/a.avi", "run/~a.avi", "thumbs/a.avi", "#1/a.avi", "run/_.avi"]


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12")
    return folder


def below(folder: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


@pytest.mark.parametrize(("name", "video"), [("a.AVI", True), ("a.mts", True), ("a.txt", False), ("avi", False)])
def test_a_video_is_known_by_its_suffix_in_any_case(name: str, video: bool) -> None:
    assert has_suffix(name) == video


def test_what_a_system_leaves_is_junk() -> None:
    assert [path for path in JUNK if not is_junk(tuple(path.split("/")))] == []
    assert [path for path in SOUND if is_junk(tuple(path.split("/")))] == []
    assert junk_of(("run", "._a.avi")) == "._*"
    assert junk_of(("__MACOSX", "run", "a.avi")) == "__MACOSX"


def every_reader(folder: Path, out: Path) -> dict[str, list[str]]:
    """Which videos of `videos/<class>/<file>` each of the readers finds."""
    extract_videos(folder, out)
    return {
        "check and predict": below(folder, find_videos(folder)),
        "incoming": sorted(name.decode() for name in scan(folder, VIDEO_SUFFIXES)),
        "class folders": sorted(f"{label}/{name}" for label, name, _ in class_videos(folder)),
        "unpacking": sorted(below(out, [path for path in out.rglob("*") if path.is_file()])),
        "a class folder of data/": sorted(f"{label}/{name}" for label, name, _ in class_videos(out)),
    }


def test_all_readers_take_the_same_endings_and_the_same_junk(tmp_path: Path) -> None:
    names = [f"run/a{suffix}" for suffix in VIDEO_SUFFIXES] + [f"run/B{suffix.upper()}" for suffix in VIDEO_SUFFIXES]
    folder = make(tmp_path / "own", *names, *JUNK, "run/notes.txt", "run/no ending")
    for reader, found in every_reader(folder, tmp_path / "out").items():
        assert found == sorted(names), reader


def test_all_readers_follow_links_to_folders(tmp_path: Path) -> None:
    folder = make(tmp_path / "own", "run/1.avi", "sit/2.avi")
    make(tmp_path / "there", "3.avi", "@eaDir/3.avi")
    (folder / "wave").symlink_to(tmp_path / "there")
    (folder / "a_loop").symlink_to(folder)
    (folder / "run" / "up").symlink_to(folder)
    for reader, found in every_reader(folder, tmp_path / "out").items():
        assert found == ["run/1.avi", "sit/2.avi", "wave/3.avi"], reader


def test_many_links_to_each_other_end(tmp_path: Path) -> None:
    for number in range(30):
        make(tmp_path, f"f{number}/{number}.avi")
    for number in range(30):
        for other in range(30):
            (tmp_path / f"f{number}" / f"to{other}").symlink_to(tmp_path / f"f{other}")
    assert len(find_videos(tmp_path)) == 30


def test_what_is_left_out_is_counted_by_its_ending(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "own", "a.avi", "b.TXT", "c.txt", "d.jpg", "no ending", "__MACOSX/x", "Thumbs.db", "._a.avi"
    )
    (folder / "z").symlink_to(folder)
    tree = walk_files(folder)
    assert below(folder, tree.videos) == ["a.avi"]
    assert list(tree.notes()) == [
        "4 files that are no videos were left out: 2 .txt, 1 .jpg, 1 without an ending.",
        "3 files or folders that systems keep beside videos were left out: 1 ._*, 1 Thumbs.db, 1 __MACOSX.",
    ]
    make(tmp_path / "many", *(f"a.x{number}" for number in range(20)))
    (note,) = walk_files(tmp_path / "many").notes()
    assert note.endswith(", 12 other kinds.")


def test_videos_are_found_sorted_without_junk(tmp_path: Path) -> None:
    folder = make(tmp_path / "here", "b/2.mp4", "b/1.AVI", "a.mkv", "b/._1.AVI", ".hidden/3.avi", "read.txt")
    make(tmp_path / "there", "4.avi")
    (folder / "linked").symlink_to(tmp_path / "there")
    (folder / "lost.avi").symlink_to(tmp_path / "nowhere")
    (folder / "circle.avi").symlink_to("circle.avi")
    found = below(folder, find_videos(folder))
    assert found == ["a.mkv", "b/1.AVI", "b/2.mp4", "circle.avi", "linked/4.avi", "lost.avi"]
    with pytest.raises(HarError, match="There is no folder"):
        find_videos(tmp_path / "nowhere")


def test_a_folder_is_found_under_its_own_name_whatever_links_lead_to_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "here", "b/1.avi", "a.txt")
    make(tmp_path / "there", "4.avi")
    (folder / "a").symlink_to(folder / "b")
    (folder / "c").symlink_to(tmp_path / "there")
    (folder / "d").symlink_to(tmp_path / "there")
    (folder / "b" / "up").symlink_to(folder)
    tree = walk_files(folder)
    assert below(folder, list(tree.files)) == ["a.txt", "b/1.avi", "c/4.avi"]
    assert list(tree.walk.linked_twice()) == [("a", "b"), ("d", "c")]
    assert "a and b are one folder, by a link: its videos are taken once, as b." in tree.notes()


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "own", "run/1.avi", "sit/2.avi")
    monkeypatch.chdir(folder / "sit")
    for _ in range(25):  # a path that no system call takes
        os.mkdir("x" * 200)
        os.chdir("x" * 200)
    with pytest.raises(HarError, match=r"sit/x+/.* cannot be read \(File name too long\): correct"):
        walk_files(folder)
    notes: list[str] = []
    assert set(scan(folder, [".avi"], notes.append)) == {b"run/1.avi", b"sit/2.avi"}
    assert len(notes) == 1
    assert notes[0].endswith("cannot be read (File name too long).")


def test_videos_of_class_folders_have_their_sizes(tmp_path: Path) -> None:
    folder = make(tmp_path, "run/1.avi", "run/deep/2.avi", "sit/3.mp4", ".cache/4.avi", "5.avi", "run/list.txt")
    assert sorted(class_videos(folder)) == [("run", "1.avi", 2), ("sit", "3.mp4", 2)]
