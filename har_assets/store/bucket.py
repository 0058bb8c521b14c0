"""Published products in a bucket, for many machines, which read them through a folder of their own.

    s3://team/har/                           the address
      onnx_model/
        3f0c9a1b2d4e.20261124T141258-9f3a1c/ one version: its files, then artifact.json that makes it one
        latest                               the name of the current version: one small object, put last
    artifacts/                               the work folder of each machine, as without a bucket
      onnx_model/
        3f0c9a1b2d4e.20261124T141258-9f3a1c/ a copy, made when its files are first asked for
        latest -> ...

No object of a product is ever written twice, so a copy never grows old, and two machines that publish one asset at the
same moment have a version each. Nothing is read from the copies before the bucket has said which version is meant.

Addresses are those of fsspec (`remote_folder.py`); the options that are set there are S3's.
"""

from __future__ import annotations

import posixpath
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from har_assets.errors import HarError, StorageError, StorageGoneError
from har_assets.store.copies import ABANDONED, copy_here
from har_assets.store.protocol import Store
from har_assets.store.quota import Quota
from har_assets.store.record import LATEST, RECORD_FILE, Artifact, FolderArtifact, Record
from har_assets.store.remote_folder import PARTS_AT_ONCE, RemoteFolder
from har_assets.store.remote_lock import remote_lock
from har_assets.store.work_folder import WorkFolder
from har_assets.system.files import Log
from har_assets.system.locks import locked

REUSED = ".reused"
"""Object in a version, written when it was last found by its key and made the latest again: see bucket_pruning."""

STAMP = "%Y%m%dT%H%M%S"
"""Time of publication in the name of a version, UTC."""


class BucketArtifact(Artifact):
    """A version in a bucket. Its record is at hand; its files are copied here when `folder` is first asked for."""

    def __init__(self, remote: RemoteFolder, path: str, copy: Path, record: Record) -> None:
        self._remote = remote
        self.path = path
        """Below the address of the bucket."""
        self.copy = copy
        """Folder that it is copied to."""
        self.record = record

    @property
    def folder(self) -> Path:
        """Local folder with all of its files. Raises StorageError."""
        return copy_here(self._remote, self.path, self.record, self.copy)

    def folder_with(self, names: Iterable[str]) -> Path:
        """Local folder with these of its files at least. Raises StorageError."""
        return copy_here(self._remote, self.path, self.record, self.copy, frozenset(names))

    @property
    def address(self) -> str:
        """Its address in the bucket."""
        return f"{self._remote.address}/{self.path}"


class ArtifactBucket(Store):
    """All products below one address."""

    def __init__(
        self,
        remote: RemoteFolder,
        copies: Path,
        *,
        quota: Quota | None = None,
        inside: str = "",
        outer: ArtifactBucket | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            remote: the bucket.
            copies: folder of this machine for copies and unfinished work, laid out as the bucket is.
            quota: the most that all objects may take together.
            inside: path of this store below the address, empty for all that is there.
            outer: the store around this one, in which `find` looks too.
        """
        self.remote: RemoteFolder = remote
        self.quota = quota
        self._copies = Path(copies).absolute()
        self._inside = inside
        self._outer = outer
        self.local = WorkFolder(self._copies / inside)

    @property
    def address(self) -> str:
        """Where the products lie."""
        return posixpath.join(self.remote.address, self._inside).rstrip("/")

    def below(self, name: str) -> ArtifactBucket:
        """A store of its own inside this one; what it does not hold under a key is looked for in this one."""
        inside = posixpath.join(self._inside, name)
        return ArtifactBucket(self.remote, self._copies, quota=self.quota, inside=inside, outer=self)

    def find_latest(self, asset: str) -> Artifact | None:
        """The current version of an asset, or None. Raises StorageError."""
        name = self._latest_name(asset)
        before: str | None = None
        while name is not None and name != before:
            if found := self._version(asset, name):
                if (self.root / asset / LATEST).resolve() != found.copy:
                    self.local.link_latest(asset, found.copy)
                return found
            # Pruned between the two looks, which happens to what is no longer the latest: look again.
            name, before = self._latest_name(asset), name
        if name is not None:
            raise StorageError(
                f"{self.address}/{asset}/{LATEST} names a version that is not there: materialize {asset} again with "
                "force: true."
            )
        return None

    def find(self, asset: str, key: str) -> Artifact | None:
        """The newest complete version of that key, here or in the store around this one, or None.

        Raises StorageError.
        """
        for name in sorted(self._version_names(asset), reverse=True):
            if name.startswith(key[:12]):
                found = self._version(asset, name, at_hand=False)
                if found and found.record.key == key:
                    return found
        return self._outer.find(asset, key) if self._outer else None

    def versions(self, asset: str) -> list[Artifact]:
        """Every complete version of an asset, in no order. Raises StorageError."""
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            found = pool.map(lambda name: self._version(asset, name, at_hand=False), self._version_names(asset))
            return [artifact for artifact in found if artifact]

    def publish(self, staging: Path, record: Record, linked: Mapping[str, Artifact] | None = None) -> Artifact:
        """Upload a staging folder, then make it the latest version of its asset; it stays here as the copy.

        Files `linked` from other versions of this bucket are copied inside it and need not be here. Raises
        StorageError; the version before then stays the latest.
        """
        if self.quota:
            self.quota.refuse_when_full(record.asset, sum(int(entry["bytes"]) for entry in record.files.values()))
        name = f"{record.key[:12]}.{datetime.now(UTC).strftime(STAMP)}-{secrets.token_hex(3)}"
        path = posixpath.join(self._home(record.asset), name)
        artifact = BucketArtifact(self.remote, path, self._copies / path, record)
        self._remove_abandoned(record.asset)
        self._upload(staging, artifact, linked or {})
        (staging / RECORD_FILE).write_text(record.text())
        staging.rename(artifact.copy)
        self._move_latest(artifact)
        return artifact

    def point_to(self, artifact: Artifact) -> None:
        """Make a version of this store, or of the one around it, the latest one.

        Raises StorageError; StorageGoneError, `latest` unchanged, where a prune removes the version at this moment.
        """
        own = self._own(artifact, "publish")
        if self._latest_name(artifact.record.asset) == self._name_of(own):
            self.local.link_latest(artifact.record.asset, own.copy)
            return
        # A prune removes the record and looks for this object after that: one of the two sees the other.
        mark = f"{own.path}/{REUSED}"
        self.remote.write_object(mark, b"")
        if not self.remote.exists(f"{own.path}/{RECORD_FILE}"):
            self.remote.remove_objects([mark])
            raise StorageGoneError(
                f"{own.address} was removed by a prune when it was found: run the same command again."
            )
        self._move_latest(own)

    def discard(self, artifact: Artifact) -> None:
        """Remove a version that nothing else refers to, and its copy here: the record first. Raises StorageError."""
        own = self._own(artifact, "remove")
        self.remote.remove_objects([f"{own.path}/{RECORD_FILE}"])
        self.remote.remove_folder(own.path)
        shutil.rmtree(own.copy, ignore_errors=True)

    def drop_copy(self, artifact: Artifact) -> None:
        """Remove the copy of a version here; it is made again when it is asked for."""
        if isinstance(artifact, BucketArtifact):
            shutil.rmtree(artifact.copy, ignore_errors=True)

    @contextmanager
    def alone(self, log: Log) -> Iterator[Callable[[], None]]:
        """Hold the store for one promotion, rollback or prune at a time, among all machines. Raises StorageError."""
        with locked(self.root / "promotion", log), remote_lock(self.remote, log) as refuse_lost:
            yield refuse_lost

    # ------------------------------------------------------------------------------------------ the bucket's side

    def _home(self, asset: str) -> str:
        """Path of an asset below the address of the bucket."""
        return posixpath.join(self._inside, asset)

    def _own(self, artifact: Artifact, doing: str) -> BucketArtifact:
        """An artifact of a bucket; HarError for any other."""
        if not isinstance(artifact, BucketArtifact):
            raise HarError(f"{artifact.folder} does not lie in {self.address}: {doing} it there.")
        return artifact

    def _name_of(self, own: BucketArtifact) -> str:
        """What `latest` says of a version: its path from the folder of its asset."""
        return posixpath.relpath(own.path, self._home(own.record.asset))

    def _move_latest(self, own: BucketArtifact) -> None:
        asset = own.record.asset
        self.remote.write_object(f"{self._home(asset)}/{LATEST}", f"{self._name_of(own)}\n".encode())
        self.local.link_latest(asset, own.copy)

    def _latest_name(self, asset: str) -> str | None:
        """What the object `latest` of an asset says; None where there is none, or an empty one."""
        content = self.remote.read_object(f"{self._home(asset)}/{LATEST}")
        return content.decode(errors="replace").strip() if content else None

    def _version(self, asset: str, name: str, *, at_hand: bool = True) -> BucketArtifact | None:
        """The version of that name, a path from its asset that may lead to the store around this one.

        None where it is not complete. `at_hand` trusts a copy, which outlasts what a prune removes.
        """
        path = posixpath.normpath(posixpath.join(self._home(asset), name))
        if path.startswith(("/", "..")) or not name:
            raise StorageError(f"{self.address}/{asset}/{LATEST} names {name!r}, which is no version: remove it.")
        copy = self._copies / path
        known = FolderArtifact.read(copy) if at_hand else None
        record = known.record if known else Record.parse(self.remote.read_object(f"{path}/{RECORD_FILE}") or b"")
        if record is None:
            return None
        for file in record.files:
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise StorageError(f"{self.remote.address}/{path} claims a file {file!r}, outside itself: remove it.")
        return BucketArtifact(self.remote, path, copy, record)

    def _version_names(self, asset: str) -> list[str]:
        """Names of versions, complete or not."""
        return [name for name in self.remote.folders(self._home(asset)) if stamp_of(name)]

    def _upload(self, folder: Path, artifact: BucketArtifact, linked: Mapping[str, Artifact]) -> None:
        """All files, checked, then the record."""
        files = artifact.record.files
        for name, source in linked.items():
            self.remote.copy_object(f"{self._own(source, 'publish').path}/{name}", f"{artifact.path}/{name}")
        for name in files.keys() - linked.keys():
            self.remote.upload(folder / name, f"{artifact.path}/{name}", int(files[name]["bytes"]))
        sizes = self.remote.listing(artifact.path) if files else {}
        for name, entry in files.items():
            if sizes.get(name) != entry["bytes"]:
                raise StorageError(
                    f"{artifact.address}/{name} has {sizes.get(name)} bytes after its upload, not {entry['bytes']}: "
                    "run the same command again."
                )
        self.remote.write_object(f"{artifact.path}/{RECORD_FILE}", artifact.record.text().encode())

    def _remove_abandoned(self, asset: str) -> None:
        """Remove uploads that were killed more than a week ago: folders without a record."""
        before = datetime.now(UTC) - ABANDONED
        for name in self._version_names(asset):
            made = stamp_of(name)
            path = f"{self._home(asset)}/{name}"
            if made and made < before and not self.remote.exists(f"{path}/{RECORD_FILE}"):
                self.remote.remove_folder(path)


def stamp_of(name: str) -> datetime | None:
    """Time in the name of a version, or None where it is not such a name."""
    try:
        return datetime.strptime(name.partition(".")[2].partition("-")[0], STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
