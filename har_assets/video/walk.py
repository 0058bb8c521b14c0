"""Which files are videos, and where they lie: endings, names that are junk, and the walk through a folder."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from har_assets.errors import HarError

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".divx", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".mts", ".ogv", ".ts", ".webm", ".wmv"}
)
"""Endings (lower case) of the files that are taken for videos."""


def has_suffix(name: str, suffixes: Iterable[str] = VIDEO_SUFFIXES) -> bool:
    """Whether a file name ends like a video, in any case."""
    return os.path.splitext(name)[1].lower() in suffixes


def is_junk(parts: tuple[str, ...]) -> bool:
    """Whether a relative path is what a system leaves beside files.

    That is a file in a hidden folder or in the `__MACOSX` of a ZIP from a Mac, or one named `._x.avi`, where macOS
    keeps the attributes of x.avi on a foreign disk.
    """
    *folders, name = parts
    return name.startswith("._") or any(folder.startswith(".") or folder == "__MACOSX" for folder in folders)


def walk_files(folder: Path, *, follow_links: bool) -> Iterator[Path]:
    """Whatever is no folder below a folder, links to nothing included: folder by folder, in the order of the names.

    `follow_links` goes into linked folders too, each real folder once, so that a link that leads back up ends.
    """
    seen: set[str] = set()
    for at, folders, files in os.walk(folder, followlinks=follow_links):
        if follow_links:
            if (real := os.path.realpath(at)) in seen:
                folders.clear()
                continue
            seen.add(real)
        folders.sort()
        yield from (Path(at, name) for name in sorted(files))


def find_videos(folder: Path) -> list[Path]:
    """Video files below a folder, by their suffix, sorted; links to folders are not followed, junk is left out.

    Raises:
        HarError: there is no such folder.

    """
    if not folder.is_dir():
        raise HarError(f"There is no folder {folder}.")
    return sorted(
        path
        for path in walk_files(folder, follow_links=False)
        if has_suffix(path.name) and not is_junk(PurePath(path).relative_to(folder).parts)
    )


def class_videos(videos: Path) -> Iterator[tuple[str, str, int]]:
    """(class, file name, bytes) of every video of `videos/<class>/<file>`, in no order."""
    with os.scandir(videos) as folders:
        for folder in folders:
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            with os.scandir(folder.path) as files:
                for file in files:
                    if has_suffix(file.name):
                        yield folder.name, file.name, file.stat().st_size
