"""The second pass: what the plan lists is copied to a staging folder, which then takes the name of the target."""

import glob
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from har_assets.dataset.archive.listing import Listing
from har_assets.dataset.archive.plan import MAX_BYTES, MAX_FILES, TEXT_SUFFIXES, Planner, Source, open_source
from har_assets.dataset.archive.readers import OneFile
from har_assets.dataset.list_formats.list_format import Row
from har_assets.dataset.lists import format_among, format_of, wanted_lists
from har_assets.errors import ArchiveError
from har_assets.system.files import Log, Progress, format_bytes, format_seconds, require_space, silent
from har_assets.system.locks import locked
from har_assets.video.walk import VIDEO_SUFFIXES, is_junk


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
    """Plain sentences about the layout and what was left out (files that are no videos, archives without any)."""
    rows: dict[int, list[Row]] = field(default_factory=dict)
    """Number of a split to the list of it, of videos as they are named now; empty where nothing is to be listed."""
    by_folders: bool = False
    """The rows come from the folders of the source and not from its lists."""


def extract_videos(
    source: Path,
    target: Path,
    *,
    extensions: frozenset[str] = VIDEO_SUFFIXES,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
    workers: int | None = None,
    label: str = "auto",
    lists: Path | None = None,
    code_page: str = "",
    log: Log = silent,
) -> ExtractionReport:
    """Unpack the videos of `source` to `target/<class>/<file>` (read-only files), all or nothing.

    Args:
        source: a RAR, ZIP, 7z or TAR (plain, gzip, bzip2, xz, Zstandard) or a folder, of class folders or of one
            archive a class. docs/own_data.md says which folder, or list, names the class of a video.
        target: folder to make. Must not exist.
        extensions: lower-case endings taken for videos; other files are left out and counted in the notes.
        max_bytes: refuse more bytes of files, and more bytes of archives in archives.
        max_files: refuse more files, of whatever kind.
        workers: threads; None takes one a core, four at most.
        label: what names the class of a video: `auto`, `parent`, `top` or `csv`.
        lists: folder of the lists of the source, as `extract_split_lists` leaves them; None where it has none.
        code_page: of names that an archive does not mark as UTF-8, by Python's name of it (`cp850`); empty takes UTF-8
            where they are that, else the code page that fits them best, which the notes say.
        log: takes progress lines.

    Raises:
        ArchiveError: not an archive, damaged, cut off, encrypted, unsafe, over a limit, without videos,
            two members of one path, a layout that may be read in two ways, target exists, disk too full. Nothing is
            left behind.
        DatasetError: lists that contradict themselves or are of another data set. Nothing is left behind.
    """
    started = time.monotonic()
    source, target = Path(source).absolute(), Path(target)
    workers = workers or min(4, len(os.sched_getaffinity(0)))
    _require_separate(source, target)
    with _staging(target, log) as staging:
        log(f"reading the table of contents of {source.name}")
        planner = Planner(staging.scratch, extensions, max_bytes, max_files, workers, code_page)
        sources, arrangement = planner.plan(source, label, Listing.read(lists, label) if lists else None)
        total = sum(found.video_bytes for found in sources)
        require_space(target.parent, total, f"unpacking {source.name}", ArchiveError)
        places = [place for place in arrangement.places if place]
        videos_by_class = dict(sorted(Counter(place.label for place in places).items()))
        log(
            f"unpacking {len(places)} videos of {len(videos_by_class)} classes, {format_bytes(total)}, "
            f"from {source.name}"
        )
        for name in videos_by_class:
            (staging.result / name).mkdir()
        _copy_videos(sources, staging.result, workers, Progress("unpacked", total, log))
        staging.publish()
    seconds = time.monotonic() - started
    log(f"unpacked {len(places)} videos, {format_bytes(total)}, in {format_seconds(seconds)}")
    return ExtractionReport(
        videos=len(places),
        bytes=total,
        classes=tuple(videos_by_class),
        videos_by_class=videos_by_class,
        seconds=seconds,
        notes=(*planner.notes(), *arrangement.notes),
        rows=arrangement.rows,
        by_folders=arrangement.by_folders,
    )


def extract_split_lists(source: Path, target: Path, *, code_page: str = "", log: Log = silent) -> int:
    """Put split lists, `har_assets.dataset.lists` knows their names, flat into `target`.

    `source` is an archive or folder that holds them, or a list itself.

    Returns the number of lists (153 for HMDB51). All or nothing, as `extract_videos`.

    Raises:
        ArchiveError: as `extract_videos`, or no such list inside.
    """
    source, target = Path(source).absolute(), Path(target)
    _require_separate(source, target)
    with _staging(target, log) as staging:
        found = _opened_lists(source, code_page)
        named = [member.parts[-1] for member in found.reader.members if not is_junk(member.parts)]
        chosen = format_among(named)
        lists: dict[str, int] = {}
        for index, member in enumerate(found.reader.members):
            name = member.parts[-1]
            if is_junk(member.parts) or chosen is None or not chosen.holds(name):
                continue
            if name in lists:
                raise ArchiveError(
                    f"{source.name} holds two lists named {name} ({found.reader.members[lists[name]].path} and "
                    f"{member.path}): remove one of them."
                )
            if member.size > chosen.max_bytes:
                raise ArchiveError(
                    f"{member.path} in {source.name} has {format_bytes(member.size)}, which is no split "
                    "list: remove it."
                )
            lists[name] = index
        if chosen is None:
            raise ArchiveError(f"{source.name} holds no split list: expected {wanted_lists()}.")
        found.copy({index: staging.result / name for name, index in lists.items()})
        staging.publish()
    for note in found.reader.notes:
        log(note)
    count = sum(format_of(name) is not None for name in lists)
    log(f"{count} split lists from {source.name}")
    return count


def _opened_lists(source: Path, code_page: str) -> Source:
    """The archive or folder that holds the lists; the folder around a list that is named itself."""
    if not source.is_file() or not (format_of(source.name) or source.suffix.lower() in TEXT_SUFFIXES):
        return open_source(source, source.name, MAX_FILES, code_page=code_page)
    if format_of(source.name) is None:
        raise ArchiveError(f"{source.name} is no split list: expected {wanted_lists()}.")
    return Source(source, source.name, OneFile(source))


def _copy_videos(sources: list[Source], folder: Path, workers: int, progress: Progress) -> None:
    cancelled = threading.Event()

    def run(source: Source) -> None:
        source.copy({index: folder / target for index, target in source.targets.items()}, cancelled, progress.add)
        source.remove_copy()

    with ThreadPoolExecutor(workers, thread_name_prefix="unpack") as pool:
        futures = [pool.submit(run, source) for source in sources]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise


class _Staging:
    """A folder beside the target, on its file system: `result` becomes the target, `scratch` vanishes."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.folder = target.parent / f".{target.name}.partial-{os.getpid()}"
        self.result = self.folder / "result"
        self.scratch = self.folder / "scratch"

    def publish(self) -> None:
        """Give the result the target's name, by one rename."""
        self.result.rename(self._target)


@contextmanager
def _staging(target: Path, log: Log) -> Iterator[_Staging]:
    """Lock the target, remove what a killed process left, and give a staging folder, removed at the end."""
    with locked(target, log):
        for stale in target.parent.glob(f"{glob.escape(f'.{target.name}.partial-')}*"):
            _remove(stale)  # its process is dead: a living one would hold the lock
        if target.exists():
            raise ArchiveError(f"{target} exists already: remove it.")
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
