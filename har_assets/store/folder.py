"""Published products: versioned folders that are complete or absent.

    artifacts/
      onnx_model/
        3f0c9a1b2d4e/            one version: its files and artifact.json
        latest -> 3f0c9a1b2d4e   moved by an atomic rename when a version is complete

A version is named by the hash of what it was made from (inputs, configuration, code version). It is
never overwritten; a killed run leaves the previous one as it was.

Old versions are removed by har_assets.store.pruning, and never one that a process is reading: an Artifact that came
from here holds a shared lock on its folder for as long as it exists.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from har_assets.errors import HarError, MissingArtifactError
from har_assets.store.quota import Quota
from har_assets.store.record import LATEST, RECORD_FILE, Artifact, Record
from har_assets.system.files import modified
from har_assets.system.locks import FolderLock
from har_assets.system.processes import is_running

STAGING_PREFIX = ".staging-"


class ArtifactFolder:
    """All products below one root folder; `har_assets.store.bucket` has the same for a bucket.

    With a `lender`, a version that this one has under the same key is taken from there, and stays there.
    """

    def __init__(self, root: Path, lender: ArtifactFolder | None = None, *, quota: Quota | None = None) -> None:
        self.root = Path(root).absolute()
        """Where files are while they are worked on, and here, when they are published too."""
        self.lender = lender
        self.quota = quota

    def home(self, asset: str) -> Path:
        """Folder of an asset's versions; HarError for a name that could lead elsewhere."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", asset):
            raise HarError(f"{asset!r} is no name of an asset: use letters, digits and _ as the graph does.")
        return self.root / asset

    @property
    def address(self) -> str:
        """Where the products lie, for people."""
        return str(self.root)

    def below(self, name: str) -> ArtifactFolder:
        """A store of its own inside this one, to which this one lends."""
        return ArtifactFolder(self.root / name, lender=self, quota=self.quota)

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
        """The current version of an asset, or None."""
        pointer = self.home(asset) / LATEST
        while pointer.exists():
            folder = pointer.resolve()
            if (found := Artifact.hold(folder)) or folder == pointer.resolve():
                return found
            # Pruned between the two looks, which happens to what is no longer the latest: look again.
        return None

    def find(self, asset: str, key: str) -> Artifact | None:
        """The newest complete version of that key, or None."""
        folders = sorted(self.home(asset).glob(f"{key[:12]}*"), key=modified)
        for folder in reversed(folders):
            artifact = Artifact.hold(folder)
            if artifact and artifact.record.key == key:
                return artifact
        return self.lender.find(asset, key) if self.lender else None

    def versions(self, asset: str) -> list[Artifact]:
        """Every complete version of an asset, in no order."""
        folders = self.home(asset).glob("[!.]*/")
        found = (Artifact.read(folder) for folder in folders if not folder.is_symlink())
        return [artifact for artifact in found if artifact is not None]

    @contextlib.contextmanager
    def staging(self, asset: str) -> Iterator[Path]:
        """An empty folder on the same file system, removed unless `publish` has taken it.

        While it is there nothing prunes what unfinished work of the asset has kept. HarError where the store is full
        already by its quota.
        """
        home = self.home(asset)
        home.mkdir(parents=True, exist_ok=True)
        held = FolderLock.shared(home)
        remove_stale_staging(home)
        if self.quota:
            self.quota.refuse_when_full(asset)
        folder = Path(tempfile.mkdtemp(prefix=f"{STAGING_PREFIX}{os.getpid()}-", dir=home))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if held:
                held.release()

    def publish(self, staging: Path, record: Record, linked: Mapping[str, Artifact] | None = None) -> Artifact:
        """Turn a staging folder into the latest version of its asset; HarError where the quota has no room for it.

        `linked`: file name to the version of this store whose file of that name becomes part of this one.
        """
        home = self.home(record.asset)
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
        artifact = Artifact(folder, record, lock)
        self.point_to(artifact)
        return artifact

    def point_to(self, artifact: Artifact) -> None:
        """Make a version the latest one, atomically; that of a lender is pointed to where it lies."""
        self._link_latest(artifact.record.asset, artifact.folder)

    def _link_latest(self, asset: str, folder: Path) -> None:
        home = self.root / asset
        home.mkdir(parents=True, exist_ok=True)
        temporary = home / f".{LATEST}-{threading.get_native_id()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(folder, home))
        temporary.replace(home / LATEST)

    def discard(self, artifact: Artifact) -> None:
        """Remove a version that nothing else refers to, such as a part that has become part of another product."""
        shutil.rmtree(artifact.folder, ignore_errors=True)

    def drop_copy(self, artifact: Artifact) -> None:
        """Remove what this machine has of a version that lies elsewhere: in a folder, nothing."""

    def work(self, asset: str, key: str) -> Path:
        """Where unfinished work on that key is kept between attempts; made by whoever needs it."""
        return self.home(asset) / f".work-{key[:12]}"


def remove_stale_staging(home: Path) -> None:
    """Remove staging folders whose process has died."""
    for folder in home.glob(f"{STAGING_PREFIX}*"):
        if is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_stale(staging: Path) -> bool:
    """Whether the process that made a staging folder has died; its number is in the name."""
    process = staging.name.removeprefix(STAGING_PREFIX).split("-")[0]
    return not (process.isdecimal() and is_running(int(process)))
