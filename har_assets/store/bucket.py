"""Published products in a bucket, for many machines: the versions of `artifacts.py`, read through a local folder.

    s3://team/har/                           the address
      onnx_model/
        3f0c9a1b2d4e.20261124T141258-9f3a1c/ one version: its files, then artifact.json that makes it one
        latest                               the name of the current version: one small object, put last
    artifacts/                               the work folder of each machine, as without a bucket
      onnx_model/
        3f0c9a1b2d4e.20261124T141258-9f3a1c/ a copy, made when its files are first asked for
        latest -> ...

No object is ever written twice but `latest`, so a copy never grows old, and two machines that publish one asset at the
same moment have a version each. Nothing is read from the copies before the bucket has said which version is meant.

Addresses are those of fsspec (`remote_folder.py`); the options that are set there are S3's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import secrets
import shutil
import time
from collections import deque
from collections.abc import Iterable, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from har_assets import settings
from har_assets.errors import HarError, StorageAwayError, StorageError, StorageGoneError
from har_assets.store.folder import ArtifactFolder
from har_assets.store.quota import Quota
from har_assets.store.record import LATEST, RECORD_FILE, Artifact, Record
from har_assets.store.remote_folder import PARTS_AT_ONCE, RemoteFolder
from har_assets.system.files import format_bytes
from har_assets.system.locks import locked

DEFAULT_ROOT = "artifacts"

FETCHING_PREFIX = ".fetching-"
CONDEMNED_PREFIX = ".condemned-"
"""Of the object beside a version that says since when it is going: see har_assets.store.bucket_pruning."""
PART_BYTES = 16 * 2**20
"""Of a large file moved at once; PARTS_AT_ONCE of them bound the memory, 128 MiB. S3 takes 10,000 parts a file: larger
files get larger parts."""
MOST_PARTS = 10_000
TOLD_BYTES = 100e6
"""Copies from this size on are logged."""
STAMP = "%Y%m%dT%H%M%S"
ABANDONED = timedelta(days=7)
"""An upload that has no record after so long belongs to a process that was killed."""

logger = logging.getLogger(__name__)


def open_store(
    root: str | Path = "", work_root: str | Path = DEFAULT_ROOT, project: Path = Path(), *, quota: str = ""
) -> ArtifactFolder:
    """The store at a folder or at an address such as `s3://bucket/prefix`.

    Args:
        root: empty takes HAR_ARTIFACTS, else `artifacts`.
        work_root: folder for unfinished work and copies where root is an address.
        project: what relative folders are below.
        quota: the most that the products may take together, `200 GB`; empty takes HAR_STORE_QUOTA.
    """
    root = str(root or settings.ARTIFACTS.get() or DEFAULT_ROOT)
    if "://" in root:
        bucket = ArtifactBucket(root, project / work_root)
        bucket.quota = Quota.of(bucket.address, quota, lambda: sum(bucket.listing().values()))
        return bucket
    return ArtifactFolder(project / root, quota=Quota.of(project / root, quota))


class StoredArtifact(Artifact):
    """A version in a bucket. Its record is at hand; its files are copied here when `folder` is first asked for."""

    def __init__(self, bucket: ArtifactBucket, place: str, copy: Path, record: Record) -> None:
        vars(self).update(bucket=bucket, place=place, copy=copy, record=record)

    bucket: ArtifactBucket
    place: str
    """Path inside the bucket."""
    copy: Path
    """Where it is copied to."""

    @property
    def folder(self) -> Path:
        """Local folder with all of its files. Raises StorageError."""
        return self.bucket.copied(self)

    def folder_with(self, names: Iterable[str]) -> Path:
        """Local folder with these of its files at least. Raises StorageError."""
        return self.bucket.copied(self, frozenset(names))

    @property
    def address(self) -> str:
        """Its address in the bucket."""
        return self.bucket.address_of(self.place)

    # Those of a dataclass would copy the files.
    def __repr__(self) -> str:
        return f"StoredArtifact({self.address})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredArtifact) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)


class ArtifactBucket(RemoteFolder, ArtifactFolder):
    """All products below one address; `root` is the local folder of copies and unfinished work."""

    _named_by = settings.ARTIFACTS

    def __init__(
        self, address: str, work_root: Path, lender: ArtifactBucket | None = None, *, quota: Quota | None = None
    ) -> None:
        super().__init__(work_root, lender, quota=quota)
        self._address = address.rstrip("/")
        self._top: ArtifactBucket = lender._top if lender else self

    def below(self, name: str) -> ArtifactBucket:
        """A store of its own inside this one, to which this one lends."""
        return ArtifactBucket(f"{self._address}/{name}", self.root / name, lender=self, quota=self.quota)

    def find_latest(self, asset: str) -> Artifact | None:
        """The current version of an asset, or None. Raises StorageError."""
        pointer, before = self._read(self._place(asset, LATEST)), None
        found = self._version(asset, pointer.decode(errors="replace").strip()) if pointer else None
        while pointer and found is None and pointer != before:
            # Pruned between the two looks, which happens to what is no longer the latest: look again.
            pointer, before = self._read(self._place(asset, LATEST)), pointer
            found = self._version(asset, pointer.decode(errors="replace").strip()) if pointer else None
        if pointer and found is None:
            raise StorageError(
                f"{self._address}/{asset}/{LATEST} names a version that is not there: materialize {asset} again with "
                "force: true."
            )
        if found and (self.root / asset / LATEST).resolve() != found.copy:
            self._link_latest(asset, found.copy)
        return found

    def find(self, asset: str, key: str) -> Artifact | None:
        """The newest complete version of that key that is not condemned (bucket_pruning), or None.

        Raises StorageError.
        """
        for name in sorted(self._version_names(asset), reverse=True):
            if name.startswith(key[:12]):
                found = self._version(asset, name)
                if found and found.record.key == key:
                    return found
        return self.lender.find(asset, key) if self.lender else None

    def versions(self, asset: str) -> list[Artifact]:
        """Every complete version of an asset that is not condemned, in no order. Raises StorageError."""
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            found = pool.map(lambda name: self._version(asset, name), self._version_names(asset))
            return [artifact for artifact in found if artifact]

    def publish(self, staging: Path, record: Record, linked: Mapping[str, Artifact] | None = None) -> Artifact:
        """Upload a staging folder, then make it the latest version of its asset; it stays here as the copy.

        Files `linked` from other versions of this bucket are copied inside it and need not be here. Raises StorageError; the
        version before then stays the latest.
        """
        if self.quota:
            self.quota.refuse_when_full(record.asset, sum(int(entry["bytes"]) for entry in record.files.values()))
        name = f"{record.key[:12]}.{datetime.now(UTC).strftime(STAMP)}-{secrets.token_hex(3)}"
        artifact = StoredArtifact(self, self._place(record.asset, name), self.root / record.asset / name, record)
        self._remove_abandoned(record.asset)
        self._upload(staging, artifact, linked or {})
        (staging / RECORD_FILE).write_text(record.text())
        staging.rename(artifact.copy)
        self.point_to(artifact)
        return artifact

    def point_to(self, artifact: Artifact) -> None:
        """Make a version of this store, or of the one that lends to it, the latest one. Raises StorageError."""
        if not isinstance(artifact, StoredArtifact):
            raise HarError(f"{artifact.folder} does not lie in {self._address}: publish it there.")
        asset = artifact.record.asset
        name = posixpath.relpath(artifact.place, self._place(asset))
        with self._faults("write"):
            self._remote.pipe_file(self._place(asset, LATEST), f"{name}\n".encode())
        self._link_latest(asset, artifact.copy)

    def copied(self, artifact: StoredArtifact, names: Set[str] | None = None) -> Path:
        """Folder with a copy of all files of a version: made, resumed or mended as needed. Raises StorageError.

        With `names` these are all that has to be there. One process at a time copies a version; the others wait for it.
        """
        folder = artifact.copy
        files = {name: entry for name, entry in artifact.record.files.items() if names is None or name in names}
        missing = _missing(folder, files)
        if not missing:
            return folder
        partial = folder.with_name(FETCHING_PREFIX + folder.name)
        with locked(folder, logger.info):
            missing = _missing(folder, files)
            if missing:
                partial.mkdir(parents=True, exist_ok=True)
                size = sum(int(files[name]["bytes"]) for name in missing if name in files)
                self._refuse_full_disk(partial, size)
                if size > TOLD_BYTES:
                    logger.info("Copying %s, %s", artifact.address, format_bytes(size))
                try:
                    for name in sorted(missing - {RECORD_FILE}):
                        self._copy(f"{artifact.place}/{name}", partial / name, files[name])
                except StorageError as error:
                    self._refuse_removed(artifact, error)
                    raise
                (partial / RECORD_FILE).write_text(artifact.record.text())
                if not folder.exists() and names is None:
                    partial.rename(folder)
                else:  # a part of the copy is there: all that was asked for, or files were removed or cut
                    for name in (*sorted(missing - {RECORD_FILE}), RECORD_FILE):
                        (folder / name).parent.mkdir(parents=True, exist_ok=True)
                        (partial / name).replace(folder / name)
            if names is None:
                shutil.rmtree(partial, ignore_errors=True)
        for other in folder.parent.glob(f"{FETCHING_PREFIX}*"):  # killed, and of a version that nobody came back for
            if datetime.fromtimestamp(other.stat().st_mtime, UTC) < datetime.now(UTC) - ABANDONED:
                shutil.rmtree(other, ignore_errors=True)
        return folder

    def _refuse_removed(self, artifact: StoredArtifact, error: StorageError) -> None:
        """StorageGoneError where a version has no record any more."""
        if isinstance(error, StorageAwayError) or self._read(f"{artifact.place}/{RECORD_FILE}") is not None:
            return
        shutil.rmtree(artifact.copy.with_name(FETCHING_PREFIX + artifact.copy.name), ignore_errors=True)
        raise StorageGoneError(
            f"{artifact.address} was removed by a prune before it was copied: run the same command again, which reads "
            "the newest version."
        ) from None

    def discard(self, artifact: Artifact) -> None:
        """Remove a version that nothing else refers to, and its copy here: the record first. Raises StorageError."""
        if not isinstance(artifact, StoredArtifact):
            raise HarError(f"{artifact.folder} does not lie in {self._address}: remove it there.")
        with self._faults("remove"):
            self._remote.rm_file(f"{artifact.place}/{RECORD_FILE}")
            self._remote.rm(artifact.place, recursive=True)
        shutil.rmtree(artifact.copy, ignore_errors=True)

    def drop_copy(self, artifact: Artifact) -> None:
        """Remove the copy of a version here; it is made again when it is asked for."""
        if isinstance(artifact, StoredArtifact):
            shutil.rmtree(artifact.copy, ignore_errors=True)

    def try_out(self) -> float:
        """List, write, read and remove a small object; seconds that it took. Raises StorageError."""
        start = time.monotonic()
        self._version_names("raw_archive")
        place = self._place(f".har-doctor-{secrets.token_hex(6)}")
        with self._faults("write"):
            self._remote.pipe_file(place, b"har")
        read = self._read(place)
        with self._faults("remove"):
            self._remote.rm_file(place)
        if read != b"har":
            raise StorageError(f"{self._address} did not give back what was written a moment ago: it cannot be used.")
        return time.monotonic() - start

    # ------------------------------------------------------------------------------------------ the bucket's side

    def _version(self, asset: str, name: str) -> StoredArtifact | None:
        """The version of that name, which may climb to a lender's; None where it is not complete."""
        place = posixpath.normpath(self._place(asset, name))
        copy = Path(os.path.normpath(self.root / asset / name))
        if not copy.is_relative_to(self._top.root) or not name:
            raise StorageError(f"{self._address}/{asset}/{LATEST} names {name!r}, which is no version: remove it.")
        known = Artifact.read(copy)
        record = known.record if known else Record.parse(self._read(f"{place}/{RECORD_FILE}") or b"")
        if record is None:
            return None
        for file in record.files:
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise StorageError(f"{self.address_of(place)} claims a file {file!r}, outside itself: remove it.")
        return StoredArtifact(self, place, copy, record)

    def _version_names(self, asset: str) -> list[str]:
        """Names of versions, complete or not, those that a prune has condemned left out."""
        with self._faults("list"):
            try:
                entries = self._remote.ls(self._place(asset), detail=True)
            except FileNotFoundError:
                entries = []
        self._refuse_missing_bucket(entries)
        names = {PurePosixPath(entry["name"]).name: entry["type"] for entry in entries}
        return [
            name
            for name, kind in names.items()
            if kind == "directory" and stamp_of(name) and f"{CONDEMNED_PREFIX}{name}" not in names
        ]

    def _upload(self, folder: Path, artifact: StoredArtifact, linked: Mapping[str, Artifact]) -> None:
        """All files, checked, then the record."""
        files = artifact.record.files
        with self._faults("write"):
            for name, lender in linked.items():
                if not isinstance(lender, StoredArtifact):
                    raise HarError(f"{lender.folder} does not lie in {self._address}: publish it there.")
                self._remote.cp_file(f"{lender.place}/{name}", f"{artifact.place}/{name}")
            for name in files.keys() - linked.keys():
                self._put(folder / name, f"{artifact.place}/{name}", int(files[name]["bytes"]))
            sizes = self._remote.find(artifact.place, detail=True) if files else {}
        for name, entry in files.items():
            stored = sizes.get(f"{artifact.place}/{name}", {}).get("size")
            if stored != entry["bytes"]:
                raise StorageError(
                    f"{artifact.address}/{name} has {stored} bytes after its upload, not {entry['bytes']}: run the "
                    "same command again."
                )
        with self._faults("write"):
            self._remote.pipe_file(f"{artifact.place}/{RECORD_FILE}", artifact.record.text().encode())

    def _put(self, file: Path, place: str, size: int) -> None:
        part = max(PART_BYTES, -(-size // MOST_PARTS))
        self._remote.put_file(str(file), place, **({"chunksize": part} if "s3" in self._remote.protocol else {}))

    def _copy(self, place: str, file: Path, entry: dict[str, Any]) -> None:
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
                        waiting.append(pool.submit(self._part, place, start, min(start + PART_BYTES, size)))
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
                f"{self.address_of(place)} does not have the bytes that were published (SHA-256 "
                f"{digest.hexdigest()[:12]}, not {entry['sha256'][:12]}): run the same command again; if that does "
                "not help, materialize its asset with force: true."
            )

    def _part(self, place: str, start: int, end: int) -> bytes:
        with self._faults("read"):
            try:
                part = bytes(self._remote.cat_file(place, start=start, end=end))
            except FileNotFoundError:
                self._refuse_missing_bucket(())
                part = b""
        if len(part) != end - start:
            raise StorageError(
                f"{self.address_of(place)} is gone or shorter than it was published: materialize its asset again with "
                "force: true."
            )
        return part

    def _remove_abandoned(self, asset: str) -> None:
        """Remove uploads that were killed more than a week ago: folders without a record."""
        before = datetime.now(UTC) - ABANDONED
        names = self._version_names(asset)
        with self._faults("write"):
            for name in names:
                made = stamp_of(name)
                if made and made < before and not self._remote.exists(self._place(asset, name, RECORD_FILE)):
                    self._remote.rm(self._place(asset, name), recursive=True)

    def _refuse_full_disk(self, folder: Path, need: int) -> None:
        free = shutil.disk_usage(folder).free
        if free < need:
            raise HarError(
                f"A copy from {self._address} needs {format_bytes(need)} and {self.root} has {format_bytes(free)}: "
                "free some space, or set work_root of `store` to another disk."
            )


def stamp_of(name: str) -> datetime | None:
    """Time in the name of a version, or None where it is not such a name."""
    try:
        return datetime.strptime(name.partition(".")[2].partition("-")[0], STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


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
