"""Options of the frame cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from har_assets.options import Options, added

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
    """Every how many frames of a video of `fps` frames a second one is kept."""
    fps: float = added(30.0)
    """Frames a second that `stride` counts in: those of most of the videos. Others are sampled at the same moments, so
    that a clip spans the same seconds in all of them."""
    resize: str = added("cover", default="short_side")
    """`short_side` scales the picture as it is displayed until its short side is that of the frame; `cover` scales it
    until it covers the frame. Both cut the centre out."""
    max_frames: int = 0
    """Frames kept of a training video at most, from its start; 0 keeps all. Videos for validation and test are always
    kept whole, as the deployed model sees them."""
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

        return CacheParams(
            self.height, self.width, self.stride, self.max_frames or None, fps=self.fps, resize=self.resize
        )
