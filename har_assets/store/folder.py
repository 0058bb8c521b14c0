"""Published products in a folder: versions that are complete or absent.

    artifacts/
      onnx_model/
        3f0c9a1b2d4e/            one version: its files and artifact.json
        latest -> 3f0c9a1b2d4e   moved by an atomic rename when a version is complete

A version is named by the hash of what it was made from (inputs, configuration, code version). It is
never overwritten; a killed run leaves the previous one as it was.

Old versions are removed by har_assets.store.pruning, and never one that a process is reading: an artifact that came
from here holds a shared lock on its folder for as long as it exists.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from har_assets.errors import HarError
from har_assets.store.protocol import Store
from har_assets.store.quota import Quota
from har_assets.store.record import LATEST, RECORD_FILE, Artifact, FolderArtifact, Record
from har_assets.store.work_folder import WorkFolder
from har_assets.system.files import Log, modified
from har_assets.system.locks import FolderLock, locked


class ArtifactFolder(Store):
    """All products below one folder."""

    def __init__(self, root: Path, outer: ArtifactFolder | None = None, *, quota: Quota | None = None) -> None:
        """`outer`: the store around this one, in which `find` looks too; what it finds there stays there."""
        self.local = WorkFolder(root)
        self.quota = quota
        self.remote = None
        self._outer = outer

    @property
    def address(self) -> str:
        """The folder, for people."""
        return str(self.root)

    def below(self, name: str) -> ArtifactFolder:
        """A store of its own inside this one; what it does not hold under a key is looked for in this one."""
        return ArtifactFolder(self.root / name, self, quota=self.quota)

    def find_latest(self, asset: str) -> Artifact | None:
        """The current version of an asset, or None."""
        pointer = self.local.home(asset) / LATEST
        while pointer.exists():
            folder = pointer.resolve()
            if (found := FolderArtifact.hold(folder)) or folder == pointer.resolve():
                return found
            # Pruned between the two looks, which happens to what is no longer the latest: look again.
        return None

    def find(self, asset: str, key: str) -> Artifact | None:
        """The newest complete version of that key, here or in the store around this one, or None."""
        folders = sorted(self.local.home(asset).glob(f"{key[:12]}*"), key=modified)
        for folder in reversed(folders):
            artifact = FolderArtifact.hold(folder)
            if artifact and artifact.record.key == key:
                return artifact
        return self._outer.find(asset, key) if self._outer else None

    def versions(self, asset: str) -> list[Artifact]:
        """Every complete version of an asset, in no order."""
        folders = self.local.home(asset).glob("[!.]*/")
        found = (FolderArtifact.read(folder) for folder in folders if not folder.is_symlink())
        return [artifact for artifact in found if artifact is not None]

    def publish(self, staging: Path, record: Record, linked: Mapping[str, Artifact] | None = None) -> Artifact:
        """Turn a staging folder into the latest version of its asset; HarError where the quota has no room for it.

        Files that are `linked` from other versions of this store take no room of their own.
        """
        home = self.local.home(record.asset)
        for name, artifact in (linked or {}).items():
            if not (staging / name).exists():
                os.link(artifact.file(name), staging / name)
        if self.quota:
            self.quota.refuse_when_full(record.asset)
        lock = FolderLock.shared(staging)  # from before it has its name until it is the latest: see pruning
        (staging / RECORD_FILE).write_text(record.text())
        folder = home / record.key[:12]
        for attempt in range(2, 10_000):
            try:
                staging.rename(folder)
                break
            except OSError:
                # Made again with `force`, or by another run at the same moment: both stay.
                folder = home / f"{record.key[:12]}.{attempt}"
        else:
            raise HarError(f"{home} holds ten thousand versions of one key: remove old ones.")
        artifact = FolderArtifact(folder, record, lock)
        self.point_to(artifact)
        return artifact

    def point_to(self, artifact: Artifact) -> None:
        """Make a version the latest one, atomically; one of the store around this one is pointed to where it lies."""
        self.local.link_latest(artifact.record.asset, artifact.folder)

    def discard(self, artifact: Artifact) -> None:
        """Remove a version that nothing else refers to, such as a part that has become part of another product."""
        shutil.rmtree(artifact.folder, ignore_errors=True)

    def drop_copy(self, artifact: Artifact) -> None:
        """Nothing: versions lie here themselves."""

    @contextmanager
    def alone(self, log: Log) -> Iterator[Callable[[], None]]:
        """Hold the store for one promotion, rollback or prune at a time, as long as the file system's locks hold."""
        with locked(self.root / "promotion", log):
            yield lambda: None
