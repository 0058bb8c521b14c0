"""What callers use of an artifact store, whether it lies in a folder (`folder.py`) or in a bucket (`bucket.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from har_assets.errors import MissingArtifactError
from har_assets.store.quota import Quota
from har_assets.store.record import Artifact, Record
from har_assets.store.remote_folder import RemoteFolder
from har_assets.store.work_folder import WorkFolder
from har_assets.system.files import Log


class Store(Protocol):
    """Published versions of all assets. `har_assets.store.opening.open_store` opens one."""

    local: WorkFolder
    """Where files are worked on."""
    quota: Quota | None
    """The most that the versions may take together; None where there is no limit."""
    remote: RemoteFolder | None
    """The objects of a store that lies in a bucket; None where `root` holds the versions themselves."""

    @property
    def root(self) -> Path:
        """Folder of this machine for files in work, and for the versions themselves or for copies of them."""
        return self.local.root

    @property
    def address(self) -> str:
        """Where the versions lie, for people."""
        ...

    def below(self, name: str) -> Store:
        """A store of its own inside this one; what it does not hold under a key is looked for in this one."""
        ...

    def latest(self, asset: str) -> Artifact:
        """The current version of an asset; MissingArtifactError names the command that makes it."""
        found = self.find_latest(asset)
        if found is None:
            raise MissingArtifactError(
                f"{asset} has not been materialized: run "
                f"`dagster asset materialize -m har_assets --select '+key:{asset}'`."
            )
        return found

    def find_latest(self, asset: str) -> Artifact | None:
        """The current version of an asset, or None. Raises StorageError."""
        ...

    def find(self, asset: str, key: str) -> Artifact | None:
        """The newest complete version of that key, here or in the store around this one, or None.

        Raises StorageError.
        """
        ...

    def versions(self, asset: str) -> list[Artifact]:
        """Every complete version of an asset, in no order. Raises StorageError."""
        ...

    def staging(self, asset: str) -> AbstractContextManager[Path]:
        """An empty folder on the disk of `root`, removed unless `publish` has taken it.

        While it is there nothing prunes what unfinished work of the asset has kept. HarError where the quota is used
        up already.
        """
        return self.local.staging(asset, self.quota)

    def publish(self, staging: Path, record: Record, linked: Mapping[str, Artifact] | None = None) -> Artifact:
        """Turn a staging folder into the latest version of its asset.

        Args:
            staging: from `staging`, with the files that `record` names, but for those that are linked.
            record: of the new version.
            linked: file name to the version of this store whose file of that name becomes part of this one.

        Raises:
            HarError: the quota has no room for it. StorageError. The version before then stays the latest.
        """
        ...

    def point_to(self, artifact: Artifact) -> None:
        """Make a version of this store, or of the one around it, the latest one. Raises StorageError."""
        ...

    def discard(self, artifact: Artifact) -> None:
        """Remove a version that nothing else refers to, such as a part of another product. Raises StorageError."""
        ...

    def drop_copy(self, artifact: Artifact) -> None:
        """Remove the copy that this machine has of a version in a bucket; it is made again when it is asked for."""
        ...

    def alone(self, log: Log) -> AbstractContextManager[Callable[[], None]]:
        """Hold the store for one promotion, rollback or prune at a time, among all machines that share it.

        Gives a function to call before each write: it raises StorageLostError where another machine took over.
        HarError where nothing can be written.
        """
        ...

    def work(self, asset: str, key: str) -> Path:
        """Where unfinished work on that key is kept between attempts; made by whoever needs it."""
        return self.local.work(asset, key)
