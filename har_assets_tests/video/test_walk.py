from pathlib import Path

import pytest

from har_assets.errors import HarError
from har_assets.video.walk import class_videos, find_videos, has_suffix, is_junk, walk_files


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


@pytest.mark.parametrize(
    ("path", "junk"),
    [
        ("run/a.avi", False),
        ("run/.a.avi", False),
        ("run/._a.avi", True),
        (".Trash/a.avi", True),
        ("__MACOSX/run/a.avi", True),
        ("..avi", False),
    ],
)
def test_what_a_system_leaves_is_junk(path: str, junk: bool) -> None:
    assert is_junk(tuple(path.split("/"))) == junk


def test_videos_are_found_sorted_without_junk_and_linked_folders(tmp_path: Path) -> None:
    folder = make(tmp_path / "here", "b/2.mp4", "b/1.AVI", "a.mkv", "b/._1.AVI", ".hidden/3.avi", "read.txt")
    make(tmp_path / "there", "4.avi")
    (folder / "linked").symlink_to(tmp_path / "there")
    (folder / "lost.avi").symlink_to(tmp_path / "nowhere")
    assert below(folder, find_videos(folder)) == ["a.mkv", "b/1.AVI", "b/2.mp4", "lost.avi"]
    with pytest.raises(HarError, match="There is no folder"):
        find_videos(tmp_path / "nowhere")


def test_links_are_followed_once_where_asked(tmp_path: Path) -> None:
    folder = make(tmp_path / "here", "b/1.avi", "a.txt")
    make(tmp_path / "there", "4.avi")
    (folder / "c").symlink_to(tmp_path / "there")
    (folder / "b" / "up").symlink_to(folder)
    assert below(folder, list(walk_files(folder, follow_links=True))) == ["a.txt", "b/1.avi", "c/4.avi"]
    assert below(folder, list(walk_files(folder, follow_links=False))) == ["a.txt", "b/1.avi"]


def test_videos_of_class_folders_have_their_sizes(tmp_path: Path) -> None:
    folder = make(tmp_path, "run/1.avi", "run/deep/2.avi", "sit/3.mp4", ".cache/4.avi", "5.avi", "run/list.txt")
    assert sorted(class_videos(folder)) == [("run", "1.avi", 2), ("sit", "3.mp4", 2)]
