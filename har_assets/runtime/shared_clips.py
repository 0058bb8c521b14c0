"""Clips in shared memory, written by decoding processes: through a pipe they would be copied four times more.

T frames, H height, W width; N groups of B clips.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import shared_memory

import numpy as np

from har_assets.errors import HarError
from har_assets.system.files import format_bytes
from har_assets.video.sampling import Clips


@dataclass(frozen=True)
class Layout:
    """Where they lie; travels to the decoding processes."""

    name: str
    """Name of the shared memory."""
    shape: tuple[int, ...]
    """[N, B, 3, T, H, W], uint8."""

    def view(self, memory: shared_memory.SharedMemory) -> Clips:
        """The clips in that memory, without a copy."""
        return np.ndarray(self.shape, np.uint8, memory.buf)


@dataclass
class SharedClips:
    """The memory as the process has it that made it."""

    layout: Layout
    clips_NBCTHW: Clips


@contextlib.contextmanager
def shared_clips(shape: tuple[int, ...], remedy: str) -> Iterator[SharedClips]:
    """Shared memory for clips of the shape [N, B, 3, T, H, W], removed at the end.

    HarError where there is not so much, `remedy` at its end: `ask for a smaller batch`.
    """
    size = math.prod(shape)
    try:
        memory = shared_memory.SharedMemory(create=True, size=size)
    except OSError as error:
        raise HarError(
            f"There is no shared memory of {format_bytes(size)} for decoded clips ({error.strerror}): {remedy}."
        ) from None
    layout = Layout(memory.name, shape)
    shared = SharedClips(layout, layout.view(memory))
    try:
        yield shared
    finally:
        del shared.clips_NBCTHW  # shared memory that is looked at cannot be closed
        memory.close()
        memory.unlink()
