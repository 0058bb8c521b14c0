"""The process that decodes a film: every frame once, in the order of time, and out of it the clips of a `Cut`.

It writes clips into blocks of shared memory and says which block is full; the process that scores hands blocks back.

T frames, H height, W width, C channels.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import shared_memory
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from har_assets.errors import VideoError
from har_assets.model.spec import ModelSpec
from har_assets.runtime.cut import Cut
from har_assets.runtime.shared_clips import Layout
from har_assets.runtime.windows import cropped_CHW
from har_assets.video.decode import VideoReader
from har_assets.video.sampling import Clips, Frames
from har_assets.video.workers import available_cores

BLOCKS = 3
"""Batches in shared memory: one is scored, one waits, one is filled."""

MAX_DECODER_THREADS = 4
"""One core is left to the model. Each thread holds some whole frames."""

REPORT_EVERY_S = 0.5
"""How often the decoding process says where it is."""


@dataclass(frozen=True)
class At:
    """From the decoding process: it is alive, and so far."""

    decoded_s: float
    claimed_s: float


@dataclass(frozen=True)
class Block:
    """From the decoding process: a block of clips is full, or is the last."""

    index: int
    clips: int


@dataclass(frozen=True)
class Film:
    """From the decoding process: the end."""

    duration_s: float
    frames: int
    clips: int
    note: str
    places: list[tuple[int, int]]
    """(number in the film, number among those that were written) of each clip."""


def decode_film(connection: Connection, path: Path, spec: ModelSpec, cut: Cut, layout: Layout) -> None:
    """Read the film once and send its clips, block by block."""
    memory = shared_memory.SharedMemory(name=layout.name)  # of the process that made it, which alone removes it
    clips = _Clips(cut, (spec.frame_height, spec.frame_width), _Writer(connection, layout.view(memory)))
    reader = VideoReader(path, size=(spec.decode_height, spec.decode_width), resize=spec.resize)
    said = time.monotonic()
    frames = reader.timed(threads=max(1, min(MAX_DECODER_THREADS, available_cores() - 1)))
    shown_s, picture = next(frames)
    for until_s, upcoming in frames:
        clips.frame(picture, until_s)
        shown_s, picture = until_s, upcoming
        if time.monotonic() - said >= REPORT_EVERY_S:
            said = time.monotonic()
            connection.send(At(shown_s, reader.claimed_s))
    duration_s = shown_s + (1 / reader.fps if reader.fps > 0 else cut.step_s)
    clips.end(picture, duration_s)
    connection.send(Film(duration_s, reader.num_source_frames, clips.writer.clips, reader.note, clips.places))


@dataclass
class _Writer:
    """Puts clips into blocks, which it sends when they are full and waits for when none is free."""

    connection: Connection
    clips_NBCTHW: Clips
    clips: int = 0
    """Written so far."""
    free: list[int] = field(default_factory=lambda: list(range(BLOCKS)))
    filled: int = 0
    """Clips in the block at hand, `free[0]`."""

    def write(self, frames: list[Frames]) -> int:
        """Number of the clip made of these frames, each [3, H, W]."""
        if not self.free:
            self.free.append(self.connection.recv())
        np.stack(frames, axis=1, out=self.clips_NBCTHW[self.free[0], self.filled])
        self.filled += 1
        self.clips += 1
        if self.filled == self.clips_NBCTHW.shape[1]:
            self.flush()
        return self.clips - 1

    def flush(self) -> None:
        """Send what is there."""
        if self.filled:
            self.connection.send(Block(self.free.pop(0), self.filled))
            self.filled = 0


@dataclass(order=True)
class _Clip:
    """One that has begun or comes next; in the order of the moments of their next frames."""

    wants_s: float
    number: int
    frames: list[Frames] = field(default_factory=list, compare=False)
    """Each [3, H, W]."""
    numbers: list[int] = field(default_factory=list, compare=False)
    """Numbers of these frames in the film."""


@dataclass
class _Clips:
    """Frames in the order of time to clips. Only those that some clip holds are scaled, once each."""

    cut: Cut
    crop: tuple[int, int]
    """(height, width) of a clip's frames."""
    writer: _Writer
    places: list[tuple[int, int]] = field(default_factory=list)
    """(number of the clip, what the writer calls it)."""
    pending: list[_Clip] = field(default_factory=list)
    """A heap."""
    begun: int = 0
    """Number of the next clip that is not in the heap yet."""
    frames: int = 0
    """Seen so far."""
    last: tuple[tuple[int, ...], int] = ((), -1)
    """Frame numbers and name of the clip written last: where a picture stands still the next is the same."""

    def frame(self, picture: Callable[[], Frames], until_s: float) -> None:
        """The next frame of the film, shown until `until_s`."""
        cropped: Frames | None = None
        while True:
            while not self.pending or self.cut.sample_time(self.begun, 0) <= self.pending[0].wants_s:
                self._begin()
            clip = self.pending[0]
            if clip.wants_s >= until_s:
                break
            if cropped is None:
                cropped = cropped_CHW(picture(), self.crop)
            clip.frames.append(cropped)
            clip.numbers.append(self.frames)
            if len(clip.frames) < self.cut.num_frames:
                clip.wants_s = self.cut.sample_time(clip.number, len(clip.frames))
                heapq.heapreplace(self.pending, clip)
            else:
                self._finish(heapq.heappop(self.pending))
        self.frames += 1

    def end(self, picture: Callable[[], Frames], duration_s: float) -> None:
        """The last frame of the film; it is repeated in the clips that have begun."""
        self.frame(picture, duration_s + self.cut.slack_s)
        num_clips = self.cut.num_clips(self.cut.num_windows(duration_s))
        for clip in sorted(self.pending, key=lambda clip: clip.number):
            if clip.frames and clip.number < num_clips:
                missing = self.cut.num_frames - len(clip.frames)
                clip.frames += clip.frames[-1:] * missing
                clip.numbers += clip.numbers[-1:] * missing
                self._finish(clip)
        self.writer.flush()

    def _begin(self) -> None:
        if self.begun >= self.cut.max_clips:
            raise VideoError(
                f"it would be more than {self.cut.max_clips:,} clips: its time stamps are damaged, or it wants a "
                "longer hop"
            )
        if self.cut.is_wanted(self.begun):
            heapq.heappush(self.pending, _Clip(self.cut.sample_time(self.begun, 0), self.begun))
        self.begun += 1

    def _finish(self, clip: _Clip) -> None:
        numbers = tuple(clip.numbers)
        if numbers != self.last[0]:
            self.last = numbers, self.writer.write(clip.frames)
        self.places.append((clip.number, self.last[1]))
