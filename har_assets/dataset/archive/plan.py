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
from har_assets.video.walk import MOST_NAMED, counted, ending_of, has_suffix, junk_of, left_out

MAX_BYTES = 200 * 10**9
"""No more bytes than this are unpacked unless asked: HMDB51 has 2.1 GB, a zip bomb petabytes."""

MAX_FILES = 200_000
"""No more members than this: HMDB51 has 6,766."""

MAX_NESTING = 3
"""Archives inside archives inside archives; HMDB51 has two levels."""

_ARCHIVE_ENDING = re.compile(r"\.(rar|zip|7z|tar|tgz|tbz2|txz|tzst|tar\.(gz|bz2|xz|zst))(\.\d{3})?$", re.IGNORECASE)


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
    path: Path,
    shown: str,
    max_files: int,
    folders: tuple[str, ...] = (),
    *,
    is_copy: bool = False,
    code_page: str = "",
) -> Source:
    """Read the table of contents of an archive or folder; `code_page` as `extract_videos` has it."""
    return Source(path, shown, open_reader(path, shown, max_files, code_page), folders, is_copy)


class Planner:
    """Reads every table of contents, refuses what must be refused, and lists what is to be copied."""

    def __init__(
        self,
        scratch: Path,
        extensions: frozenset[str],
        max_bytes: int,
        max_files: int,
        workers: int,
        code_page: str = "",
    ) -> None:
        self._scratch = scratch
        self._extensions = extensions
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._code_page = code_page
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="list")
        self._videos: list[tuple[Source, int, Video]] = []
        self._bytes = 0
        self._copies = 0
        self._copied_bytes = 0
        self._files = 0
        self._others: list[str] = []
        self._junk: list[str] = []
        self._notes: list[str] = []
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
            sources = self._plan(open_source(path, path.name, self._max_files, code_page=self._code_page), depth=1)
        if not sources:
            raise ArchiveError(
                f"{path.name} holds no video ({', '.join(sorted(self._extensions))}): name an archive or "
                f"folder with one folder of videos a class. {' '.join(self.notes())}".rstrip()
            )
        arrangement = arrange([video for _, _, video in self._videos], label, listing, path)
        for (source, index, _), place in zip(self._videos, arrangement.places, strict=True):
            if place is None:
                del source.targets[index]
            else:
                source.targets[index] = f"{place.label}/{place.name}"
        self._note_files()
        return sorted(sources, key=lambda source: -source.video_bytes), arrangement

    def notes(self) -> Iterator[str]:
        """Sentences about what is left out, after `plan`."""
        yield from left_out(self._others, self._junk)
        yield from self._notes
        if self._without_videos:
            names = ", ".join(self._without_videos)
            yield f"{len(self._without_videos)} inner archives hold no video: {names}."

    def _plan(self, source: Source, depth: int) -> list[Source]:
        members = source.reader.members
        self._files += len(members)
        if self._files > self._max_files:
            raise too_many_files(self._top, self._max_files)
        self._notes += source.reader.notes
        inner: list[int] = []
        texts = _texts(members)
        for index, member in enumerate(members):
            name = member.parts[-1]
            if junk := junk_of(member.parts):
                self._junk.append(junk)
                self._count_decoded(source, member)
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
                self._others.append(ending_of(name))
                self._count_decoded(source, member)
        self._note_folders(source, inner)
        if isinstance(source.reader, Folder):
            self._junk += source.reader.junk
            self._note_links(source, source.reader)
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

    def _note_folders(self, source: Source, inner: list[int]) -> None:
        """Name each folder whose files are no videos: its class would be missed."""
        members, used = source.reader.members, {*source.targets, *inner}
        folders = {"/".join(members[index].parts[:-1]) for index in used}
        others: dict[str, list[str]] = {}
        for index, member in enumerate(members):
            folder = "/".join(member.parts[:-1])
            if index not in used and folder and folder not in folders and not junk_of(member.parts):
                others.setdefault(folder, []).append(ending_of(member.parts[-1]))
        named = [f"{folder} ({counted(endings)})" for folder, endings in sorted(others.items())]
        if named:
            more = f", and {len(named) - MOST_NAMED} others" if len(named) > MOST_NAMED else ""
            self._notes.append(f"Folders without a video are no classes: {', '.join(named[:MOST_NAMED])}{more}.")

    def _note_links(self, source: Source, folder: Folder) -> None:
        """Refuse two classes that are one folder by a link; name videos that are in two classes by links to files."""
        with_videos = {folder.members[index].parts[:-1] for index in source.targets}
        for path, first in folder.linked_twice:
            parts, parts_of_first = tuple(path.split("/")), tuple(first.split("/"))
            if not any(each[: len(parts_of_first)] == parts_of_first for each in with_videos):
                continue
            if parts[:-1] == parts_of_first[:-1]:
                raise ArchiveError(
                    f"{path} and {first} in {source.shown} are one folder, by a link: its videos would be of two "
                    "classes, so remove one of them."
                )
            self._notes.append(f"{path} and {first} are one folder, by a link: its videos are taken once, as {first}.")

    def _note_files(self) -> None:
        """Name videos that are in two classes by links to one file."""
        seen: dict[tuple[int, int], str] = {}
        twice = []
        for source, index, _ in self._videos:
            if isinstance(source.reader, Folder) and (target := source.targets.get(index)):
                first = seen.setdefault(source.reader.inodes[index], target)
                if first.partition("/")[0] != target.partition("/")[0]:
                    twice.append(f"{first} and {target}")
        if twice:
            self._notes.append(
                f"{len(twice):,} videos are in two classes by links to one file: {twice[0]} for example."
            )

    def _count_decoded(self, source: Source, member: Member) -> None:
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
            return open_source(path, shown, self._max_files, folders, is_copy=is_copy, code_page=self._code_page)

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
        if ending.lower() in TEXT_SUFFIXES and not junk_of(member.parts):
            found[(*folders, stem)] = found[(*folders, "")] = name
    return found
