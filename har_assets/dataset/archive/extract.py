"""The second pass: what the plan lists is copied to a staging folder, which then takes the name of the target."""

import glob
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from har_assets.dataset.archive.members import copy_member, damage_in_words, ignore_count
from har_assets.dataset.archive.plan import MAX_BYTES, MAX_FILES, Planner, Unit, check_count
from har_assets.dataset.archive.readers import open_reader
from har_assets.dataset.lists import MAX_LIST_BYTES, format_of, wanted_lists
from har_assets.errors import ArchiveError
from har_assets.system.files import Log, Progress, format_bytes, format_seconds, require_space, silent
from har_assets.system.locks import locked
from har_assets.video.walk import VIDEO_SUFFIXES


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
    log: Log = silent,
) -> ExtractionReport:
    """Unpack the videos of `source` to `target/<class>/<file>` (read-only files), all or nothing.

    Args:
        source: a RAR, ZIP or TAR (plain, gzip, bzip2, xz) or a folder, of class folders or of one archive
            a class. The class of a video is the name of the folder that holds it, or the stem of the inner
            archive where that has no folder.
        target: folder to make. Must not exist.
        extensions: lower-case endings taken for videos; other files are left out and counted in the notes.
        max_bytes: refuse more bytes of video.
        max_files: refuse more files, of whatever kind.
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
    with _staging(target, log) as staging:
        log(f"reading the table of contents of {source.name}")
        planner = Planner(staging.scratch, extensions, max_bytes, max_files, workers)
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


def extract_split_lists(source: Path, target: Path, *, log: Log = silent) -> int:
    """Put the split lists of an archive or folder, `har_assets.dataset.lists` knows their names, flat into `target`.

    Returns the number of lists (153 for HMDB51). All or nothing, as `extract_videos`.

    Raises:
        ArchiveError: as `extract_videos`, or no such list inside.
    """
    source, target = Path(source).absolute(), Path(target)
    _require_separate(source, target)
    with _staging(target, log) as staging, open_reader(source, source.name) as reader:
        check_count(reader, MAX_FILES, source.name)
        origins: dict[str, str] = {}
        for member in reader.members:
            name = member.parts[-1]
            if format_of(name) is None:
                continue
            if name in origins:
                raise ArchiveError(
                    f"{source.name} holds two lists named {name} ({origins[name]} and {member.path}): "
                    "remove one of them."
                )
            if member.size > MAX_LIST_BYTES:
                raise ArchiveError(
                    f"{member.path} in {source.name} has {format_bytes(member.size)}, which is no split "
                    "list: remove it."
                )
            origins[name] = member.path
            with damage_in_words(source.name), closing(reader.open(member)) as stream:
                copy_member(stream, staging.result / name, member, threading.Event(), ignore_count)
        if not origins:
            raise ArchiveError(f"{source.name} holds no split list: expected {wanted_lists()}.")
        with damage_in_words(source.name):
            reader.finish()
        staging.publish()
    log(f"{len(origins)} split lists from {source.name}")
    return len(origins)


def _run_units(units: list[Unit], staging: "_Staging", workers: int, progress: Progress) -> None:
    cancelled = threading.Event()

    def run(unit: Unit) -> None:
        with unit.source.open(staging.scratch) as reader, damage_in_words(unit.source.shown):
            for job in unit.jobs:
                with closing(reader.open(job.member)) as stream:
                    copy_member(stream, staging.result / job.relative_path, job.member, cancelled, progress.add)
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
