"""The first pass: every table of contents is read, what must be refused is refused, and the copies are listed."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from har_assets.dataset.archive.members import Member, Reader, copy_member, damage_in_words, ignore_count
from har_assets.dataset.archive.readers import FolderReader, TarReader, open_reader
from har_assets.errors import ArchiveError
from har_assets.system.files import format_bytes, require_space
from har_assets.video.walk import has_suffix, is_junk

MAX_BYTES = 200 * 10**9
"""No more bytes than this are unpacked unless asked: HMDB51 has 2.1 GB, a zip bomb petabytes."""

MAX_FILES = 200_000
"""No more members than this: HMDB51 has 6,766."""

MAX_NESTING = 3
"""Archives inside archives inside archives; HMDB51 has two levels."""


_ARCHIVE_ENDING = re.compile(r"\.(rar|zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)


def check_count(reader: Reader, max_files: int, shown: str) -> None:
    """ArchiveError for more than `max_files` members."""
    if len(reader.members) > max_files:
        raise ArchiveError(
            f"{shown} holds {len(reader.members):,} files and the limit is {max_files:,}: leave out what "
            "is no video, or divide it."
        )


@dataclass(frozen=True)
class Job:
    """One video to copy."""

    member: Member
    label: str

    @property
    def relative_path(self) -> str:
        """Where the video goes, below the target."""
        return f"{self.label}/{self.member.parts[-1]}"


class Source:
    """How any thread opens one archive: by its path, or as a stored member of another archive."""

    def __init__(
        self,
        shown: str,
        *,
        path: Path | None = None,
        is_copy: bool = False,
        parent: "Source | None" = None,
        index: int = 0,
    ) -> None:
        self.shown = shown
        self._path = path
        self.is_copy = is_copy  # made because the archive lies compressed inside another
        self._parent = parent
        self._index = index

    @contextmanager
    def open(self, scratch: Path) -> Iterator[Reader]:
        """Yield a reader of its own; inner archives are read in place, through the outer one."""
        with ExitStack() as stack:
            if self._path is not None:
                yield stack.enter_context(open_reader(self._path, self.shown, scratch))
                return
            assert self._parent is not None
            outer = stack.enter_context(self._parent.open(scratch))
            with damage_in_words(self.shown):
                stream = stack.enter_context(closing(outer.open_in_place(outer.members[self._index])))
            yield stack.enter_context(open_reader(stream, self.shown, scratch))


@dataclass(frozen=True)
class Unit:
    """Videos of one archive that one thread copies in order."""

    source: Source
    jobs: list[Job]


class Planner:
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

    def plan(self, source: Path) -> list[Unit]:
        """Return the units of `source`, largest first, so that threads end together."""
        self._top = source.name
        units = self._plan(Source(source.name, path=source), label=None, depth=1)
        if not units:
            raise ArchiveError(
                f"{source.name} holds no video ({', '.join(sorted(self._extensions))}): name an archive or "
                "folder with one folder of videos a class."
            )
        return sorted(units, key=lambda unit: -sum(job.member.size for job in unit.jobs))

    def notes(self) -> Iterator[str]:
        """Sentences about what is left out, after `plan`."""
        if self._others:
            yield f"{self._others} files that are no videos were left out."
        if self._without_videos:
            names = ", ".join(self._without_videos)
            yield f"{len(self._without_videos)} inner archives hold no video: {names}."

    def _plan(self, source: Source, label: str | None, depth: int) -> list[Unit]:
        inner: list[tuple[Source, str]] = []
        jobs: list[Job] = []
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
            if jobs and reader.one_pass and not isinstance(reader, TarReader) and depth > 1:
                copied = reader.members  # an inner RAR, copied for 7zz while it is unpacked
                self.largest_copy = max(self.largest_copy, sum(member.size for member in copied))
            if any(inner_source.is_copy for inner_source, _ in inner):
                with damage_in_words(source.shown):
                    reader.finish()
            parts = 1 if reader.one_pass or depth > 1 else self._workers
        units = [Unit(source, jobs[part::parts]) for part in range(parts) if jobs[part::parts]]
        for inner_source, inner_label in inner:
            inner_units = self._plan(inner_source, inner_label, depth + 1)
            if not inner_units:
                self._without_videos.append(inner_source.shown)
            units += inner_units
        return units

    def _job(self, member: Member, label: str | None, shown: str) -> Job:
        if len(member.parts) > 1:
            label = member.parts[-2]
        if label is None:
            raise ArchiveError(
                f"{shown} holds the video {member.path!r} outside any folder: put every video into a folder "
                "named after its class."
            )
        job = Job(member, label)
        origin = f"{shown} / {member.path}"
        if (other := self._origins.get(job.relative_path)) is not None:
            raise ArchiveError(
                f"two members would become {job.relative_path} ({other} and {origin}): rename or remove one."
            )
        self._origins[job.relative_path] = origin
        self._bytes += member.size
        if self._bytes > self._max_bytes:
            raise ArchiveError(
                f"{self._top} holds more than {format_bytes(self._max_bytes)} of video: divide it "
                "into several data sets."
            )
        return job

    def _count_files(self, count: int) -> None:
        self._files += count
        if self._files > self._max_files:
            raise ArchiveError(
                f"{self._top} holds more than {self._max_files:,} files: leave out what is no video, or divide it."
            )

    def _inner(self, source: Source, reader: Reader, index: int) -> Source:
        """Return a source for an inner archive: in place where it is stored, else a copy of it."""
        member = reader.members[index]
        shown = f"{source.shown} / {member.path}"
        if isinstance(reader, FolderReader):
            return Source(shown, path=member.key)
        if member.stored:
            return Source(shown, parent=source, index=index)
        self._copies += 1
        self._copied_bytes += member.size
        if self._copied_bytes > self._max_bytes:
            raise ArchiveError(
                f"{self._top} holds more than {format_bytes(self._max_bytes)} of archives: divide "
                "it, or store the archives in it without packing."
            )
        require_space(self._scratch, member.size, f"unpacking {shown}", ArchiveError)
        path = self._scratch / f"copy-{self._copies:04d}"
        with damage_in_words(source.shown), closing(reader.open(member)) as stream:
            copy_member(stream, path, member, threading.Event(), ignore_count)
        return Source(shown, path=path, is_copy=True)
