"""Pictures of a take, and the AVI file that they become."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from har_assets.dataset.sample import poses
from har_assets.dataset.sample.drawing import FRAME_HEIGHT, FRAME_WIDTH, Box, Stroke, draw
from har_assets.dataset.sample.figure import View, shapes_of
from har_assets.dataset.sample.films import (
    GRAIN_MARGIN,
    TEXTURE_HEIGHT,
    TEXTURE_WIDTH,
    Backdrop,
    Film,
    backdrop_of,
    film_of,
)
from har_assets.dataset.sample.poses import Scene
from har_assets.dataset.sample.takes import ACTIONS, Take

FRAMES_PER_SECOND = 30

_RENDERED_TOGETHER = 16
_FROM_MIDDLE_RIGHT = np.arange(FRAME_WIDTH) - FRAME_WIDTH // 2
_FROM_MIDDLE_DOWN = np.arange(FRAME_HEIGHT) - FRAME_HEIGHT // 2


@dataclass(frozen=True)
class _Look:
    """Which part of a backdrop one frame shows."""

    right: int
    """Pixels by which the camera looks to the right of the backdrop's middle."""
    down: int
    zoom: int
    """In 1/1024."""
    scrolled: int
    """Pixels of floor that the person has covered."""


def _scene(take: Take, frame: int) -> Scene:
    """The pose and props of one frame of a take."""
    action = ACTIONS[take.label]
    time = take.frames - 1 - frame if action.backwards else frame
    if action.cycle_frames is None:
        phase = (time - take.start) / (take.frames - 1 - take.start - take.tempo)
    else:
        phase = take.start + time * take.tempo
    return action.perform(film_of(take.film).body, phase, take.manner)


def view_of(take: Take, frame: int) -> tuple[View, _Look]:
    """Where the figure stands in one frame of a take, and which part of the backdrop is seen."""
    film, action = film_of(take.film), ACTIONS[take.label]
    middle = frame - take.frames / 2
    look_right = take.pan[0] * middle + take.shake * poses.sine(frame * 0.137 + take.seed * 0.31)
    look_down = take.pan[1] * middle + take.shake * poses.sine(frame * 0.171)
    zoom = 1.0 + take.zoom * middle
    home_right = take.offset[0] - take.facing * action.home * take.scale
    home_down = take.offset[1] + film.ground - FRAME_HEIGHT / 2
    origin = (
        FRAME_WIDTH / 2 + zoom * (home_right - look_right),
        FRAME_HEIGHT / 2 + zoom * (home_down - look_down),
    )
    look = _Look(
        right=math.floor(look_right) + take.seed * 61,
        down=math.floor(look_down),
        zoom=math.floor(zoom * 1024),
        scrolled=math.floor(take.scroll * frame),
    )
    return View(origin, take.scale * zoom, take.facing), look


def _show_backdrop(picture: NDArray[np.int16], film: Film, backdrop: Backdrop, look: _Look) -> None:
    """Fill one yuv420p picture, [360, 320], with the part of the backdrop that `look` names."""
    across = _FROM_MIDDLE_RIGHT * 1024 // look.zoom + look.right
    down = _FROM_MIDDLE_DOWN * 1024 // look.zoom + look.down
    rows = np.minimum(np.maximum(down + TEXTURE_HEIGHT // 2, 0), TEXTURE_HEIGHT - 1)
    # The wall is farther off than the floor and passes by at three fifths of its speed.
    wall_columns = (across + look.scrolled * 3 // 5) % TEXTURE_WIDTH
    floor_columns = (across + look.scrolled) % TEXTURE_WIDTH
    horizon = int(np.searchsorted(rows, film.horizon)) & ~1
    chroma = picture[FRAME_HEIGHT:].reshape(2, FRAME_HEIGHT // 2, FRAME_WIDTH // 2)
    targets = (
        (picture[:FRAME_HEIGHT], backdrop.luma, 1),
        (chroma[0], backdrop.chroma_u, 2),
        (chroma[1], backdrop.chroma_v, 2),
    )
    for target, plane, step in targets:
        for part, columns in ((np.s_[:horizon], wall_columns), (np.s_[horizon:], floor_columns)):
            seen = plane.take(rows[part][::step] // step, axis=0).take(columns[::step] // step, axis=1)
            target[part.start and part.start // step : part.stop and part.stop // step] = seen


def render(take: Take) -> Iterator[NDArray[np.uint8]]:
    """The pictures of a take, each [360, 320] uint8: yuv420p, its planes one below the other."""
    film, backdrop = film_of(take.film), backdrop_of(take.film)
    unpeopled = np.empty((FRAME_HEIGHT * 3 // 2, FRAME_WIDTH), np.int16)
    shown: _Look | None = None
    # Some frames at a time: quick, and yet a few MB of memory.
    for first in range(0, take.frames, _RENDERED_TOGETHER):
        frames = range(first, min(first + _RENDERED_TOGETHER, take.frames))
        pictures = np.empty((len(frames), FRAME_HEIGHT * 3 // 2, FRAME_WIDTH), np.int16)
        shapes: list[list[Stroke | Box]] = []
        for picture, frame in zip(pictures, frames, strict=True):
            view, look = view_of(take, frame)
            if look != shown:
                _show_backdrop(unpeopled, film, backdrop, look)
                shown = look
            picture[:] = unpeopled
            shapes.append(shapes_of(_scene(take, frame), film.body, film.palette, view, film.rim))
        draw(pictures, shapes)
        for picture, frame in zip(pictures, frames, strict=True):
            top, left = frame * 37 % GRAIN_MARGIN, (frame * 23 + take.seed) % GRAIN_MARGIN
            picture[:FRAME_HEIGHT] += backdrop.grain[top : top + FRAME_HEIGHT, left : left + FRAME_WIDTH]
        # Luma lies between 16 and 235 before the grain of 4 at most: nothing to clip.
        yield from pictures.astype(np.uint8)


def _encode(frames_yuv420p: Iterable[NDArray[np.uint8]], quantiser: int) -> bytes:
    """MPEG-4 part 2 in AVI as HMDB51's clips are: tag DX50, two B-frames in a row, a key frame every 12.

    The short distance of key frames makes decord's indexed reading fail on these clips as it does on the
    original ones. All options serve the promise of equal bytes on every CPU.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = FRAME_WIDTH, FRAME_HEIGHT, "yuv420p"
        codec = stream.codec_context
        codec.codec_tag = "DX50"
        codec.thread_count = 1
        codec.gop_size = 12
        codec.max_b_frames = 2
        codec.options = {
            "flags": "+bitexact",
            "dct": "int",
            "idct": "simple",
            # One quantiser for all pictures keeps the rate control's floating-point arithmetic out of play.
            # (The usual `qscale` flag has no effect through PyAV 18, which sets no quality on its frames.)
            "qmin": str(quantiser),
            "qmax": str(quantiser),
        }
        for number, picture in enumerate(frames_yuv420p):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def render_take(take: Take) -> bytes:
    """The AVI file of one take."""
    return _encode(render(take), film_of(take.film).quality.quantiser)
