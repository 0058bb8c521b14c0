"""Formats, names and tricks that reach the extraction through 7zz: read rightly, or refused in one sentence."""

import io
import os
import resource
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import psutil
import pyarrow
import pytest

from har_assets.dataset.archive import extract_split_lists, extract_videos, readers
from har_assets.errors import ArchiveError
from har_assets_tests.dataset.test_archive import (
    CLIPS,
    by_class,
    contents,
    put,
    rar_bytes,
    refused,
    tar_bytes,
    zip_bytes,
)


def packed_by_7zz(files: dict[str, bytes], folder: Path, *options: str) -> bytes:
    """An archive of `files`, made by the program that reads it."""
    for name, data in files.items():
        (folder / "packed" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "packed" / name).write_bytes(data)
    command = [readers.seven_zip(), "a", *options, "../made", "."]
    subprocess.run(command, cwd=folder / "packed", check=True, stdout=subprocess.DEVNULL)
    (made,) = folder.glob("made*")
    data = made.read_bytes()
    made.unlink()
    subprocess.run(["rm", "-r", str(folder / "packed")], check=True)
    return data


# --- RAR 5, by the format's published description: length and type of a block, then its fields --------------


def number(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    return bytes([value & 0x7F | 0x80]) + number(value >> 7) if value > 0x7F else bytes([value])


def block5(kind: int, body: bytes, data: bytes = b"", extra: bytes = b"", flags: int = 0) -> bytes:
    head = number(kind) + number(flags | (1 if extra else 0) | (2 if data else 0))
    head += (number(len(extra)) if extra else b"") + (number(len(data)) if data else b"") + body + extra
    head = number(len(head)) + head
    return struct.pack("<I", zlib.crc32(head)) + head + data


def file5(name: str, data: bytes, *, kind: int = 2, record: bytes = b"", flags: int = 0) -> bytes:
    body = number(4) + number(len(data)) + number(stat.S_IFREG | 0o644) + struct.pack("<I", zlib.crc32(data))
    body += number(0) + number(1) + number(len(name.encode())) + name.encode()
    return block5(kind, body, data, number(len(record)) + record if record else b"", flags)


def rar5_bytes(*blocks: bytes, main: bytes = b"\0", end: bool = True) -> bytes:
    return b"Rar!\x1a\x07\x01\x00" + block5(1, main) + b"".join(blocks) + (block5(5, b"\0") if end else b"")


def volumes4(data: bytes) -> list[bytes]:
    """A RAR 4 of golf/x.avi in two parts."""

    def block(kind: int, flags: int, body: bytes) -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head

    parts = []
    name, half = b"golf/x.avi", len(data) // 2
    for first, piece, crc in ((True, data[:half], zlib.crc32(data[:half])), (False, data[half:], zlib.crc32(data))):
        size = struct.pack("<IIBIIBBHI", len(piece), len(data), 3, crc, 0, 29, 0x30, len(name), stat.S_IFREG | 0o644)
        parts.append(
            b"Rar!\x1a\x07\x00"
            + block(0x73, 0x111 if first else 0x11, bytes(6))
            + block(0x74, 0x8002 if first else 0x8001, size + name)
            + piece
            + block(0x7B, 0x4001 if first else 0x4000, b"")
        )
    return parts


# --- formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("-t7z",),
        ("-t7z", "-m0=PPMd"),
        ("-t7z", "-ms=off", "-mx=0"),
        ("-tzip", "-mm=Deflate64"),
        ("-tzip", "-mm=PPMd"),
        ("-tzip", "-mm=LZMA"),
        ("-tzip", "-mm=BZip2"),
    ],
)
def test_what_7zz_packs_is_read(options: tuple[str, ...], tmp_path: Path):
    (tmp_path / "source").write_bytes(packed_by_7zz({**CLIPS, "golf/empty.avi": b""}, tmp_path, *options))
    extract_videos(tmp_path / "source", tmp_path / "videos")
    assert contents(tmp_path / "videos") == {**CLIPS, "golf/empty.avi": b""}
    nested = by_class(lambda files: packed_by_7zz(files, tmp_path, *options), f".{options[0][2:]}")
    (tmp_path / "nested").write_bytes(packed_by_7zz(nested, tmp_path, *options))
    extract_videos(tmp_path / "nested", tmp_path / "again")
    assert contents(tmp_path / "again") == CLIPS


def test_a_tar_of_zstandard_is_read(tmp_path: Path):
    data = pyarrow.compress(tar_bytes(CLIPS), codec="zstd", asbytes=True)
    (tmp_path / "source.tar.zst").write_bytes(data)
    extract_videos(tmp_path / "source.tar.zst", tmp_path / "out")
    assert contents(tmp_path / "out") == CLIPS
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "cut", tmp_path, "damaged")


def test_a_rar_5_is_read_and_its_end_is_asked_for(tmp_path: Path):
    files = [file5(name, data) for name, data in CLIPS.items()]
    (tmp_path / "source.rar").write_bytes(rar5_bytes(*files))
    extract_videos(tmp_path / "source.rar", tmp_path / "out")
    assert contents(tmp_path / "out") == CLIPS
    (tmp_path / "cut.rar").write_bytes(rar5_bytes(*files, end=False))
    refused(tmp_path / "cut.rar", tmp_path, r"damaged or cut off \(Unexpected end of archive\)")


@pytest.mark.parametrize("name", ["a*b.zip", "[ab].zip", "-a.zip", "@a.zip", " a .zip", "läuft.zip", "a\nb.zip"])
def test_any_name_of_an_archive_will_do(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(zip_bytes(CLIPS))
    (tmp_path / "axb.zip").write_bytes(b"another that the pattern fits")
    extract_videos(tmp_path / name, tmp_path / "videos")
    assert contents(tmp_path / "videos") == CLIPS


def test_a_rar_in_parts(tmp_path: Path):
    video = CLIPS["golf/filma_golf_f_nm_np1_fr_med_0.avi"]
    parts = volumes4(video)
    for folder, given in (("both", (1, 2)), ("one", (1,)), ("two", (2,))):
        (tmp_path / folder).mkdir()
        for part in given:
            (tmp_path / folder / f"a.part{part}.rar").write_bytes(parts[part - 1])
    extract_videos(tmp_path / "both" / "a.part1.rar", tmp_path / "out")
    assert contents(tmp_path / "out") == {"golf/x.avi": video}
    refused(tmp_path / "one" / "a.part1.rar", tmp_path, "next part is not beside it")
    refused(tmp_path / "both" / "a.part2.rar", tmp_path, "later part of a RAR in parts")
    (tmp_path / "later5.rar").write_bytes(rar5_bytes(file5("golf/x.avi", b"x"), main=b"\x03\x01"))
    refused(tmp_path / "later5.rar", tmp_path, "later part of a RAR in parts")


# --- names --------------------------------------------------------------------------------------------------


class NameInBytes(zipfile.ZipInfo):
    """A member whose name is in a code page, without a mark that says so."""

    def __init__(self, name: str, code_page: str, *, marked: bool = False, system: int = 3) -> None:
        super().__init__(name)
        self._name, self._flags = name.encode(code_page), 0x800 * marked
        self.create_system = system

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self._name, self.flag_bits & ~0x800 | self._flags


def zip_of(path: Path, *members: NameInBytes) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for member in members:
            made.writestr(member, b"" if member._name.endswith((b"/", b"\\")) else b"x")
    return path


@pytest.mark.parametrize(
    ("code_page", "labels"),
    [
        ("utf-8", ("läuft", "走る")),
        ("cp437", ("läuft", "springt_über", "größe", "öffnen")),
        ("cp866", ("бег", "прыжок", "удар_ногой", "ходьба")),
        ("cp932", ("走る", "表示", "ジャンプ", "歩く")),
        ("gb18030", ("跑步", "跳跃", "走路")),
    ],
)
def test_names_in_a_code_page_are_read(code_page: str, labels: tuple[str, ...], tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as made:
        for label in labels:
            for clip in range(3):
                made.writestr(NameInBytes(f"{label}/clip{clip}.avi", code_page), b"x")
    report = extract_videos(tmp_path / "source.zip", tmp_path / "videos")
    assert report.classes == tuple(sorted(labels))
    said = [f"were read as {code_page}" in note and "names_code_page" in note for note in report.notes]
    assert said == ([] if code_page == "utf-8" else [True])
    named = extract_videos(tmp_path / "source.zip", tmp_path / "again", code_page=code_page)
    assert (named.classes, named.notes) == (report.classes, ())


def test_names_in_utf_8_without_a_mark(shared_data: Path, tmp_path: Path):
    report = extract_videos(shared_data / "cases" / "zips" / "utf8_noflag.zip", tmp_path / "videos")
    assert report.classes == ("geht", "läuft")


def test_marked_names_stay_utf_8_among_names_in_a_code_page(tmp_path: Path):
    # In GB 18030 the first name happens to be sound UTF-8.
    unmarked = [NameInBytes(f"{label}/a.avi", "gb18030") for label in ("联通", "跑步", "跳跃", "走路")]
    source = zip_of(tmp_path / "mixed.zip", *unmarked, NameInBytes("läuft/a.avi", "utf-8", marked=True))
    report = extract_videos(source, tmp_path / "videos")
    assert report.classes == tuple(sorted(["联通", "跑步", "跳跃", "走路", "läuft"]))


def test_the_configuration_names_the_code_page(tmp_path: Path):
    source = zip_of(tmp_path / "source.zip", NameInBytes("läuft/a.avi", "cp850"), NameInBytes("geht/a.avi", "ascii"))
    assert extract_videos(source, tmp_path / "out", code_page="cp850").classes == ("geht", "läuft")
    assert extract_videos(source, tmp_path / "other", code_page="cp1251").classes == ("geht", "l„uft")
    refused(source, tmp_path, "holds names that are not in utf-8: correct names_code_page", code_page="utf-8")
    refused(source, tmp_path, "'cp4711' is no code page", code_page="cp4711")
    utf_8 = zip_of(tmp_path / "utf8.zip", NameInBytes("läuft/a.avi", "utf-8"))
    assert extract_videos(utf_8, tmp_path / "as it says", code_page="cp850").classes == ("l├ñuft",)
    (tmp_path / "tar").write_bytes(tar_bytes({"läuft/a.avi": b"x"}))  # the format is in UTF-8
    assert extract_videos(tmp_path / "tar", tmp_path / "of a tar", code_page="cp850").classes == ("läuft",)
    inner = zip_bytes({"läuft.zip": zip_of(tmp_path / "x", NameInBytes("größe/a.avi", "cp850")).read_bytes()})
    (tmp_path / "nested.zip").write_bytes(inner)
    assert extract_videos(tmp_path / "nested.zip", tmp_path / "nested", code_page="cp850").classes == ("größe",)


@pytest.mark.parametrize("system", [0, 3, 11], ids=["FAT", "Unix", "NTFS"])
def test_backslashes_separate_folders(system: int, tmp_path: Path):
    names = ["own\\", "own\\run\\", "own\\run\\a.avi", "own\\läuft\\a.avi", "__MACOSX\\own\\run\\._a.avi"]
    members = [NameInBytes(name, "utf-8", marked=True, system=system) for name in names]
    report = extract_videos(zip_of(tmp_path / "source.zip", *members), tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["läuft/a.avi", "run/a.avi"]
    assert report.notes == ("1 files or folders that systems keep beside videos were left out: 1 __MACOSX.",)
    lists = [NameInBytes("lists\\a_test_split1.txt", "ascii", system=system)]
    assert extract_split_lists(zip_of(tmp_path / "lists.zip", *lists), tmp_path / "lists") == 1
    both = [NameInBytes(name, "ascii", system=system) for name in ("run\\a.avi", "run/a.avi")]
    refused(zip_of(tmp_path / "both.zip", *both), tmp_path, "two members would become run/a.avi")


def test_backslashes_of_a_tar_and_of_files_on_disk(tmp_path: Path):
    files = {"own\\run\\a.avi": b"x"}
    (tmp_path / "source.tar").write_bytes(tar_bytes(files))
    extract_videos(tmp_path / "source.tar", tmp_path / "videos")
    put(tmp_path / "own", files)
    extract_videos(tmp_path / "own", tmp_path / "again")
    assert contents(tmp_path / "videos") == contents(tmp_path / "again") == {"run/a.avi": b"x"}


def test_a_member_without_a_name_is_refused(tmp_path: Path):
    (tmp_path / "source.zip").write_bytes(zip_bytes({".": b"x", "run/a.avi": b"x"}))
    refused(tmp_path / "source.zip", tmp_path, "unsafe")


@pytest.mark.parametrize(("method", "name"), [(97, "WavPack"), (96, "Jpeg"), (10, "PKImploding"), (19, "19")])
def test_a_compression_that_is_not_read_is_named(method: int, name: str, tmp_path: Path):
    data = bytearray(zip_bytes({"run/a.avi": b"abc" * 100}))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.index(signature) + offset
        data[at : at + 2] = method.to_bytes(2, "little")
    (tmp_path / "source.zip").write_bytes(data)
    refused(tmp_path / "source.zip", tmp_path, f"compressed by {name}, which is not supported")


def test_parts_of_an_archive_are_told(tmp_path: Path):
    (tmp_path / "packed").mkdir()
    for kind in ("zip", "7z"):
        command = [readers.seven_zip(), "a", f"-t{kind}", "-v20k", "-mx=0", f"../made.{kind}", "."]
        put(tmp_path / "packed", CLIPS)
        subprocess.run(command, cwd=tmp_path / "packed", check=True, stdout=subprocess.DEVNULL)
        refused(tmp_path / f"made.{kind}.001", tmp_path, "is one part of an archive in parts: join them")
        refused(tmp_path / f"made.{kind}.002", tmp_path, "is one part of an archive in parts: join them")
    put(tmp_path / "own", {**CLIPS, "jog.zip.001": (tmp_path / "made.zip.001").read_bytes()})
    refused(tmp_path / "own", tmp_path, r"own / jog\.zip\.001 is one part of an archive in parts")


FORGED = "\n\n----------\nPath = golf/forged.avi\nSize = 1\nAttributes = \n\nPath = "


def test_a_name_or_comment_does_not_forge_a_listing(tmp_path: Path):
    info = zipfile.ZipInfo("golf/a.avi")
    info.comment = FORGED.encode()
    with zipfile.ZipFile(tmp_path / "comment.zip", "w") as made:
        made.writestr(info, b"abc")
        made.comment = FORGED.encode()
    extract_videos(tmp_path / "comment.zip", tmp_path / "videos")
    assert contents(tmp_path / "videos") == {"golf/a.avi": b"abc"}
    for pack in (zip_bytes, tar_bytes, rar_bytes):
        (tmp_path / "name").write_bytes(pack({f"golf/a{FORGED}b.avi": b"abc"}))
        report = extract_videos(tmp_path / "name", tmp_path / pack.__name__)
        assert list(contents(tmp_path / pack.__name__).values()) == [b"abc"]
        assert report.videos == 1
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("golf/a.avi")
        entry.pax_headers = {"comment": FORGED, "uname": FORGED}
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    (tmp_path / "pax.tar").write_bytes(buffer.getvalue())
    extract_videos(tmp_path / "pax.tar", tmp_path / "pax")
    assert contents(tmp_path / "pax") == {"golf/a.avi": b"abc"}


# --- what must not be unpacked ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 2, 4, 5], ids=["symlink", "windows symlink", "hard link", "copy"])
def test_links_in_a_rar_5_are_refused(kind: int, tmp_path: Path):
    record = number(5) + number(kind) + number(0) + number(10) + b"golf/a.avi"
    (tmp_path / "source.rar").write_bytes(
        rar5_bytes(file5("golf/a.avi", b"x"), file5("golf/b.avi", b"", record=record))
    )
    refused(tmp_path / "source.rar", tmp_path, "link or a device")


def test_a_link_in_a_7z_is_refused(tmp_path: Path):
    (tmp_path / "golf").mkdir()
    (tmp_path / "golf" / "a.avi").symlink_to("/etc/passwd")
    made = [readers.seven_zip(), "a", "-snl", "source.7z", "golf"]
    subprocess.run(made, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    refused(tmp_path / "source.7z", tmp_path, "link or a device")


def test_the_second_stream_of_a_file_of_windows_is_left_out(tmp_path: Path):
    stream = file5("STM", b"second stream", kind=3, record=number(7) + b":Zone.Identifier", flags=0x60)
    data = rar5_bytes(file5("golf/a.avi", b"abc"), stream, file5("golf/b.avi", b"def"))
    (tmp_path / "source.rar").write_bytes(data)
    extract_videos(tmp_path / "source.rar", tmp_path / "videos")
    assert contents(tmp_path / "videos") == {"golf/a.avi": b"abc", "golf/b.avi": b"def"}


def test_passwords_are_never_asked_for(shared_data: Path, tmp_path: Path):
    head = struct.pack("<BHH", 0x73, 0x80, 13) + bytes(6)
    sources = {
        "7z": packed_by_7zz(CLIPS, tmp_path, "-t7z", "-psecret"),
        "7z with encrypted names": packed_by_7zz(CLIPS, tmp_path, "-t7z", "-psecret", "-mhe"),
        "zip": packed_by_7zz(CLIPS, tmp_path, "-tzip", "-psecret"),
        "zip of AES": packed_by_7zz(CLIPS, tmp_path, "-tzip", "-psecret", "-mem=AES256"),
        "rar 4 with encrypted names": b"Rar!\x1a\x07\x00"
        + struct.pack("<H", zlib.crc32(head) & 0xFFFF)
        + head
        + bytes(range(100)),
        "rar 5 with encrypted names": b"Rar!\x1a\x07\x01\x00"
        + block5(4, number(0) + number(0) + b"\x0f" + bytes(16))
        + bytes(range(64)),
    }
    for name, data in sources.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, tmp_path, "encrypted")
        with pytest.raises(ArchiveError, match="encrypted"):
            readers.Archive(tmp_path / name, name, 100)  # before anything is decoded


def test_a_sparse_tar_of_the_new_kind_is_refused(tmp_path: Path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("golf/GNUSparseFile.1/a.avi")
        data = b"1\n5000\n3\n".ljust(512, b"\0") + b"abc"
        entry.size = len(data)
        entry.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "golf/a.avi",
            "GNU.sparse.realsize": "9000",
        }
        tar.addfile(entry, io.BytesIO(data))
    (tmp_path / "source.tar").write_bytes(buffer.getvalue())
    refused(tmp_path / "source.tar", tmp_path, "--sparse")


def test_a_bomb_that_lies_about_its_size_writes_no_more_than_it_declares(tmp_path: Path):
    data = bytearray(zip_bytes({"golf/bomb.avi": bytes(50_000_000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + offset
        data[at : at + 4] = (900).to_bytes(4, "little")
    (tmp_path / "bomb.zip").write_bytes(data)
    (tmp_path / "nested.tar").write_bytes(tar_bytes({"bomb.zip": bytes(data)}))
    code = (
        "import sys; from pathlib import Path; from har_assets.dataset.archive import extract_videos\n"
        "extract_videos(Path(sys.argv[1]), Path(sys.argv[2]))"
    )

    def no_file_above_a_megabyte() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))

    for source in ("bomb.zip", "nested.tar"):
        command = [sys.executable, "-c", code, str(tmp_path / source), str(tmp_path / "videos")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=no_file_above_a_megabyte)
        assert "is damaged or cut off" in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["bomb.zip", "nested.tar"]


def test_bytes_that_are_decoded_on_the_way_count(tmp_path: Path):
    files = {"golf/a.avi": b"x", "golf/notes.txt": bytes(5_000_000)}
    for pack in (zip_bytes, lambda files: tar_bytes(files, "w:gz")):
        (tmp_path / "source").write_bytes(pack(files))
        refused(tmp_path / "source", tmp_path, "more than 1.0 MB", max_bytes=1_000_000)


def test_a_decoder_that_stands_still_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stopped = tmp_path / "stopped"
    program = tmp_path / "7zz"
    stop = f"echo $$ > {stopped}; kill -STOP $$"
    program.write_text(f'#!/bin/sh\ncase " $* " in *" -so "*) {stop};; esac\nexec {readers.seven_zip()} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(readers, "STALL_S", 0.5)
    monkeypatch.setattr(readers, "seven_zip", lambda: str(program))
    (tmp_path / "source.zip").write_bytes(zip_bytes({"golf/a.avi": bytes(10**5)}))
    with pytest.raises(ArchiveError, match="7zz has given nothing for"):
        extract_videos(tmp_path / "source.zip", tmp_path / "videos")
    assert not (tmp_path / "videos").exists()
    assert not psutil.pid_exists(int(stopped.read_text()))


def test_split_lists_of_a_7z(tmp_path: Path):
    lists = {f"lists/{label}_test_split1.txt": f"{label}.avi 1\n".encode() for label in ("golf", "wave")}
    (tmp_path / "lists.7z").write_bytes(packed_by_7zz({**lists, "big.bin": bytes(10**6)}, tmp_path, "-t7z"))
    assert extract_split_lists(tmp_path / "lists.7z", tmp_path / "lists") == 2
    assert contents(tmp_path / "lists") == {name.split("/")[1]: data for name, data in lists.items()}
