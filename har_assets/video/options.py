"""Options of the frame cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from har_assets.options import Options

if TYPE_CHECKING:
    from har_assets.video.frame_cache import CacheParams


class FrameOptions(Options):
    """How videos become frames. The defaults fit the sample; conf/hmdb51.yaml has those for HMDB51."""

    not_content: ClassVar[frozenset[str]] = frozenset({"workers", "timeout_s", "shard_clips"})

    height: int = 36
    """Height of the kept frames, pixels."""
    width: int = 48
    """Width of the kept frames, pixels."""
    stride: int = 2
    """Every how many frames of the video one is kept."""
    max_frames: int = 64
    """Frames kept of a clip at most."""
    workers: int = 0
    """Processes that decode; 0 takes one a core."""
    timeout_s: float = 120.0
    """Seconds that decoding one video may take before it is quarantined."""
    shard_clips: int = 256
    """Clips that one node of a Ray cluster decodes at a time."""

    @property
    def params(self) -> CacheParams:
        """Options that decide the frames."""
        from har_assets.video.frame_cache import CacheParams

        return CacheParams(self.height, self.width, self.stride, self.max_frames)
