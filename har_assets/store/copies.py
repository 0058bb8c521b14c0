"""Copies of versions from a bucket: made when their files are first asked for, resumed after a kill, mended.

artifacts/onnx_model/
  .fetching-3f0c9a1b2d4e.20261124T141258-9f3a1c/   while it is copied
  3f0c9a1b2d4e.20261124T141258-9f3a1c/             all of it, or those of its files that were asked for
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import deque
from collections.abc import Set
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from har_assets.errors import HarError, StorageAwayError, StorageError, StorageGoneError
from har_assets.store.record import RECORD_FILE, Record
from har_assets.store.remote_folder import PART_BYTES, PARTS_AT_ONCE, RemoteFolder
from har_assets.system.files import format_bytes
from har_assets.system.locks import locked

FETCHING_PREFIX = ".fetching-"

LOGGED_BYTES = 100e6
"""Copies from this size on are logged."""

ABANDONED = timedelta(days=7)
"""A copy, or an upload without a record, that is as old belongs to a process that was killed."""

logger = logging.getLogger(__name__)


def copy_here(remote: RemoteFolder, path: str, record: Record, folder: Path, names: Set[str] | None = None) -> Path:
    """Folder with a copy of the files of a version. One process at a time copies a version; the others wait for it.

    Args:
        remote: the bucket.
        path: of the version, below the address of the bucket.
        record: of the version.
        folder: where the copy is or will be.
        names: files that have to be there; None for all.

    Raises:
        HarError: the disk has no room for them. StorageError; StorageGoneError where the version was pruned.
    """
    files = {name: entry for name, entry in record.files.items() if names is None or name in names}
    if not _missing(folder, files):
        return folder
    partial = folder.with_name(FETCHING_PREFIX + folder.name)
    with locked(folder, logger.info):
        missing = _missing(folder, files)
        if missing:
            partial.mkdir(parents=True, exist_ok=True)
            size = sum(int(files[name]["bytes"]) for name in missing if name in files)
            _refuse_full_disk(remote.address, partial, size)
            if size > LOGGED_BYTES:
                logger.info("Copying %s/%s, %s", remote.address, path, format_bytes(size))
            _fetch(remote, path, {name: files[name] for name in sorted(missing - {RECORD_FILE})}, partial)
            (partial / RECORD_FILE).write_text(record.text())
            if not folder.exists() and names is None:
                partial.rename(folder)
            else:  # a part of the copy is there: all that was asked for, or files were removed or cut
                for name in (*sorted(missing - {RECORD_FILE}), RECORD_FILE):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (partial / name).replace(folder / name)
        if names is None:
            shutil.rmtree(partial, ignore_errors=True)
    _remove_abandoned(folder.parent)
    return folder


def _fetch(remote: RemoteFolder, path: str, files: dict[str, dict[str, Any]], partial: Path) -> None:
    """Copy these files of a version; StorageGoneError where it has no record any more."""
    try:
        for name, entry in files.items():
            _copy_file(remote, f"{path}/{name}", partial / name, entry)
    except StorageAwayError:
        raise
    except StorageError:
        if remote.read_object(f"{path}/{RECORD_FILE}") is not None:
            raise
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageGoneError(
            f"{remote.address}/{path} was removed by a prune before it was copied: run the same command again, which "
            "reads the newest version."
        ) from None


def _remove_abandoned(home: Path) -> None:
    """Remove copies that were killed, of versions that nobody came back for."""
    for partial in home.glob(f"{FETCHING_PREFIX}*"):
        if datetime.fromtimestamp(partial.stat().st_mtime, UTC) < datetime.now(UTC) - ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)


def _missing(folder: Path, files: dict[str, dict[str, Any]]) -> set[str]:
    """Names of files, the record among them, that a copy lacks or has in another size."""
    missing = set() if (folder / RECORD_FILE).is_file() else {RECORD_FILE}
    for name, entry in files.items():
        try:
            if (folder / name).stat().st_size != entry["bytes"]:
                missing.add(name)
        except OSError:
            missing.add(name)
    return missing


def _refuse_full_disk(address: str, folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise HarError(
            f"A copy from {address} needs {format_bytes(need)} and the disk of {folder.parent} has "
            f"{format_bytes(free)}: free some space, or set work_root of `store` to another disk."
        )


def _copy_file(remote: RemoteFolder, path: str, file: Path, entry: dict[str, Any]) -> None:
    """Copy an object to a file, going on where an earlier attempt stopped; its size and hash are checked."""
    size = int(entry["bytes"])
    file.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with file.open("a+b") as target, ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        if target.tell() > size:
            target.truncate(0)
        target.seek(0)
        while known := target.read(2**20):
            digest.update(known)
        waiting: deque[Future[bytes]] = deque()
        starts = iter(range(target.tell(), size, PART_BYTES))
        try:
            while True:
                for start in starts:
                    waiting.append(pool.submit(_part, remote, path, start, min(start + PART_BYTES, size)))
                    if len(waiting) == PARTS_AT_ONCE:
                        break
                if not waiting:
                    break
                part = waiting.popleft().result()
                target.write(part)
                digest.update(part)
        finally:
            pool.shutdown(cancel_futures=True)
    if entry["sha256"] not in (None, digest.hexdigest()):
        file.unlink()
        raise StorageError(
            f"{remote.address}/{path} does not have the bytes that were published (SHA-256 "
            f"{digest.hexdigest()[:12]}, not {entry['sha256'][:12]}): run the same command again; if that does "
            "not help, materialize its asset with force: true."
        )


def _part(remote: RemoteFolder, path: str, start: int, end: int) -> bytes:
    part = remote.read_part(path, start, end)
    if len(part) != end - start:
        raise StorageError(
            f"{remote.address}/{path} is gone or shorter than it was published: materialize its asset again with "
            "force: true."
        )
    return part
