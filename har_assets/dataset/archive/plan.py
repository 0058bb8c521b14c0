"""The first pass: every table of contents is read, what must be refused is refused, and the copies are listed."""

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from har_assets.dataset.archive.layout import Arrangement, Video, arrange
from har_assets.dataset.archive.listing import Listing
from har_assets.dataset.archive.members import (
    Member,
    copy_member,
    damage_in_words,
    ignore_count,
    too_many_files,
)
from har_assets.dataset.archive.readers import Folder, Reader, open_reader
from har_assets.errors import ArchiveError
from har_assets.system.files import format_bytes, require_space
from har_assets.video.walk import has_suffix, is_junk

MAX_BYTES = 200 * 10**9
"""No more bytes than this are unpacked unless asked: HMDB51 has 2.1 GB, a zip bomb petabytes."""

MAX_FILES = 200_000
"""No more members than this: HMDB51 has 6,766."""

MAX_NESTING = 3
"""Archives inside archives inside archives; HMDB51 has two levels."""

_ARCHIVE_ENDING = re.compile(r"\.(rar|zip|7z|tar|tgz|tbz2|txz|tzst|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)


TEXT_SUFFIXES = (".cls", ".csv", ".json", ".txt")
"""Endings of texts that may hold the class of a video beside them."""


@dataclass
class Source:
    """An archive or folder, what it holds, and where its videos go."""

    path: Path
    shown: str
    """Its name in messages, with the archives around it."""
    reader: Reader
    folders: tuple[str, ...] = ()
    """Folders around it in a source that holds it, with the stem of each archive in its place, its own included."""
    is_copy: bool = False
    """Unpacked from another archive; removed as soon as it has been read."""
    targets: dict[int, str] = field(default_factory=dict)
    """Number of a video among the members, and its path below the target."""

    def copy(
        self,
        targets: dict[int, Path],
        cancelled: threading.Event | None = None,
        count: Callable[[int], None] = ignore_count,
    ) -> None:
        """Copy members, by number, to new read-only files; ArchiveError for what turns out unsound."""
        cancelled = cancelled or threading.Event()
        with damage_in_words(self.shown), closing(self.reader.read(targets)) as members:
            for index, stream in members:
                copy_member(stream, targets[index], self.reader.members[index], cancelled, count)

    def remove_copy(self) -> None:
        """Remove what was unpacked from another archive."""
        if self.is_copy:
            self.path.unlink()

    @property
    def video_bytes(self) -> int:
        """Size of its videos together."""
        return sum(self.reader.members[index].size for index in self.targets)


def open_source(
    path: Path, shown: str, max_files: int, folders: tuple[str, ...] = (), *, is_copy: bool = False
) -> Source:
    """Read the table of contents of an archive or folder."""
    return Source(path, shown, open_reader(path, shown, max_files), folders, is_copy)


class Planner:
    """Reads every table of contents, refuses what must be refused, and lists what is to be copied."""

    def __init__(self, scratch: Path, extensions: frozenset[str], max_bytes: int, max_files: int, workers: int) -> None:
        self._scratch = scratch
        self._extensions = extensions
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="list")
        self._videos: list[tuple[Source, int, Video]] = []
        self._bytes = 0
        self._copies = 0
        self._copied_bytes = 0
        self._files = 0
        self._others = 0
        self._without_videos: list[str] = []
        self._top = ""

    def plan(self, path: Path, label: str = "auto", listing: Listing | None = None) -> tuple[list[Source], Arrangement]:
        """Return whatever holds videos at `path`, largest first, so that threads end together, and where they go.

        Args:
            path: archive or folder.
            label: what names the class of a video, one of `layout.LABELS`.
            listing: lists of the videos, None where there are none.
        """
        self._top = path.name
        with self._pool:
            sources = self._plan(open_source(path, path.name, self._max_files), depth=1)
        if not sources:
            raise ArchiveError(
                f"{path.name} holds no video ({', '.join(sorted(self._extensions))}): name an archive or "
                "folder with one folder of videos a class."
            )
        arrangement = arrange([video for _, _, video in self._videos], label, listing, path)
        for (source, index, _), place in zip(self._videos, arrangement.places, strict=True):
            if place is None:
                del source.targets[index]
            else:
                source.targets[index] = f"{place.label}/{place.name}"
        return sorted(sources, key=lambda source: -source.video_bytes), arrangement

    def notes(self) -> Iterator[str]:
        """Sentences about what is left out, after `plan`."""
        if self._others:
            yield f"{self._others} files that are no videos were left out."
        if self._without_videos:
            names = ", ".join(self._without_videos)
            yield f"{len(self._without_videos)} inner archives hold no video: {names}."

    def _plan(self, source: Source, depth: int) -> list[Source]:
        members = source.reader.members
        self._files += len(members)
        if self._files > self._max_files:
            raise too_many_files(self._top, self._max_files)
        inner: list[int] = []
        texts = _texts(members)
        for index, member in enumerate(members):
            name = member.parts[-1]
            if is_junk(member.parts):
                self._leave_out(source, member)
            elif has_suffix(name, self._extensions):
                source.targets[index] = ""  # until the layout is known
                self._videos.append((source, index, _video(source, member, texts)))
                self._count_bytes(member.size)
            elif _ARCHIVE_ENDING.search(name):
                if depth == MAX_NESTING:
                    raise ArchiveError(
                        f"{source.shown} / {member.path} is an archive inside {MAX_NESTING} others: "
                        "unpack the outer ones first."
                    )
                inner.append(index)
            else:
                self._leave_out(source, member)
        sources = [source] if source.targets else []
        opened = self._open_inner(source, inner)
        if not source.targets:
            source.remove_copy()
        for inner_source in opened:
            found = self._plan(inner_source, depth + 1)
            if not found:
                self._without_videos.append(inner_source.shown)
            sources += found
        return sources

    def _leave_out(self, source: Source, member: Member) -> None:
        self._others += 1
        if not isinstance(source.reader, Folder):
            self._count_bytes(member.size)  # 7zz decodes it on the way

    def _count_bytes(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise ArchiveError(
                f"{self._top} holds more than {format_bytes(self._max_bytes)}: divide it into several data sets."
            )

    def _open_inner(self, source: Source, inner: list[int]) -> list[Source]:
        """Read the tables of contents of the archives inside, which are copied out of the one around them."""
        members = source.reader.members
        shown = [f"{source.shown} / {members[index].path}" for index in inner]
        if isinstance(source.reader, Folder):
            paths = [source.reader.paths[index] for index in inner]
        else:
            paths = [self._scratch / f"copy-{self._copies + number:04d}" for number in range(len(inner))]
            self._copies += len(inner)
            size = sum(members[index].size for index in inner)
            self._copied_bytes += size
            if self._copied_bytes > self._max_bytes:
                raise ArchiveError(
                    f"{self._top} holds more than {format_bytes(self._max_bytes)} of archives: divide it."
                )
            require_space(self._scratch, size, f"unpacking the archives in {source.shown}", ArchiveError)
            if inner:
                source.copy(dict(zip(inner, paths, strict=True)))
        folders = [
            _joined(source.folders, (*members[index].parts[:-1], _ARCHIVE_ENDING.sub("", members[index].parts[-1])))
            for index in inner
        ]
        is_copy = not isinstance(source.reader, Folder)

        def opened(path: Path, shown: str, folders: tuple[str, ...]) -> Source:
            return open_source(path, shown, self._max_files, folders, is_copy=is_copy)

        return list(self._pool.map(opened, paths, shown, folders))


def _joined(around: tuple[str, ...], parts: tuple[str, ...]) -> tuple[str, ...]:
    """Folders of an archive below those around it; one that is named like its archive counts once."""
    if around and parts and around[-1].casefold() == parts[0].casefold():
        around = around[:-1]
    return (*around, *parts)


def _video(source: Source, member: Member, texts: dict[tuple[str, ...], str]) -> Video:
    *folders, name = member.parts
    return Video(
        _joined(source.folders, tuple(folders)),
        name,
        f"{source.shown} / {member.path}",
        bare=not folders,
        label_file=texts.get((*folders, name.rpartition(".")[0]), ""),
        any_text=texts.get((*folders, ""), ""),
    )


def _texts(members: list[Member]) -> dict[tuple[str, ...], str]:
    """Names of the texts that may hold classes: by folder and stem, and one by each folder and an empty stem."""
    found = {}
    for member in members:
        *folders, name = member.parts
        stem, ending = os.path.splitext(name)
        if ending.lower() in TEXT_SUFFIXES and not is_junk(member.parts):
            found[(*folders, stem)] = found[(*folders, "")] = name
    return found
