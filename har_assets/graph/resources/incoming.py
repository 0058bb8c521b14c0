"""The folder or bucket of new videos as a Dagster resource, shared by the sensor and the asset."""

from pathlib import Path

import dagster as dg

from har_assets import settings
from har_assets.errors import HarError
from har_assets.incoming.bucket import VideoBucket
from har_assets.incoming.folder import Signature, VideoFolder, Videos
from har_assets.options import Described, parse_size
from har_assets.system.confinement import confined, refuse_other_address
from har_assets.system.files import Log, silent


class IncomingVideos(Described, dg.ConfigurableResource):
    """Where new videos are put, and what counts as one."""

    folder: str = ""
    """Relative to the project folder or absolute, or an address, `s3://bucket/prefix`; empty takes HAR_INCOMING, else
    `incoming`."""
    suffixes: list[str] = []
    """Such as `.mp4`; empty takes HAR_INCOMING_SUFFIXES (`.mp4,.avi`), else every one of a video format."""
    still_seconds: float = 2.0
    """Seconds for which a file must not have changed: one that is still being copied waits."""
    videos_a_run: int = 1000
    """Videos that one run is asked to predict; the others follow in the next one."""
    most_copied: str = "20 GB"
    """Of a bucket: the most disk that copies of videos may take at a time. A larger video is not predicted."""

    def videos(self, project: Path, home: Path) -> Videos:
        """Where the videos are; copies are made below `home`. HarError for what a configuration may not name."""
        named = self.folder or settings.read().incoming
        if "://" in named:
            refuse_other_address(named, "folder of incoming", settings.INCOMING)
            return VideoBucket(named, home, parse_size(self.most_copied))
        return VideoFolder(confined(project / named, project, "folder of incoming"))

    def scan(self, videos: Videos, note: Log = silent) -> dict[bytes, Signature]:
        """Name to signature of every video that is there, see Videos; HarError where they cannot be listed."""
        from har_assets.video.walk import VIDEO_SUFFIXES

        named = self.suffixes or settings.read().incoming_suffixes
        suffixes = [suffix.strip() for suffix in named if suffix.strip()] or sorted(VIDEO_SUFFIXES)
        bare = [suffix for suffix in suffixes if not suffix.startswith(".")]
        if bare:
            raise HarError(
                f"{', '.join(bare)} is no suffix of files: begin it with a dot in {settings.INCOMING_SUFFIXES}."
            )
        return videos.scan(suffixes, note)
