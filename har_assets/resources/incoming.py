"""The folder of new videos as a Dagster resource, shared by the sensor and the asset."""

import os
from pathlib import Path

import dagster as dg

from har_assets.errors import HarError
from har_assets.incoming.folder import Signature, partition_key, scan

FOLDER_VARIABLE = "HAR_INCOMING"
"""Environment variable: the folder of new videos."""
SUFFIXES_VARIABLE = "HAR_INCOMING_SUFFIXES"
"""Environment variable: suffixes that count, with commas between them."""
INTERVAL_VARIABLE = "HAR_INCOMING_INTERVAL"
"""Environment variable: seconds between two looks of the sensor."""


class IncomingVideos(dg.ConfigurableResource):
    """Where new videos are put, and what counts as one."""

    folder: str = ""
    """Relative to the project folder or absolute; empty takes HAR_INCOMING, else `incoming`."""
    suffixes: list[str] = []  # noqa: RUF012 - dagster copies the defaults
    """Such as `.mp4`; empty takes HAR_INCOMING_SUFFIXES (`.mp4,.avi`), else every one of a video format."""
    still_seconds: float = 2.0
    """Seconds for which a file must not have changed: one that is still being copied waits."""
    videos_a_run: int = 1000
    """Videos that one run is asked to predict; the others follow in the next one."""

    def path(self, project: Path) -> Path:
        """The folder, absolute."""
        return project / (self.folder or os.environ.get(FOLDER_VARIABLE) or "incoming")

    def scan(self, project: Path) -> dict[bytes, Signature]:
        """Name to signature of every video that is there; HarError where the folder cannot be read."""
        from har_assets.video.check import VIDEO_SUFFIXES  # noqa: PLC0415

        named = self.suffixes or os.environ.get(SUFFIXES_VARIABLE, "").split(",")
        suffixes = [suffix.strip() for suffix in named if suffix.strip()] or sorted(VIDEO_SUFFIXES)
        bare = [suffix for suffix in suffixes if not suffix.startswith(".")]
        if bare:
            raise HarError(f"{', '.join(bare)} is no suffix of files: begin it with a dot in {SUFFIXES_VARIABLE}.")
        return scan(self.path(project), suffixes)

    def by_partition(self, project: Path) -> dict[str, bytes]:
        """Partition key to name of every video that is there."""
        return {partition_key(name): name for name in self.scan(project)}
