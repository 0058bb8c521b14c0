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
from dataclasses import dataclass
from pathlib import Path

from har_assets.dataset.archive.plan import MAX_BYTES, MAX_FILES, Planner, Source, open_source
from har_assets.dataset.lists import MAX_LIST_BYTES, format_of, wanted_lists
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
    """Plain sentences about what was left out (files that are no videos, archives without any)."""


def extract_videos(
    source: Path,
    target: Path,
    *,
    extensions: frozenset[str] = VIDEO_SUFFIXES,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
    workers: int | None = None,
    code_page: str = "",
    log: Log = silent,
) -> ExtractionReport:
    """Unpack the videos of `source` to `target/<class>/<file>` (read-only files), all or nothing.

    Args:
        source: a RAR, ZIP, 7z or TAR (plain, gzip, bzip2, xz, Zstandard) or a folder, of class folders or of one
            archive a class. The class of a video is the name of the folder that holds it, or the stem of the inner
            archive where that has no folder.
        target: folder to make. Must not exist.
        extensions: lower-case endings taken for videos; other files are left out and counted in the notes.
        max_bytes: refuse more bytes of files, and more bytes of archives in archives.
        max_files: refuse more files, of whatever kind.
        workers: threads; None takes one a core, four at most.
        code_page: of names that an archive does not mark as UTF-8, by Python's name of it (`cp850`); empty takes UTF-8
            where they are that, else the code page that fits them best, which the notes say.
        log: takes progress lines.

    Raises:
        ArchiveError: not an archive, damaged, cut off, encrypted, unsafe, over a limit, without videos,
            two members of one path, target exists, disk too full. Nothing is left behind.
    """
    started = time.monotonic()
    source, target = Path(source).absolute(), Path(target)
    workers = workers or min(4, len(os.sched_getaffinity(0)))
    _require_separate(source, target)
    with _staging(target, log) as staging:
        log(f"reading the table of contents of {source.name}")
        planner = Planner(staging.scratch, extensions, max_bytes, max_files, workers, code_page)
        sources = planner.plan(source)
        total = sum(found.video_bytes for found in sources)
        require_space(target.parent, total, f"unpacking {source.name}", ArchiveError)
        targets = [target for found in sources for target in found.targets.values()]
        videos_by_class = dict(sorted(Counter(target.split("/")[0] for target in targets).items()))
        log(
            f"unpacking {len(targets)} videos of {len(videos_by_class)} classes, {format_bytes(total)}, "
            f"from {source.name}"
        )
        for label in videos_by_class:
            (staging.result / label).mkdir()
        _copy_videos(sources, staging.result, workers, Progress("unpacked", total, log))
        staging.publish()
    seconds = time.monotonic() - started
    log(f"unpacked {len(targets)} videos, {format_bytes(total)}, in {format_seconds(seconds)}")
    return ExtractionReport(
        videos=len(targets),
        bytes=total,
        classes=tuple(videos_by_class),
        videos_by_class=videos_by_class,
        seconds=seconds,
        notes=tuple(planner.notes()),
    )


def extract_split_lists(source: Path, target: Path, *, code_page: str = "", log: Log = silent) -> int:
    """Put the split lists of an archive or folder, `har_assets.dataset.lists` knows their names, flat into `target`.

    Returns the number of lists (153 for HMDB51). All or nothing, as `extract_videos`.

    Raises:
        ArchiveError: as `extract_videos`, or no such list inside.
    """
    source, target = Path(source).absolute(), Path(target)
    _require_separate(source, target)
    with _staging(target, log) as staging:
        found = open_source(source, source.name, MAX_FILES, code_page=code_page)
        lists: dict[str, int] = {}
        for index, member in enumerate(found.reader.members):
            name = member.parts[-1]
            if is_junk(member.parts) or format_of(name) is None:
                continue
            if name in lists:
                raise ArchiveError(
                    f"{source.name} holds two lists named {name} ({found.reader.members[lists[name]].path} and "
                    f"{member.path}): remove one of them."
                )
            if member.size > MAX_LIST_BYTES:
                raise ArchiveError(
                    f"{member.path} in {source.name} has {format_bytes(member.size)}, which is no split "
                    "list: remove it."
                )
            lists[name] = index
        if not lists:
            raise ArchiveError(f"{source.name} holds no split list: expected {wanted_lists()}.")
        found.copy({index: staging.result / name for name, index in lists.items()})
        staging.publish()
    for note in found.reader.notes:
        log(note)
    log(f"{len(lists)} split lists from {source.name}")
    return len(lists)


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
