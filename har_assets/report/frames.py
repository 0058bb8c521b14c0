"""Frames of a window for people: larger than the network's, with what it looked at, as strips and moving pictures.

T frames, H height, W width.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from har_assets.errors import VideoError
from har_assets.model.spec import ModelSpec
from har_assets.video.decode import VideoReader
from har_assets.video.sampling import Frames, take_window

SHOWN_HEIGHT = 160
"""Height of the frames, pixels; the width follows from the model's."""

MOST_MOVING = 24
"""Frames of a moving picture; of longer windows every second or third is taken."""

HEAT = 0.7
"""Share of the colour where most speaks for the class."""

OUTSIDE = 0.35
"""Brightness of what lies outside the network's field of view."""


@dataclass(frozen=True)
class Shown:
    """The frames of one window."""

    frames_THWC: Frames
    """uint8 [T, SHOWN_HEIGHT, W, 3]."""
    field: tuple[int, int, int, int]
    """Top, left, height and width, in pixels, of what enters the network."""
    frame_ms: int
    """Time that a frame is to be shown, as in the video."""


def shown_from_video(path: Path, spec: ModelSpec, start: int) -> Shown:
    """The window of `spec.num_frames` kept frames from the kept frame `start` on, decoded from the file.

    Memory holds the window only. VideoError where the file has no frame there.
    """
    height, width = _shown_size(spec)
    reader = VideoReader(path, size=(height, width), sampling=spec.sampling, resize=spec.resize)
    kept = list(islice(reader, start, start + spec.num_frames))
    if not kept:
        raise VideoError(f"the file ends before {start * spec.sampling.step_s:.1f} s")
    frames_THWC = take_window(np.stack(kept), 0, spec.num_frames)
    return Shown(frames_THWC, _field(spec), _frame_ms(spec))


def shown_from_cache(frames_THWC: Frames, spec: ModelSpec, start: int) -> Shown:
    """The same from the frames that a cache holds (all of them, uint8 [frames, decode height, decode width, 3])."""
    height, width = _shown_size(spec)
    window_THWC = take_window(frames_THWC, start, spec.num_frames)
    resized = [
        np.asarray(Image.fromarray(frame_HWC).resize((width, height), Image.Resampling.BICUBIC))
        for frame_HWC in window_THWC
    ]
    return Shown(np.stack(resized), _field(spec), _frame_ms(spec))


def _shown_size(spec: ModelSpec) -> tuple[int, int]:
    return SHOWN_HEIGHT, round(spec.decode_width * SHOWN_HEIGHT / spec.decode_height)


def _field(spec: ModelSpec) -> tuple[int, int, int, int]:
    scale = SHOWN_HEIGHT / spec.decode_height
    top, left = (spec.decode_height - spec.frame_height) // 2, (spec.decode_width - spec.frame_width) // 2
    return round(top * scale), round(left * scale), round(spec.frame_height * scale), round(spec.frame_width * scale)


def _frame_ms(spec: ModelSpec) -> int:
    return round(1000 * spec.sampling.step_s)


def with_heat(shown: Shown, heat_THW: NDArray[np.float32]) -> Frames:
    """Colour over what spoke for a class, and all that the network does not see darkened: uint8, as the frames.

    `heat_THW` is 0..1 of the network's frame size.
    """
    import matplotlib

    colours = matplotlib.colormaps["inferno"]
    top, left, height, width = shown.field
    frames_THWC = (shown.frames_THWC * OUTSIDE).astype(np.uint8)
    for frame_HWC, source_HWC, heat_HW in zip(frames_THWC, shown.frames_THWC, heat_THW, strict=True):
        large_HW = np.asarray(Image.fromarray(heat_HW).resize((width, height), Image.Resampling.BILINEAR))
        cut = (slice(top, top + height), slice(left, left + width))
        share_HW1 = (HEAT * np.clip(large_HW, 0, 1))[..., None]
        colour_HWC = colours(large_HW)[..., :3] * 255
        frame_HWC[cut] = (source_HWC[cut] * (1 - share_HW1) + colour_HWC * share_HW1).round().astype(np.uint8)
    return frames_THWC


def strip_numbers(num_frames: int, count: int = 6) -> list[int]:
    """Numbers of `count` frames of a window, evenly from the first to the last; fewer where it has fewer."""
    return sorted({round(number) for number in np.linspace(0, num_frames - 1, min(count, num_frames))})


def strip(*rows_THWC: Frames, gap: int = 4) -> Frames:
    """Frames side by side, a row for each argument, a white gap between them: uint8 [H, W, 3]."""
    rows = []
    for frames_THWC in rows_THWC:
        padded = np.pad(frames_THWC, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(padded), axis=1))
    return np.concatenate(rows)[:-gap, :-gap]


def still_webp(picture_HWC: Frames) -> bytes:
    """A picture, uint8 [H, W, 3], as a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC).save(buffer, "WEBP", quality=70, method=4)
    return buffer.getvalue()


def moving_webp(frames_THWC: Frames, frame_ms: int) -> bytes:
    """Frames, uint8 [T, H, W, 3], as an animated WebP file that repeats for ever, with a pause at its end."""
    step = math.ceil(len(frames_THWC) / MOST_MOVING)
    pictures = [Image.fromarray(frame_HWC) for frame_HWC in frames_THWC[::step]]
    durations = [max(20, frame_ms * step)] * len(pictures)
    durations[-1] += 600
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=60, method=4
    )
    return buffer.getvalue()
