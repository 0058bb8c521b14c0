"""The header and the first frame of a video file.

Refuses what is no video, with the reason in words; says which decoder reads the file.
"""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from har_assets import settings
from har_assets.errors import VideoError
from har_assets.video.losses import of_the_machine
from har_assets.video.orientation import Orientation, orientation_of

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Text files that make FFmpeg open other files and addresses; one of these in a folder of videos is no video.
PLAYLIST_FORMATS = {"hls", "dash", "concat", "sdp", "rtsp", "ffmetadata", "webvtt", "srt"}

PROVED_FOR_DECORD = {("avi", "mpeg4", "yuv420p")}
"""Container, codec and pixel format of what decord reads, as HMDB51 is. Tests prove it equal to PyAV for each; it loses
the first frames of MPEG-TS, shows palettes black, knows no edit list and no mirror, and says nothing about it."""

MIN_PICTURE_BYTES = 7
"""A shorter packet of MPEG-4 holds no picture: DivX puts one in front of each file."""

MAX_RATE = 1000.0
"""Frames a second that are believed. DV says 60,000."""

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
    has_times: bool
    """Whether frames have presentation times; raw streams have none."""
    orientation: Orientation
    """How the stored picture lies, by its first frame."""
    decord_frames: int
    """Frames that decord has to give; 0 where PyAV reads this file."""


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
            facts = _facts_of(path, container, film_stream(container))
    except av.FFmpegError as error:
        raise VideoError(reason(error, path)) from None
    if facts.height < 1 or facts.width < 1:
        raise VideoError("the file has a header but no picture size, so no frame can be decoded")
    longer, shorter = max(facts.height, facts.width), min(facts.height, facts.width)
    if longer > MAX_ASPECT_RATIO * shorter:
        raise VideoError(
            f"the picture is {facts.width}x{facts.height} pixels; "
            f"nothing beyond an aspect ratio of {MAX_ASPECT_RATIO}:1 is read"
        )
    return facts


def film_stream(container: "InputContainer") -> "VideoStream":
    """The first video stream of a file that is a film: no cover picture, thumbnails or still of one.

    Raises:
        VideoError: there is none, or its codec is not known.

    """
    kinds = sorted({stream.type for stream in container.streams})
    if not container.streams.video:
        raise VideoError(f"the file holds no video stream, only {', '.join(kinds) or 'nothing'}")
    films = [stream for stream in container.streams.video if not _is_picture(stream)]
    if not films:
        raise VideoError(f"the file holds no video stream, only {', '.join({*kinds} - {'video'})} and a cover picture")
    # The header of an animated AVIF counts one frame for its still picture.
    moving = [stream for stream in films if stream.frames != 1]
    stream = (moving or films)[0]
    if stream.codec_context is None:
        raise VideoError("the video is coded in a way that is not known (or its header is damaged)")
    return stream


def _is_picture(stream: "VideoStream") -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _facts_of(path: Path, container: "InputContainer", stream: "VideoStream") -> VideoFacts:
    from av.format import Flags

    codec = stream.codec_context
    name = container.format.name
    decord_frames = 0
    is_even = codec.height % 2 == codec.width % 2 == 0  # odd rows are converted otherwise by newer versions of FFmpeg
    if (name, codec.name, codec.pix_fmt) in PROVED_FOR_DECORD and len(container.streams.video) == 1 and is_even:
        decord_frames = _promised_by_index(stream)
    if settings.DECODER.get() and settings.read().decoder == "pyav":  # without it nothing is imported
        decord_frames = 0
    frame = None if name == "avi" else _first_frame(container, stream)  # an AVI cannot say that it is rotated
    orientation = orientation_of(frame)
    height, width = (codec.height, codec.width) if frame is None else (frame.height, frame.width)
    height, width = orientation.size(height, width)
    pixel_aspect = _pixel_aspect(stream)
    has_times = not container.format.flags & cast(int, Flags.no_timestamps.value)
    return VideoFacts(
        path=path,
        container=name,
        height=height,
        width=width,
        pixel_aspect=1 / pixel_aspect if orientation.transposed else pixel_aspect,
        fps=_rate(stream, has_times),
        start_s=None if container.start_time is None else container.start_time / 1e6,  # microseconds
        claimed_s=max(container.duration or 0, 0) / 1e6,
        has_times=has_times,
        orientation=orientation,
        decord_frames=decord_frames,
    )


def _promised_by_index(stream: "VideoStream") -> int:
    """Pictures that the index of an AVI lists; 0 where its header claims others, as one that is cut off does."""
    sizes = [entry.size for entry in stream.index_entries]
    pictures = sum(size >= MIN_PICTURE_BYTES for size in sizes)
    # Pictures that are to be shown for longer have no packet or one that says so; decord shows the next too soon.
    return pictures if max(stream.frames, len(sizes)) - pictures <= 1 else 0


def _rate(stream: "VideoStream", has_times: bool) -> float:
    """Frames a second; 0.0 where nothing says, which FFmpeg takes for 25 in a raw stream."""
    rates = (stream.average_rate, stream.guessed_rate) if has_times else (stream.codec_context.framerate,)
    return next((float(rate) for rate in rates if rate and rate <= MAX_RATE), 0.0)


def _first_frame(container: "InputContainer", stream: "VideoStream") -> "VideoFrame | None":
    """The first that can be decoded; None where none can, and the readers say what is wrong."""
    import av

    stream.thread_count = 1
    try:
        for packet in container.demux(stream):
            with contextlib.suppress(av.FFmpegError):
                for frame in packet.decode():
                    return frame
    except av.FFmpegError:
        pass
    return None


def _pixel_aspect(stream: "VideoStream") -> float:
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else 1.0


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


def reason(error: "av.FFmpegError", path: Path) -> str:
    """Say in words why FFmpeg could not open a file."""
    if error.errno == errno.ENOMEM:
        return "the file asks for more memory than there is"
    text = error.strerror or "unknown error"
    if of_the_machine(error, path):
        return f"the file cannot be read: {text}"
    return f"the file is not a video that can be opened: damaged, cut off or of another kind ({text})"
