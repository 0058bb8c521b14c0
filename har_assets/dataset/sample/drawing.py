"""Drawing in integer arithmetic: thick lines and boxes onto pictures in yuv420p, the same pixels on every CPU.

Coordinates are 1/64 pixel; all values are int16 and int32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAME_WIDTH = 320
FRAME_HEIGHT = 240

SUBPIXEL = 64
"""Steps per pixel of all drawing coordinates."""


Pixel = tuple[int, int]
"""A place in the frame: (right, down) in 1/64 pixel."""

Colour = tuple[int, int, int]
"""Luma and the two chroma values (BT.601, video range), as MPEG-4 stores them."""

PlaneInt16 = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Stroke:
    """A thick line with round ends and soft edges; a disc where `start` equals `end`."""

    start: Pixel
    end: Pixel
    radius: int
    """In 1/64 pixel."""
    colour: Colour
    rim: int = 0
    """Width of a darker rim inside the edge, in 1/64 pixel; 0 for none."""
    opacity: int = 64
    """0 to 64."""


@dataclass(frozen=True, slots=True)
class Box:
    """A filled upright rectangle between two corners, drawn in whole pixels."""

    corner: Pixel
    opposite: Pixel
    colour: Colour
    rim: int = 0
    """Width of a darker rim inside the edge, in 1/64 pixel; 0 for none."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """The effect of a stroke on the pixels under it: new = old * keep / 64 + add."""

    left: int
    top: int
    keep_luma: PlaneInt16
    add_luma: PlaneInt16
    keep_chroma: PlaneInt16
    add_chroma: PlaneInt16
    """[2, height / 2, width / 2]: both chroma planes."""


_STAMP_STEP = 16
"""Stamps are a multiple of this many pixels wide and high, so that many can be computed together."""

_UNIT_BITS = 14
"""Directions are unit vectors in 1/16384."""


def darker(colour: Colour, eighths: int) -> Colour:
    """The same hue with its luma scaled to `eighths` of 8."""
    return 16 + (colour[0] - 16) * eighths // 8, colour[1], colour[2]


def draw(pictures: NDArray[np.int16], shapes: Sequence[Sequence[Stroke | Box]]) -> None:
    """Draw onto each of `pictures` its own list of shapes, the first one at the bottom.

    `pictures` is int16 [frames, 360, 320]: the three planes of yuv420p, one below the other (PyAV's layout).
    The shapes of all frames are computed together, since NumPy's time goes mostly into its calls.
    """
    stamps = iter(_stamps([shape for of_frame in shapes for shape in of_frame if isinstance(shape, Stroke)]))
    for picture, of_frame in zip(pictures, shapes, strict=True):
        luma = picture[:FRAME_HEIGHT]
        chroma = picture[FRAME_HEIGHT:].reshape(2, FRAME_HEIGHT // 2, FRAME_WIDTH // 2)
        for shape in of_frame:
            if isinstance(shape, Box):
                _fill(luma, chroma, shape)
            else:
                _stamp(luma, chroma, next(stamps))


def _stamp(luma: PlaneInt16, chroma: PlaneInt16, stamp: _Stamp) -> None:
    height, width = stamp.keep_luma.shape
    left, right = max(stamp.left, 0), min(stamp.left + width, FRAME_WIDTH)
    top, bottom = max(stamp.top, 0), min(stamp.top + height, FRAME_HEIGHT)
    if left >= right or top >= bottom:
        return
    rows = slice(top - stamp.top, bottom - stamp.top)
    columns = slice(left - stamp.left, right - stamp.left)
    part = luma[top:bottom, left:right]
    part *= stamp.keep_luma[rows, columns]
    part >>= 6
    part += stamp.add_luma[rows, columns]
    # All edges are even.
    rows = slice(rows.start // 2, rows.stop // 2)
    columns = slice(columns.start // 2, columns.stop // 2)
    part = chroma[:, top // 2 : bottom // 2, left // 2 : right // 2]
    part *= stamp.keep_chroma[rows, columns]
    part >>= 6
    part += stamp.add_chroma[:, rows, columns]


def _fill(luma: PlaneInt16, chroma: PlaneInt16, box: Box) -> None:
    left, right = sorted((box.corner[0] // SUBPIXEL, box.opposite[0] // SUBPIXEL))
    top, bottom = sorted((box.corner[1] // SUBPIXEL, box.opposite[1] // SUBPIXEL))
    left, right, top, bottom = (max(edge, 0) for edge in (left, right, top, bottom))
    rim = -(-box.rim // SUBPIXEL)
    luma[top:bottom, left:right] = _rim_luma(box.colour)
    luma[top + rim : max(bottom - rim, 0), left + rim : max(right - rim, 0)] = box.colour[0]
    for plane, value in zip(chroma, box.colour[1:], strict=True):
        plane[top // 2 : bottom // 2, left // 2 : right // 2] = value


def _rim_luma(colour: Colour) -> int:
    return darker(colour, 3)[0]


def _stamps(strokes: Sequence[Stroke]) -> list[_Stamp]:
    """The stamps of `strokes`, in their order; those of one size are computed in one go."""
    groups: dict[tuple[int, int], list[int]] = {}
    corners: list[tuple[int, int]] = []
    for number, stroke in enumerate(strokes):
        margin = stroke.radius + SUBPIXEL
        left, top = (((min(a, b) - margin) // SUBPIXEL) & ~1 for a, b in zip(stroke.start, stroke.end, strict=True))
        right, bottom = ((max(a, b) + margin) // SUBPIXEL + 1 for a, b in zip(stroke.start, stroke.end, strict=True))
        corners.append((left, top))
        size = (bottom - top) // _STAMP_STEP + 1, (right - left) // _STAMP_STEP + 1
        groups.setdefault(size, []).append(number)
    stamps: dict[int, _Stamp] = {}
    for (high, wide), members in groups.items():
        made = _stamps_of_size(
            [strokes[number] for number in members],
            [corners[number] for number in members],
            high * _STAMP_STEP,
            wide * _STAMP_STEP,
        )
        stamps.update(zip(members, made, strict=True))
    return [stamps[number] for number in range(len(strokes))]


def _stamps_of_size(
    strokes: Sequence[Stroke], corners: Sequence[tuple[int, int]], height: int, width: int
) -> Iterator[_Stamp]:
    """Compute stamps of `height` x `width` pixels with their upper left pixels at `corners`."""

    def numbers(values: Iterable[int]) -> NDArray[np.int32]:
        return np.fromiter(values, np.int32, len(strokes))[:, None, None]

    directions = [_direction(stroke) for stroke in strokes]
    unit_right, unit_down, length = (numbers(values) for values in zip(*directions, strict=True))
    radius = numbers(stroke.radius for stroke in strokes)
    half = SUBPIXEL // 2
    left = numbers(c[0] * SUBPIXEL + half - s.start[0] for c, s in zip(corners, strokes, strict=True))
    top = numbers(c[1] * SUBPIXEL + half - s.start[1] for c, s in zip(corners, strokes, strict=True))
    across = left + np.arange(width, dtype=np.int32) * SUBPIXEL  # [strokes, 1, width]
    down = top + np.arange(height, dtype=np.int32)[:, None] * SUBPIXEL  # [strokes, height, 1]

    beside = across * unit_down - down * unit_right
    beside >>= _UNIT_BITS
    beyond = across * unit_right + down * unit_down
    beyond >>= _UNIT_BITS
    # How far past the end, or before the start; 0 beside the line.
    np.maximum(beyond - length, -beyond, out=beyond)
    np.maximum(beyond, 0, out=beyond)
    beside *= beside
    beyond *= beyond
    beside += beyond
    # (radius² - distance²) / (2 radius) is radius - distance near the edge, where alone it matters.
    inward = np.subtract(radius * radius, beside, out=beside)
    furthest = radius * 512
    np.maximum(inward, -furthest, out=inward)
    np.minimum(inward, furthest, out=inward)
    inward *= (1 << 20) // (2 * radius)
    inward >>= 20
    edge = inward.astype(np.int16)

    opacity = numbers(stroke.opacity for stroke in strokes).astype(np.int16)
    rim = numbers(min(stroke.rim, stroke.radius * 2 // 5) for stroke in strokes).astype(np.int16)
    outer = _coverage(edge, opacity)
    inner = _coverage(edge - rim, opacity)
    luma = numbers(stroke.colour[0] for stroke in strokes).astype(np.int16)
    rim_luma = numbers(_rim_luma(s.colour) if s.rim else s.colour[0] for s in strokes).astype(np.int16)
    keep = 64 - outer
    add = luma * inner
    add += rim_luma * (outer - inner)
    add >>= 6
    values = np.array([stroke.colour[1:] for stroke in strokes], np.int16)[:, :, None, None]
    keep_chroma = keep[:, ::2, ::2].copy()
    add_chroma = values * (64 - keep_chroma)[:, None]
    add_chroma >>= 6
    for number, (column, row) in enumerate(corners):
        yield _Stamp(column, row, keep[number], add[number], keep_chroma[number], add_chroma[number])


def _direction(stroke: Stroke) -> tuple[int, int, int]:
    """The direction of a stroke (right, down; in 1/16384) and its length (in 1/64 pixel)."""
    right, down = stroke.end[0] - stroke.start[0], stroke.end[1] - stroke.start[1]
    length = math.isqrt(right * right + down * down)
    if length == 0:
        return 1 << _UNIT_BITS, 0, 0
    return (right << _UNIT_BITS) // length, (down << _UNIT_BITS) // length, length


def _coverage(edge: PlaneInt16, opacity: PlaneInt16) -> PlaneInt16:
    """How much of each pixel (0 to 64) lies inside an edge, from distances inward in 1/64 pixel."""
    covered = edge + np.int16(SUBPIXEL // 2)
    np.maximum(covered, 0, out=covered)
    np.minimum(covered, 64, out=covered)
    covered *= opacity
    covered >>= 6
    return covered
