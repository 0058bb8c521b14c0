"""What counts as a video of the folder, and what its partition is called."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from har_assets.errors import HarError
from har_assets.incoming.folder import partition_key, printable, scan

SUFFIXES = [".avi", ".mp4"]


def test_what_is_a_video_and_what_is_not(tmp_path: Path) -> None:
    videos = [
        b"a.avi",
        b"B.MP4",
        b"-dash.mp4",
        b"#1;[x] & (y).avi",
        "дорога 一.mp4".encode(),
        b"latin\xe9.avi",
        b"two\nlines.avi",
        b"deep/er/c.avi",
        b"part.avi",
        b"film.part1.avi",
    ]
    others = [
        b".hidden.avi",
        b"~copy.avi",
        b"film~.avi",
        b"film.tmp.mp4",
        b"film.PART.mp4",
        b"film.avi.part",
        b"film.avi.crdownload",
        b"notes.txt",
        b"avi",
        b".cache/d.avi",
        b".avi",
    ]
    for name in videos + others:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)
    (tmp_path / "folder.avi").mkdir()
    (tmp_path / "folder.avi" / "inside.avi").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.avi")
    (tmp_path / "nowhere.avi").symlink_to("gone.avi")
    (tmp_path / "link.avi").symlink_to("a.avi")
    (tmp_path / "loop").symlink_to(tmp_path)
    notes: list[str] = []
    found = scan(tmp_path, SUFFIXES, notes.append)
    assert set(found) == {*videos, b"link.avi", b"folder.avi/inside.avi"}
    assert found[b"a.avi"][0] == 5
    assert notes == [
        "12 files that are no videos were left out: 6 hidden or unfinished, 2 without content, 1 .crdownload, 1 .part, "
        "1 .txt, 1 without an ending.",
        "1 files or folders that systems keep beside videos were left out: 1 .cache.",
    ]


def test_links_to_folders_are_followed_and_do_not_rename_what_is_there(tmp_path: Path) -> None:
    folder, disk = tmp_path / "incoming", tmp_path / "disk"
    for path in (folder / "z" / "a.avi", disk / "b.avi", disk / "._b.avi", disk / "@eaDir" / "b.avi"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    before = scan(folder, SUFFIXES)
    (folder / "a").symlink_to(folder / "z")
    (folder / "disk").symlink_to(disk)
    (disk / "back").symlink_to(folder)
    assert scan(folder, SUFFIXES).keys() == {*before, b"disk/b.avi"}


def test_a_signature_changes_with_the_content_although_size_and_time_are_set_back(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(b"one")
    before = scan(tmp_path, SUFFIXES)[b"a.avi"]
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"two")
    os.utime(path, ns=times)
    after = scan(tmp_path, SUFFIXES)[b"a.avi"]
    assert after[:2] == before[:2]
    assert after != before


def test_a_missing_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HarError, match="make it, or name another one in HAR_INCOMING"):
        scan(tmp_path / "none", SUFFIXES)


@given(st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name))
def test_partition_keys_are_plain_for_any_name(name: bytes) -> None:
    key = partition_key(name)
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert not key.startswith("-")
    assert len(key) <= 53
    printable(name).encode()


def test_partition_keys_are_readable_and_differ_by_the_whole_name() -> None:
    assert partition_key(b"day 1/Caf\xc3\xa9 (2).avi").startswith("Cafe_2-")
    assert partition_key(b"a/x.avi") != partition_key(b"b/x.avi")
    assert partition_key(b"x y.avi") != partition_key(b"x_y.avi")
    assert partition_key("一.avi".encode()).startswith("video-")
