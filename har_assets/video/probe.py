"""The header and the first frame of a video file.

Refuses what is no video, with the reason in words; says which decoder reads the file.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from har_assets import settings
from har_assets.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Text files that make FFmpeg open other files and addresses; one of these in a folder of videos is no video.
PLAYLIST_FORMATS = {"hls", "dash", "concat", "sdp", "rtsp", "ffmetadata", "webvtt", "srt"}


# Scaling a strip of pixels until it covers a square takes memory in proportion to its aspect ratio.
MAX_ASPECT_RATIO = 20

MAX_PIXEL_ASPECT = 8
"""No camera makes pixels that are longer; a header that says so is damaged."""


@dataclass(frozen=True)
class VideoFacts:
    """Facts from the header and the first frame of a video."""

    path: Path
    """Absolute."""
    container: str
    """FFmpeg's name of the format, such as 'avi' or 'mov,mp4,m4a,3gp,3g2,mj2'."""
    height: int
    """Pixels, upright."""
    width: int
    """Pixels, upright."""
    pixel_aspect: float
    """Width of a displayed pixel divided by its height, upright; 1.0 where the file does not say."""
    fps: float
    """Frames a second; 0.0 where the file does not say."""
    start_s: float | None
    """Time in the file's own count at which it starts; None where the file does not say."""
    claimed_s: float
    """Seconds that the header claims; 0.0 where it is silent. For progress, never to be believed."""
    header_frames: int
    """Frames that the header claims; 0 where it is silent. For notes, never to be believed."""
    why_not_decord: str
    """Empty, or why PyAV reads this file."""


def probe(path: Path) -> VideoFacts:
    """Open a video, decode its first frame where the format can hold a rotation, and return the facts.

    Raises:
        VideoError: there is no such file, it may not be read, or it holds no readable video.

    """
    import av

    path = _readable(path)
    try:
        with open_container(path) as container:
            if container.format.name in PLAYLIST_FORMATS:
                raise VideoError(f"the file is a playlist or text ({container.format.name}), not a video")
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams})
                raise VideoError(f"the file holds no video stream, only {', '.join(kinds) or 'nothing'}")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError("the video is coded in a way that is not known (or its header is damaged)")
            facts = _facts_of(path, container, stream)
    except av.FFmpegError as error:
        raise VideoError(_reason(error)) from None
    if facts.height < 1 or facts.width < 1:
        raise VideoError("the file has a header but no picture size, so no frame can be decoded")
    longer, shorter = max(facts.height, facts.width), min(facts.height, facts.width)
    if longer > MAX_ASPECT_RATIO * shorter:
        raise VideoError(
            f"the picture is {facts.width}x{facts.height} pixels; "
            f"nothing beyond an aspect ratio of {MAX_ASPECT_RATIO}:1 is read"
        )
    return facts


def _facts_of(path: Path, container: "InputContainer", stream: "VideoStream") -> VideoFacts:
    codec = stream.codec_context.name
    height, width = stream.codec_context.height, stream.codec_context.width
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    why_not_decord = ""
    if len(container.streams.video) > 1:
        why_not_decord = "several video streams: decord takes the largest, not the first"
    elif codec in {"av1", "libdav1d", "libaom-av1"}:
        why_not_decord = "decord 0.6 has no AV1 decoder"
    elif container.duration is None:
        why_not_decord = "decord does not open a file without a duration"
    elif settings.DECODER.get() and settings.read().decoder == "pyav":  # without it nothing is imported
        why_not_decord = f"{settings.DECODER} says pyav"
    pixel_aspect = _pixel_aspect(stream)
    if container.format.name != "avi":  # an AVI cannot say that it is rotated
        turns = quarter_turns(_first_frame(container, stream))
        if turns:
            why_not_decord = "rotated: one rule for all angles"
        if turns % 2:
            height, width, pixel_aspect = width, height, 1 / pixel_aspect
    start_s = None if container.start_time is None else container.start_time / 1e6  # microseconds
    claimed_s = max(container.duration or 0, 0) / 1e6
    return VideoFacts(
        path, container.format.name, height, width, pixel_aspect, fps, start_s, claimed_s, stream.frames, why_not_decord
    )


def _first_frame(container: "InputContainer", stream: "VideoStream") -> "VideoFrame | None":
    import av

    stream.thread_count = 1
    try:
        return next(container.decode(stream), None)
    except av.FFmpegError:
        return None  # the readers say what is wrong


def _pixel_aspect(stream: "VideoStream") -> float:
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else 1.0


def quarter_turns(frame: "VideoFrame | None") -> int:
    """Quarter turns counter-clockwise that bring the stored picture upright."""
    return round((frame.rotation if frame is not None else 0) / 90) % 4


def open_container(path: Path) -> "InputContainer":
    """Open a local file with PyAV; its errors are those of PyAV."""
    import av

    # A real HMDB51 clip has a title that was cut inside a UTF-8 character: replace, do not raise.
    return av.open(os.fspath(path), metadata_errors="replace", options={"protocol_whitelist": "file"})


def _readable(path: Path) -> Path:
    """Return the absolute path (FFmpeg takes 'a:b.avi' for a protocol) of a file that can be read."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise VideoError("the file name is not valid UTF-8: rename the file") from None
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise VideoError("the file is empty (0 bytes)")
    except FileNotFoundError:
        raise VideoError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise VideoError("this is a folder, not a video file") from None
    except PermissionError:
        raise VideoError("the file may not be read: permission denied") from None
    except OSError as error:
        raise VideoError(f"the file cannot be read: {error.strerror}") from None
    return path.absolute()


def _reason(error: Exception) -> str:
    """Say in words why FFmpeg could not open a file."""
    number = getattr(error, "errno", None)
    if number == errno.ENOMEM:
        return "the file asks for more memory than there is"
    text = getattr(error, "strerror", None) or "unknown error"
    return f"the file is not a video that can be opened: damaged, cut off or of another kind ({text})"
