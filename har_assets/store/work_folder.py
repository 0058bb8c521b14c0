"""The folder of this machine in which products are made, and found by people under `latest`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from har_assets.errors import HarError
from har_assets.store.quota import Quota
from har_assets.store.record import LATEST
from har_assets.system.locks import FolderLock
from har_assets.system.processes import is_running

STAGING_PREFIX = ".staging-"
"""Names of staging folders begin so; the id of the process follows."""


class WorkFolder:
    """Staging folders, unfinished work and the links `latest`, a folder an asset below one root."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def home(self, asset: str) -> Path:
        """Folder of an asset; HarError for a name that could lead elsewhere."""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", asset):
            raise HarError(f"{asset!r} is no name of an asset: use letters, digits and _ as the graph does.")
        return self.root / asset

    def work(self, asset: str, key: str) -> Path:
        """Where unfinished work on that key is kept between attempts; made by whoever needs it."""
        return self.home(asset) / f".work-{key[:12]}"

    @contextlib.contextmanager
    def staging(self, asset: str, quota: Quota | None) -> Iterator[Path]:
        """An empty folder beside the versions of an asset, removed unless it was renamed.

        While it is there nothing prunes what unfinished work of the asset has kept. HarError where the quota is used
        up already.
        """
        home = self.home(asset)
        home.mkdir(parents=True, exist_ok=True)
        held = FolderLock.shared(home)
        remove_stale_staging(home)
        if quota:
            quota.refuse_when_full(asset)
        folder = Path(tempfile.mkdtemp(prefix=f"{STAGING_PREFIX}{os.getpid()}-", dir=home))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if held:
                held.release()

    def link_latest(self, asset: str, folder: Path) -> None:
        """Let the link `latest` of an asset lead to a folder, atomically."""
        home = self.root / asset
        home.mkdir(parents=True, exist_ok=True)
        temporary = home / f".{LATEST}-{threading.get_native_id()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(folder, home))
        temporary.replace(home / LATEST)


def remove_stale_staging(home: Path) -> None:
    """Remove staging folders whose process has died."""
    for folder in home.glob(f"{STAGING_PREFIX}*"):
        if is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)


def is_stale(staging: Path) -> bool:
    """Whether the process that made a staging folder has died; its number is in the name."""
    process = staging.name.removeprefix(STAGING_PREFIX).split("-")[0]
    return not (process.isdecimal() and is_running(int(process)))
