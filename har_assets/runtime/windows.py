"""From a video file to the clips of its windows, and to a contact sheet, in bounded memory.

T frames, H height, W width, C channels, B windows.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from har_assets.errors import VideoError
from har_assets.model.spec import ModelSpec
from har_assets.video.decode import VideoReader
from har_assets.video.orientation import upright
from har_assets.video.probe import film_stream, open_container, probe
from har_assets.video.sampling import Clips, Frames, centre_crop, clip_windows, window_starts

MAX_HELD_BYTES = 256 << 20
"""Frames of one video that are held while its length is not known. A longer one is read twice: once to count."""

PICTURES = 5
"""Frames side by side in the contact sheet of a video."""
PICTURE_HEIGHT = 96
"""Height of a contact sheet, pixels."""


class TooLongError(VideoError):
    """A video that claims to be longer than was asked for; nothing of it was decoded."""


@dataclass(frozen=True)
class ReadLimits:
    """Limits of a video; one beyond them is refused, as soon as that is known."""

    max_frames: int
    """Frames of the file."""
    max_seconds: float
    """Seconds until its last frame is shown."""
    max_pixels: int
    """Height times width of a picture."""


@dataclass(frozen=True)
class Windows:
    """The decoded windows of one video."""

    clips_BCTHW: Clips
    """uint8 [windows, 3, T, H, W]."""
    starts: tuple[int, ...]
    """Kept frame at which each window begins."""
    num_source_frames: int
    """Frames of the file that were decoded."""
    note: str
    sheet_frames: tuple[Frames, ...] = ()
    """Some frames, uncut and in order, uint8 [decode_height, decode_width, 3] each; as many as asked for, or fewer."""


def video_clips(frames_THWC: Frames, spec: ModelSpec, windows: int) -> Clips:
    """Windows of kept frames as uint8 clips [windows, 3, T, H, W]."""
    return clip_windows(frames_THWC, window=spec.num_frames, count=windows, crop=(spec.frame_height, spec.frame_width))


def read_windows(
    path: Path,
    spec: ModelSpec,
    windows: int,
    limits: ReadLimits | None = None,
    *,
    sheet_frames: int = 0,
    longest_s: float = math.inf,
) -> Windows:
    """Decode a video and cut `windows` clips out of it, spread evenly from its first frame to its last.

    The same clips as those of `video_clips`, in bounded memory: of a video too long to be held, which is as
    long as it takes to be known, only the frames of the windows are kept when it is read a second time.
    `sheet_frames` frames, spread evenly too, come along for a contact sheet.

    Raises:
        VideoError: the file yields no frame, or is beyond `limits`; the message is the reason.
        TooLongError: it claims to be longer than `longest_s` seconds.
    """
    size = spec.frame_height, spec.frame_width
    most = max(MAX_HELD_BYTES // (3 * spec.frame_height * spec.frame_width), spec.num_frames)
    reader = _reader(path, spec)
    if limits:
        _refuse_large(reader, limits)
    if reader.claimed_s > longest_s:
        raise TooLongError(f"the video claims to be {reader.claimed_s:.0f} s long")
    held: list[Frames] = []
    num_frames = 0
    seen = _SpreadFrames(sheet_frames)
    for frame_HWC in reader:
        if limits:
            _refuse_long(reader, num_frames * spec.sampling.step_s, limits)
        seen.look_at(frame_HWC, num_frames)
        num_frames += 1
        if num_frames <= most:
            held.append(cropped_CHW(frame_HWC, size))
        else:
            held.clear()
    starts = window_starts(num_frames, spec.num_frames, windows)
    # Past the last frame that one is repeated.
    numbers = [[min(start + n, num_frames - 1) for n in range(spec.num_frames)] for start in starts]
    frames: Sequence[Frames] | dict[int, Frames] = held
    if num_frames > most:
        wanted = {number for window in numbers for number in window}
        again = enumerate(_reader(path, spec))
        frames = {number: cropped_CHW(frame_HWC, size) for number, frame_HWC in again if number in wanted}
        if len(frames) < len(wanted):
            raise VideoError("the file gives other frames each time it is read: it may still be written to")
    clips_BCTHW = np.stack([np.stack([frames[number] for number in window], axis=1) for window in numbers])
    return Windows(clips_BCTHW, tuple(starts), reader.num_source_frames, reader.note, seen.chosen())


class _SpreadFrames:
    """`count` frames spread evenly over a video whose length shows only at its end; holds 4 count at most."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._step = 1
        self._held: list[Frames] = []

    def look_at(self, frame_HWC: Frames, number: int) -> None:
        """Take the frame or leave it."""
        if not self._count or number % self._step:
            return
        self._held.append(frame_HWC)
        if len(self._held) == 4 * self._count:
            self._held = self._held[::2]
            self._step *= 2

    def chosen(self) -> tuple[Frames, ...]:
        """The frames in the middle of `count` equal parts of what is held."""
        held, count = len(self._held), min(self._count, len(self._held))
        return tuple(self._held[(2 * part + 1) * held // (2 * count)] for part in range(count))


def contact_sheet(frames: Sequence[Frames]) -> bytes:
    """Frames uint8 [H, W, 3] of one size side by side as a JPEG, PICTURE_HEIGHT pixels high; empty without any."""
    if not frames:
        return b""
    from PIL import Image

    row = Image.fromarray(np.concatenate(frames, axis=1))
    row = row.resize((max(round(row.width * PICTURE_HEIGHT / row.height), 1), PICTURE_HEIGHT), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    row.save(file, "JPEG", quality=80)
    return file.getvalue()


def _refuse_large(reader: VideoReader, limits: ReadLimits) -> None:
    if reader.height * reader.width > limits.max_pixels:
        raise VideoError(
            f"the picture is {reader.width}x{reader.height}, {reader.width * reader.height:,} pixels; the limit is "
            f"{limits.max_pixels:,}"
        )


def _refuse_long(reader: VideoReader, seconds: float, limits: ReadLimits) -> None:
    if reader.num_source_frames > limits.max_frames:
        raise VideoError(f"the video has more than {limits.max_frames:,} frames, the limit")
    if seconds > limits.max_seconds:
        raise VideoError(f"the video is longer than {limits.max_seconds:g} s, the limit")


def _reader(path: Path, spec: ModelSpec) -> VideoReader:
    size = spec.decode_height, spec.decode_width
    return VideoReader(path, size=size, sampling=spec.sampling, resize=spec.resize)


def cropped_CHW(frame_HWC: Frames, size: tuple[int, int]) -> Frames:
    """The centre of one frame, channels first: uint8 [3, size[0], size[1]], contiguous."""
    cropped_1HWC = centre_crop(frame_HWC[None], size)
    return np.ascontiguousarray(cropped_1HWC[0].transpose(2, 0, 1))


def film_sheet(path: Path) -> bytes:
    """Contact sheet of a long video: the key frames nearest to PICTURES places, without decoding what is between.

    Empty where none can be decoded. For a decoding process: a damaged file may take it down.
    """
    import av

    frames: list[Frames] = []
    with contextlib.suppress(av.FFmpegError, VideoError):
        orientation = probe(path).orientation
        with open_container(path) as container:
            stream = film_stream(container)
            stream.thread_count = 1
            stream.codec_context.skip_frame = "NONKEY"
            start, length = container.start_time or 0, container.duration or 0
            for part in range(PICTURES):
                container.seek(start + (2 * part + 1) * length // (2 * PICTURES))
                frame = next(container.decode(stream), None)
                if frame is not None:
                    width = max(round(PICTURE_HEIGHT * frame.width / frame.height), 1)
                    small = frame.reformat(width, PICTURE_HEIGHT, "rgb24").to_ndarray().astype(np.uint8)
                    frames.append(upright(small, orientation))
    return contact_sheet([frame for frame in frames if frame.shape == frames[0].shape])
