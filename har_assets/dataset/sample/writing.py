"""The two archives of the sample, written all or nothing, the same bytes each time."""

from __future__ import annotations

import io
import multiprocessing
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from har_assets.dataset.sample.rendering import render_take
from har_assets.dataset.sample.takes import Take, plan, split_lists
from har_assets.system.files import Log, remove_partials, silent, written_whole

ARCHIVE_NAME = "hmdb51_sample.zip"
SPLIT_LISTS_NAME = "hmdb51_sample_splits.zip"


@dataclass(frozen=True)
class SampleFiles:
    """The two files of the sample, as HMDB51 has two."""

    archive: Path
    """ZIP of one ZIP per class, each holding `<class>/<clip>.avi`."""
    split_lists: Path
    """ZIP of `testTrainMulti_7030_splits/<class>_test_split<1|2|3>.txt`."""


def _zip_of(members: Iterable[tuple[str, bytes]], file: io.BytesIO | Path) -> None:
    """Write a ZIP whose bytes depend on the members alone: fixed time, system and permissions, no packing."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, also where this runs on another system
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


@contextmanager
def _rendered(takes: Sequence[Take], workers: int) -> Iterator[Iterator[bytes]]:
    """The AVI files of `takes`, in order, made by `workers` processes (by this one if it is one)."""
    # A daemonic process (a data loader's, a pool's) is not allowed to have children.
    if workers <= 1 or multiprocessing.current_process().daemon:
        yield map(render_take, takes)
        return
    # spawn, not fork: the caller may hold threads and locks.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool.map(render_take, takes, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _class_archives(takes: Sequence[Take], clips: Iterator[bytes], log: Log) -> Iterator[tuple[str, bytes]]:
    """The inner ZIPs, one a class, while the clips come in."""
    labels = {take.label for take in takes}
    for done, (label, of_class) in enumerate(groupby(takes, lambda take: take.label), start=1):
        members = [(f"{label}/{take.name}", next(clips)) for take in of_class]
        inner = io.BytesIO()
        _zip_of(members, inner)
        log(f"sample: {label}, {len(members)} clips ({done} of {len(labels)} classes)")
        yield f"{label}.zip", inner.getvalue()


def write_takes(takes: Sequence[Take], folder: Path, workers: int, log: Log) -> SampleFiles:
    """Write archive and lists of `takes`, which come class by class."""
    folder.mkdir(parents=True, exist_ok=True)
    files = SampleFiles(folder / ARCHIVE_NAME, folder / SPLIT_LISTS_NAME)
    for path in (files.archive, files.split_lists):
        remove_partials(path)
    with written_whole(files.split_lists) as lists_path, written_whole(files.archive) as archive_path:
        _zip_of(((name, text.encode()) for name, text in split_lists(takes).items()), lists_path)
        with _rendered(takes, workers) as clips:
            _zip_of(_class_archives(takes, clips, log), archive_path)
    return files


def write_sample(folder: Path, *, workers: int | None = None, log: Log = silent) -> SampleFiles:
    """Write the synthetic sample into `folder` and return the paths of its two archives.

    240 clips of 8 classes and 12 films, 320x240 at 30 frames a second, 1 to 3 s each. The bytes are always
    the same. The files appear under their names only when they are complete; files of these names that were
    there before are replaced.

    Args:
        folder: created if missing.
        workers: processes that draw and encode; all cores if None, this process alone if 1.
        log: called with one line a class.

    Raises:
        OSError: the folder cannot be written.
    """
    return write_takes(plan(), Path(folder), workers or os.cpu_count() or 1, log)
