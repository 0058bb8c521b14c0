"""Opens the store that an option or the environment names, here or, by its description, on another machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from har_assets import settings
from har_assets.settings import DEFAULT_ROOT
from har_assets.store.folder import ArtifactFolder
from har_assets.store.protocol import Store
from har_assets.store.quota import Quota


def chosen_root(root: str | Path = "") -> str:
    """Folder or address of the store: `root`, else what HAR_ARTIFACTS says, else `artifacts`."""
    return str(root or settings.read().artifacts)


def open_store(
    root: str | Path = "", work_root: str | Path = DEFAULT_ROOT, project: Path = Path(), *, quota: str = ""
) -> Store:
    """The store at a folder or at an address such as `s3://bucket/prefix`.

    Args:
        root: empty takes HAR_ARTIFACTS, else `artifacts`.
        work_root: folder for unfinished work and copies where root is an address.
        project: what relative folders are below.
        quota: the most that the products may take together, `200 GB`; empty takes HAR_STORE_QUOTA.
    """
    root = chosen_root(root)
    if "://" not in root:
        return ArtifactFolder(project / root, quota=Quota.of(project / root, quota))
    from har_assets.store.bucket import ArtifactBucket
    from har_assets.store.remote_folder import RemoteFolder

    remote = RemoteFolder(root, settings.ARTIFACTS)
    return ArtifactBucket(remote, project / work_root, quota=Quota.of(remote.address, quota, remote.size))


@dataclass(frozen=True)
class StoreLocation:
    """Where a store is, in words that travel to another machine, which opens the same store by them."""

    root: str = ""
    """Folder or address; empty takes what the environment of the machine says that opens it."""
    work_root: str = DEFAULT_ROOT
    """Folder for unfinished work and copies where root is an address."""
    project: str = "."
    """Project folder, below which relative folders are; relative to the working folder of the machine."""
    quota: str = ""
    """The most that the products may take together; empty takes HAR_STORE_QUOTA."""
    inside: str = ""
    """Name of a store inside that one, as for `Store.below`; empty for that one itself."""

    @property
    def project_folder(self) -> Path:
        """Absolute project folder on this machine."""
        return Path(self.project).absolute()

    def open(self) -> Store:
        """The store, on this machine."""
        store = open_store(self.root, self.work_root, self.project_folder, quota=self.quota)
        return store.below(self.inside) if self.inside else store
