"""Which files are videos, and where they lie: endings, names that are junk, and the one walk through a folder."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from har_assets.errors import HarError

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".f4v", ".ismv", ".m4v", ".mov", ".mp4", ".qt"}  # ISO base media, QuickTime
    | {".m1v", ".m2v", ".mpe", ".mpeg", ".mpg", ".mpv", ".tod", ".vob"}  # MPEG-1 and -2, program streams
    | {".m2t", ".m2ts", ".mts", ".tp", ".trp", ".ts"}  # MPEG transport streams
    | {".asf", ".avi", ".divx", ".wmv", ".wtv", ".xvid"}
    | {".mk3d", ".mkv", ".nut", ".ogm", ".ogv", ".webm"}
    | {".dav", ".dv", ".flv", ".mxf", ".rm", ".rmvb", ".y4m"}
    | {".264", ".265", ".h264", ".h265", ".hevc", ".ivf", ".mjpeg", ".mjpg"}  # streams without a container
)
"""Endings (lower case) of the files that are taken for videos."""

_JUNK_FOLDER = re.compile(
    r"\..*|RECYCLE[DR]|(?i:__macosx|@eadir|@tmp|@recycle|@recently-snapshot|[#@~]snapshot|#recycle|\$recycle\.bin"
    r"|system volume information|lost\+found|found\.\d{3}|network trash folder|temporary items|resource\.frk"
    r"|paxheaders(\.\w+)?|__pycache__)",
    re.DOTALL,
)
"""Hidden folders, and those that macOS, Windows, Linux, network disks (Synology, QNAP, NetApp) and TAR make."""

_JUNK_FILE = re.compile(
    r"(?=[.:~adefit])(?:(\._|:2e_|~\$).*|thumbs\.db|ehthumbs(_vista)?\.db|desktop\.ini|folder\.htt|autorun\.inf"
    r"|(\.|:2e)ds_store|\.directory|\.localized|\.nomedia|\.(nfs|fuse_hidden)\w+|icon\r)",
    re.DOTALL | re.IGNORECASE,
)
"""Files that the same make beside those of the user."""

MOST_NAMED = 8
"""Kinds that a note names."""


def has_suffix(name: str, suffixes: Iterable[str] = VIDEO_SUFFIXES) -> bool:
    """Whether a file name ends like a video, in any case."""
    return os.path.splitext(name)[1].lower() in suffixes


def is_junk(parts: tuple[str, ...]) -> bool:
    """Whether a relative path of a file is what a system leaves beside files; see `junk_of`."""
    return bool(junk_of(parts))


def junk_of(parts: tuple[str, ...]) -> str:
    """The part of a relative path of a file for which it is junk; empty where it is none.

    That is a hidden folder, a folder such as `__MACOSX` or `@eaDir`, a file such as `Thumbs.db`, or one named
    `._x.avi`, where macOS keeps the attributes of x.avi on a foreign disk; this is shown as `._*`.
    """
    *folders, name = parts
    for folder in folders:
        if _JUNK_FOLDER.fullmatch(folder):
            return folder
    match = _JUNK_FILE.fullmatch(name)
    return (f"{match[1]}*" if match[1] else name) if match else ""


class Walk:
    """One walk through a folder: an iteration over whatever is no folder and no junk, links to nothing included.

    Links to folders are followed, each real folder is entered once, and one that lies in the folder itself is entered
    under its own name and not under that of a link. So loops end, and what is found does not depend on the links.

    Yields pairs: the relative path of the folder, empty or ending in `/`, and the entry. In the order of the folders'
    names, linked ones last, entries in no order. The attributes are complete after the iteration.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.junk: list[str] = []
        """What was left out as junk, each by the part of its path for which it is junk. Such folders are not opened."""
        self.again: dict[str, str] = {}
        """Relative path of a folder that links lead to once more, and of the same folder where it was entered."""
        self.empty: list[str] = []
        """Relative paths of folders with nothing in them."""
        self.unread: dict[str, str] = {}
        """Relative path of a folder that cannot be listed, and the reason."""

    def __iter__(self) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        root = os.path.realpath(self._folder)
        entered: dict[str, str] = {}
        waiting, links = [("", root)], list[tuple[str, str]]()
        while waiting or links:
            if not waiting:
                links.sort(reverse=True)
                waiting.append(links.pop())
            path, real = waiting.pop()
            if real in entered:
                self.again[path] = entered[real]
                continue
            entered[real] = path
            try:
                with os.scandir(real) as listing:
                    entries = list(listing)
            except OSError as error:
                self.unread[path] = error.strerror or str(error)
                continue
            if not entries:
                self.empty.append(path)
            folders = []
            for entry in entries:
                if not _is_folder(entry):
                    if _JUNK_FILE.fullmatch(entry.name):
                        self.junk.append(junk_of((entry.name,)))
                    else:
                        yield path, entry
                elif _JUNK_FOLDER.fullmatch(entry.name):
                    self.junk.append(entry.name)
                elif entry.is_symlink():
                    links.append((f"{path}{entry.name}/", os.path.realpath(entry.path)))
                else:
                    folders.append((f"{path}{entry.name}/", entry.path))
            waiting += sorted(folders, reverse=True)

    def linked_twice(self) -> Iterator[tuple[str, str]]:
        """Pairs of relative paths that are one folder, without a slash; links that lead back up are left out."""
        for path, first in self.again.items():
            if not path.startswith(first):
                yield path[:-1], first[:-1]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder or a link to one; False for a link that leads in circles or may not be followed."""
    try:
        return entry.is_dir()
    except OSError:
        return False


@dataclass(frozen=True)
class Tree:
    """What a walk has found."""

    files: tuple[Path, ...]
    """Whatever is no folder and no junk, links to nothing included, sorted."""
    walk: Walk

    @property
    def videos(self) -> list[Path]:
        """Those that end like a video."""
        return [path for path in self.files if has_suffix(path.name)]

    def notes(self) -> Iterator[str]:
        """Sentences about what is not among `videos`, and why."""
        others = [ending_of(path.name) for path in self.files if not has_suffix(path.name)]
        yield from left_out(others, self.walk.junk)
        for path, first in self.walk.linked_twice():
            yield f"{path} and {first} are one folder, by a link: its videos are taken once, as {first}."


def walk_files(folder: Path) -> Tree:
    """Find all files below a folder, linked folders included.

    Raises:
        HarError: there is no such folder, or one in it cannot be read.

    """
    if not os.path.isdir(folder):  # False, too, where it may not be looked at
        raise HarError(f"There is no folder {folder}.")
    walk = Walk(folder)
    files = tuple(sorted(Path(folder, path, entry.name) for path, entry in walk))
    for path, reason in walk.unread.items():
        raise HarError(f"The folder {folder / path} cannot be read ({reason}): correct its permissions or remove it.")
    return Tree(files, walk)


def find_videos(folder: Path) -> list[Path]:
    """Video files below a folder, by their suffix, sorted. Raises HarError as `walk_files`."""
    return walk_files(folder).videos


def left_out(others: Sequence[str], junk: Sequence[str]) -> Iterator[str]:
    """Sentences that count files which are no videos, given their endings, and junk, as `junk_of` shows it."""
    if others:
        yield f"{len(others):,} files that are no videos were left out: {counted(others)}."
    if junk:
        yield f"{len(junk):,} files or folders that systems keep beside videos were left out: {counted(junk)}."


def ending_of(name: str) -> str:
    """The ending of a file name in lower case, as a note shows it."""
    return os.path.splitext(name)[1].lower() or "without an ending"


def counted(kinds: Iterable[str]) -> str:
    """`3 .txt, 1 .jpg`: how often each occurs, the most frequent first."""
    named = [
        f"{count:,} {kind}" for kind, count in sorted(Counter(kinds).items(), key=lambda each: (-each[1], each[0]))
    ]
    more = [f"{len(named) - MOST_NAMED} other kinds"] if len(named) > MOST_NAMED else []
    return ", ".join(named[:MOST_NAMED] + more)


def class_videos(videos: Path) -> Iterator[tuple[str, str, int]]:
    """(class, file name, bytes) of every video of `videos/<class>/<file>`, in no order."""
    for path, entry in Walk(videos):
        if path.count("/") == 1 and has_suffix(entry.name):
            yield path[:-1], entry.name, entry.stat().st_size
