"""From frames to model input: the one rule of training, validation, ONNX, engine, sensor and CLI.

T frames, H height, W width, C channels, B windows. Everything is uint8; scaling and normalisation are part
of the model's graph.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""One frame uint8 [H, W, 3], or several [T, H, W, 3], RGB."""

Clips = NDArray[np.uint8]
"""Input of a network: uint8 [B, 3, T, H, W], RGB."""


@dataclass(frozen=True)
class Sampling:
    """The moments of a video whose frames are kept: every `stride / fps` seconds from its start.

    Kept frame k is the one that is shown at `k * step_s`, whatever the frame rate of the file, so that a clip spans the
    same seconds in every video. In a video of `fps` frames a second these are its frames 0, stride, 2 stride, …
    """

    stride: int = 1
    fps: float = 30.0
    """Frames a second of the videos that `stride` counts in."""

    def __post_init__(self) -> None:
        if self.stride < 1 or not 0 < self.fps < float("inf"):
            raise ValueError(f"stride must be at least 1 and fps above 0, not {self.stride} and {self.fps}")

    @property
    def step_s(self) -> float:
        """Seconds from one kept frame to the next."""
        return self.stride / self.fps

    @property
    def slack_s(self) -> float:
        """A frame that is shown so little after a moment is that moment's frame: files round their times."""
        return 0.25 / self.fps

    def moment_s(self, number: int) -> float:
        """The moment of kept frame `number`, seconds, slack included."""
        return number * self.step_s + self.slack_s

    def pick(self, shown: Iterable[tuple[float, Any]], last_s: float) -> Iterator[Any]:
        """The frame of each moment, in order; one that is shown for longer than a step comes several times.

        Args:
            shown: (second at which it is shown, frame) of every frame of a video, in the order of time.
            last_s: seconds for which the last frame is shown.
        """
        number = 0
        before: tuple[float, Any] | None = None
        for at_s, frame in shown:
            if before is not None:
                while self.moment_s(number) < at_s:
                    yield before[1]
                    number += 1
            before = at_s, frame
        if before is not None:
            while number == 0 or self.moment_s(number) < before[0] + last_s:
                yield before[1]
                number += 1


def window_starts(num_frames: int, window: int, count: int) -> list[int]:
    """First frames of `count` windows of `window` consecutive frames, evenly spaced over the clip.

    One window is the centre one; several reach from the first frame to the last. A clip shorter than the
    window starts at 0 every time (`take_window` pads it). Counts are kept frames, see `Sampling`.

    Raises:
        ValueError: an argument below 1.

    """
    if min(num_frames, window, count) < 1:
        raise ValueError(f"num_frames, window and count must be at least 1: {num_frames}, {window}, {count}")
    last_start = max(num_frames - window, 0)
    if count == 1:
        return [last_start // 2]
    return [round(last_start * number / (count - 1)) for number in range(count)]


def take_window(frames_THWC: Frames, start: int, window: int, stride: int = 1) -> Frames:
    """Every `stride`-th frame of a clip from `start` on, `window` of them: uint8 [window, H, W, C].

    A view where the clip is long enough; else a copy in which the clip's last frame is repeated.

    Raises:
        ValueError: `start` is not a frame of the clip.

    """
    num_frames = len(frames_THWC)
    if not 0 <= start < num_frames:
        raise ValueError(f"a window cannot start at frame {start} of {num_frames}")
    end = start + (window - 1) * stride + 1
    if end <= num_frames:
        return frames_THWC[start:end:stride]
    return frames_THWC[np.minimum(np.arange(start, end, stride), num_frames - 1)]


def centre_crop(frames_THWC: Frames, size: tuple[int, int]) -> Frames:
    """Cut the centre out, a view: uint8 [T, size[0], size[1], C]; an odd rest goes to the bottom and right.

    Raises:
        ValueError: the frames are smaller than `size` (height, width).

    """
    height, width = frames_THWC.shape[1:3]
    if height < size[0] or width < size[1]:
        raise ValueError(f"frames of {height}x{width} hold no crop of {size[0]}x{size[1]} (height x width)")
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return frames_THWC[:, top : top + size[0], left : left + size[1]]


def to_clip_CTHW(frames_THWC: Frames) -> Frames:
    """Put the channels first: uint8 [C, T, H, W], contiguous."""
    return np.ascontiguousarray(frames_THWC.transpose(3, 0, 1, 2))


def clip_windows(frames_THWC: Frames, *, window: int, count: int, crop: tuple[int, int]) -> Frames:
    """Cut evenly spaced windows out of a clip, centre-cropped: uint8 [count, C, window, crop H, crop W].

    Raises:
        ValueError: no frames, or frames smaller than `crop`.

    """
    cropped_THWC = centre_crop(frames_THWC, crop)
    starts = window_starts(len(frames_THWC), window, count)
    return np.stack([to_clip_CTHW(take_window(cropped_THWC, start, window)) for start in starts])
