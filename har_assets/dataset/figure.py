"""The animated figure of the built-in sample: poses in figure space, drawn in integer arithmetic.

Everything here must give the same pixels on every CPU. Poses are computed in Python floats from `+ - * /`,
`math.sqrt` (correctly rounded everywhere) and a table of sines rounded to integers (the C library's sine is
not the same on all CPUs); joints are then rounded to 1/64 pixel, and from there on all is int16 and int32.

Figure space: the unit is the height of the person, x points where the person faces, y up, and the origin is
the ground under the person. Angles are in turns (1 = 360 degrees), 0 is straight down, positive is forward.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

FRAME_WIDTH = 320
FRAME_HEIGHT = 240

SUBPIXEL = 64
"""Steps per pixel of all drawing coordinates."""

Point = tuple[float, float]
"""A place in figure space: (forward, up) in body heights."""

Pixel = tuple[int, int]
"""A place in the frame: (right, down) in 1/64 pixel."""

Colour = tuple[int, int, int]
"""Luma and the two chroma values (BT.601, video range), as MPEG-4 stores them."""

PlaneInt16 = NDArray[np.int16]


# --------------------------------------------------------------------------------------------- arithmetic
_SINE_STEPS = 1 << 14
_SINE_ONE = 1 << 24
_SINES = tuple(round(_SINE_ONE * math.sin(2 * math.pi * step / _SINE_STEPS)) for step in range(_SINE_STEPS))


def sine(turns: float) -> float:
    """The sine of an angle in turns, the same on every CPU (exact to 1/16384 turn)."""
    return _SINES[math.floor(turns * _SINE_STEPS + 0.5) % _SINE_STEPS] / _SINE_ONE


def cosine(turns: float) -> float:
    """The cosine of an angle in turns, the same on every CPU (exact to 1/16384 turn)."""
    return sine(turns + 0.25)


def ease(progress: float) -> float:
    """Smooth 0 to 1 with rest at both ends; clamped outside."""
    clamped = min(max(progress, 0.0), 1.0)
    return clamped * clamped * (3.0 - 2.0 * clamped)


def between(start: Point, end: Point, share: float) -> Point:
    """The point `share` of the way from `start` to `end`."""
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _along_path(stops: tuple[tuple[float, Point], ...], time: float) -> Point:
    """The place at `time` on a path of (time, place) stops, easing in and out of each stop."""
    for (time_before, before), (time_after, after) in itertools.pairwise(stops):
        if time <= time_after:
            return between(before, after, ease((time - time_before) / (time_after - time_before)))
    return stops[-1][1]


def swing(origin: Point, length: float, turns: float) -> Point:
    """The end of a limb of `length` that hangs from `origin` at an angle of `turns`."""
    return origin[0] + length * sine(turns), origin[1] - length * cosine(turns)


def reach(root: Point, tip: Point, upper: float, lower: float, bend: int) -> tuple[Point, Point]:
    """Two-bone inverse kinematics: where the middle joint and the tip lie when `tip` is reached for.

    `bend` is +1 for a knee (bends forward under the hip) and -1 for an elbow. A tip too far away is
    approached as far as the limb goes.
    """
    across, up = tip[0] - root[0], tip[1] - root[1]
    distance = max(math.sqrt(across * across + up * up), 1e-6)
    reached = min(max(distance, abs(upper - lower) + 1e-3), (upper + lower) * 0.999)
    across, up = across / distance, up / distance
    along = (upper * upper - lower * lower + reached * reached) / (2 * reached)
    aside = bend * math.sqrt(max(upper * upper - along * along, 0.0))
    joint = (root[0] + along * across - aside * up, root[1] + along * up + aside * across)
    return joint, (root[0] + reached * across, root[1] + reached * up)


# ------------------------------------------------------------------------------------------------- drawing
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
    """What a stroke does to the pixels under it: new = old * keep / 64 + add."""

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


# ----------------------------------------------------------------------------------------- body and scene
@dataclass(frozen=True)
class Body:
    """Lengths and thicknesses of a person, in body heights."""

    thigh: float
    shin: float
    torso: float
    upper_arm: float
    forearm: float
    head: float
    """Radius."""
    thickness: float
    """Factor on the thickness of limbs and torso; 1 is usual."""

    sole: float = 0.035
    """Height of the ankle above the ground."""


@dataclass(frozen=True)
class Limb:
    """An arm (shoulder, elbow, hand) or a leg (hip, knee, ankle and the tip of the foot)."""

    root: Point
    joint: Point
    tip: Point
    toe: Point | None = None


@dataclass(frozen=True)
class Prop:
    """A thing in the scene: a thick line (bar, chair leg), a ball (`start` equals `end`), or a box."""

    start: Point
    end: Point
    radius: float
    colour: str
    """Key of the palette."""

    is_box: bool = False


@dataclass(frozen=True)
class Scene:
    """All that stands or moves in front of the background at one moment."""

    hip: Point
    neck: Point
    head: Point
    arms: tuple[Limb, Limb]
    """The far one first."""
    legs: tuple[Limb, Limb]
    """The far one first."""
    behind: tuple[Prop, ...] = ()
    before: tuple[Prop, ...] = ()
    faces_camera: bool = False


@dataclass(frozen=True)
class Manner:
    """How one clip performs its action: small numbers between 0 and 1 that widen or shrink a movement."""

    stride: float
    """0 for short and calm, 1 for long and lively."""
    elbow: float
    """0 for hanging arms, 1 for bent elbows."""
    lean: float
    depth: float
    """How deep a crouch, how high a jump, how far a pull."""


def _leg(body: Body, hip: Point, ankle: Point, foot_turns: float = 0.25) -> Limb:
    knee, tip = reach(hip, ankle, body.thigh, body.shin, +1)
    return Limb(hip, knee, tip, swing(tip, _FOOT, foot_turns))


def _arm(body: Body, shoulder: Point, hand: Point, bend: int = -1) -> Limb:
    elbow, tip = reach(shoulder, hand, body.upper_arm, body.forearm, bend)
    return Limb(shoulder, elbow, tip)


_FOOT = 0.085


def _trunk(body: Body, hip: Point, lean: float, nod: float = 0.0) -> tuple[Point, Point]:
    """Neck and head of a body that leans forward by `lean` turns."""
    neck = swing(hip, body.torso, 0.5 - lean)
    return neck, swing(neck, body.head + 0.055, 0.5 - lean * 0.5 - nod)


# ---------------------------------------------------------------------------------------------- actions
def gait(body: Body, phase: float, manner: Manner) -> Scene:
    """Walking and running are one movement at two tempos; `phase` counts double steps."""
    amplitude = 0.070 + 0.030 * manner.stride
    lean = 0.006 + 0.022 * manner.lean
    legs: list[Limb] = []
    for step in (0.5, 0.0):
        thigh_turns = amplitude * sine(phase + step) + 0.012
        knee_turns = 0.020 + (0.10 + 0.08 * manner.stride) * max(cosine(phase + step + 0.07), 0.0)
        knee = swing((0.0, 0.0), body.thigh, thigh_turns)
        ankle = swing(knee, body.shin, thigh_turns - knee_turns)
        foot_turns = 0.25 + min(thigh_turns - knee_turns + 0.04, 0.03)
        legs.append(Limb((0.0, 0.0), knee, ankle, swing(ankle, _FOOT, foot_turns)))
    lowest = min(min(leg.tip[1], leg.toe[1] + 0.01 if leg.toe else 0.0) for leg in legs)
    hip = (0.0, body.sole - lowest)
    legs = [_moved(leg, hip) for leg in legs]
    neck, head = _trunk(body, hip, lean)
    arms: list[Limb] = []
    for step in (0.5, 0.0):
        upper_turns = -(0.055 + 0.035 * manner.stride) * sine(phase + step)
        elbow = swing(neck, body.upper_arm, upper_turns)
        bent = 0.06 + 0.14 * manner.elbow + 0.03 * (1 - sine(phase + step))
        arms.append(Limb(neck, elbow, swing(elbow, body.forearm, upper_turns + bent)))
    return Scene(hip, neck, head, (arms[0], arms[1]), (legs[0], legs[1]))


def _moved(limb: Limb, offset: Point) -> Limb:
    def move(point: Point) -> Point:
        return point[0] + offset[0], point[1] + offset[1]

    return Limb(move(limb.root), move(limb.joint), move(limb.tip), move(limb.toe) if limb.toe else None)


def sitting_down(body: Body, progress: float, manner: Manner) -> Scene:
    """From standing (0) to sitting on a chair (1). Played backwards it is standing up."""
    done = ease(progress)
    seat = body.sole + body.shin * 0.98
    standing: Point = (0.0, body.sole + (body.thigh + body.shin) * 0.985)
    seated: Point = (-body.thigh * 0.95, seat + 0.055 * body.thickness)
    hip = (between(standing, seated, done)[0], between(standing, seated, ease(done * 1.05 - 0.05))[1])
    # The trunk bows forward half-way, as people keep their balance.
    lean = 0.01 + (0.07 + 0.04 * manner.lean) * sine(0.5 * done)
    neck, head = _trunk(body, hip, lean)
    ankles = ((-0.02, body.sole), (0.02, body.sole))
    legs = (_leg(body, hip, ankles[0]), _leg(body, hip, ankles[1]))
    hanging = swing(neck, (body.upper_arm + body.forearm) * 0.97, 0.01 - lean)
    on_knee = (legs[1].joint[0] - 0.03, legs[1].joint[1] + 0.05)
    forward = (neck[0] + 0.20 + 0.05 * manner.stride, neck[1] - 0.10)
    hand = between(between(hanging, on_knee, done), forward, 0.75 * sine(0.5 * done))
    arms = (_arm(body, neck, (hand[0] - 0.02, hand[1] + 0.01)), _arm(body, neck, hand))
    front, back = -body.thigh * 0.40, -body.thigh * 1.25
    chair = (
        Prop((back, 0.0), (back, seat + 0.30), 0.016, "prop"),
        Prop((front, 0.0), (front, seat - 0.03), 0.016, "prop"),
        Prop((back, seat - 0.02), (front, seat - 0.02), 0.022, "prop"),
    )
    return Scene(hip, neck, head, arms, legs, behind=chair)


_FLIGHT = 0.40
"""Share of a catch in which the ball is in the air."""


def catching(body: Body, phase: float, manner: Manner) -> Scene:
    """A high ball comes down, is caught and laid into a bin; then the next. Backwards it is throwing up.

    The ball goes down (up, in a throw) all the time that it is seen, whichever way the person faces.
    """
    time = phase - math.floor(phase)
    shoulder_height = body.sole + (body.thigh + body.shin) * 0.96 + body.torso
    arm = body.upper_arm + body.forearm
    ready: Point = (arm * 0.55, shoulder_height + (0.60 + 0.15 * manner.depth) * arm)
    caught: Point = (arm * 0.75, shoulder_height + 0.02)
    in_bin: Point = (0.23, 0.37)
    stops = ((0.0, ready), (_FLIGHT, ready), (_FLIGHT + 0.14, caught), (0.84, in_bin), (1.0, ready))
    hand = _along_path(stops, time)
    stoop = ease((time - 0.52) / 0.32) * (1.0 - ease((time - 0.84) / 0.14))
    hip = (-0.03 * stoop, body.sole + (body.thigh + body.shin) * (0.965 - 0.03 * stoop))
    neck, head = _trunk(body, hip, 0.004 + 0.055 * stoop + 0.008 * manner.lean, nod=-0.02 * (1.0 - stoop))
    legs = (
        _leg(body, hip, (0.07 + 0.03 * manner.stride, body.sole)),
        _leg(body, hip, (-0.08 - 0.03 * manner.stride, body.sole)),
    )
    arms = (
        _arm(body, neck, (hand[0] + 0.03, hand[1] + 0.02)),
        _arm(body, neck, (hand[0] - 0.02, hand[1] - 0.01)),
    )
    radius = 0.085
    palm = (arms[1].tip[0] + radius * 0.5, arms[1].tip[1] + radius * 0.8)
    if time < _FLIGHT:
        fallen = time / _FLIGHT
        start: Point = (palm[0] + 0.10 + 0.15 * manner.stride, 1.62)
        ball = between(start, palm, fallen * (0.6 + 0.4 * fallen))
    elif time < 0.84:
        ball = palm
    else:
        ball = (in_bin[0] + radius, in_bin[1] - 0.15)  # inside the bin
    bin_box = Prop((0.18, 0.0), (0.42, 0.36), 0.0, "prop", is_box=True)
    thrown = Prop(ball, ball, radius, "ball")
    if time >= 0.68:  # on its way into the bin, and inside it
        return Scene(hip, neck, head, arms, legs, behind=(thrown, bin_box))
    return Scene(hip, neck, head, arms, legs, behind=(bin_box,), before=(thrown,))


def jumping(body: Body, phase: float, manner: Manner) -> Scene:
    """Jumps on the spot, one a cycle: crouch, leap with raised arms, land."""
    time = phase - math.floor(phase)
    full = body.thigh + body.shin
    crouch = 0.20 + 0.10 * manner.depth
    height = 0.12 + 0.08 * manner.depth
    flight = (time - 0.42) / 0.36
    up = 4 * height * flight * (1 - flight) if 0 < flight < 1 else 0.0
    # Legs: bent in the crouch, straight at take-off, drawn up a little in the air, bent on landing.
    bent = crouch * (ease(time / 0.28) - ease((time - 0.30) / 0.12))
    bent += 0.5 * crouch * (ease((time - 0.74) / 0.10) - ease((time - 0.86) / 0.14))
    tucked = 0.10 * sine(0.5 * min(max(flight, 0.0), 1.0))
    hip = (-0.35 * bent * full, body.sole + up + full * (0.985 - bent))
    neck, head = _trunk(body, hip, 0.008 + 0.30 * bent)
    ankle_height = body.sole + up + tucked * full
    foot_turns = 0.25 - 0.10 * (1.0 if 0 < flight < 1 else 0.0) * sine(0.5 * min(max(flight, 0.0), 1.0))
    legs = (
        _leg(body, hip, (-0.01, ankle_height), foot_turns),
        _leg(body, hip, (0.02, ankle_height), foot_turns),
    )
    arms_back = -0.10 * (ease(time / 0.28) - ease((time - 0.28) / 0.10))
    arms_up = 0.43 * (ease((time - 0.30) / 0.22) - ease((time - 0.66) / 0.24))
    turns = arms_back + arms_up
    length = (body.upper_arm + body.forearm) * 0.97
    arms = (
        _arm(body, neck, swing(neck, length, turns - 0.02)),
        _arm(body, neck, swing(neck, length, turns + 0.01)),
    )
    return Scene(hip, neck, head, arms, legs)


BAR_HEIGHT = 1.22


def pulling_up(body: Body, phase: float, manner: Manner) -> Scene:
    """Pull-ups on a bar, one a cycle, seen from the front."""
    pulled = 0.5 - 0.5 * cosine(phase)
    arm = body.upper_arm + body.forearm
    grip = 0.15 + 0.03 * manner.stride
    hang = BAR_HEIGHT - 0.97 * arm + 0.015
    neck = (0.0, hang + (0.15 + 0.04 * manner.depth) * pulled)
    sway = 0.02 * sine(phase + 0.1) * manner.lean
    hip = (sway, neck[1] - body.torso)
    head = (neck[0], neck[1] + body.head + 0.045)
    shoulder, hip_side = 0.075 * body.thickness, 0.035 * body.thickness
    arms: list[Limb] = []
    legs: list[Limb] = []
    for side in (-1, 1):
        arms.append(_arm(body, (side * shoulder, neck[1] - 0.01), (side * grip, BAR_HEIGHT), -side))
        knee = (hip[0] + side * (hip_side + 0.012), hip[1] - body.thigh * 0.96)
        ankle = (knee[0] + sway, knee[1] - body.shin * (0.80 - 0.15 * pulled))
        legs.append(Limb((hip[0] + side * hip_side, hip[1]), knee, ankle, (ankle[0], ankle[1] - 0.035)))
    bar = (
        Prop((-0.36, 0.0), (-0.36, BAR_HEIGHT), 0.020, "prop"),
        Prop((0.36, 0.0), (0.36, BAR_HEIGHT), 0.020, "prop"),
        Prop((-0.36, BAR_HEIGHT), (0.36, BAR_HEIGHT), 0.017, "prop"),
    )
    return Scene(hip, neck, head, (arms[0], arms[1]), (legs[0], legs[1]), behind=bar, faces_camera=True)


Performance = Callable[[Body, float, Manner], Scene]
"""An action: the scene at a phase (cycles) or progress (0 to 1)."""


# ------------------------------------------------------------------------------------------- the picture
@dataclass(frozen=True)
class View:
    """Where figure space lies in the frame."""

    origin: tuple[float, float]
    """Pixel of the origin: (right, down)."""
    scale: float
    """Pixels per body height."""
    facing: int
    """+1 if the person looks to the right of the picture, -1 to the left."""

    def pixel(self, point: Point) -> Pixel:
        """A place of figure space in 1/64 pixel."""
        right = self.origin[0] + self.facing * self.scale * point[0]
        down = self.origin[1] - self.scale * point[1]
        return math.floor(right * SUBPIXEL + 0.5), math.floor(down * SUBPIXEL + 0.5)

    def length(self, body_heights: float) -> int:
        """A length in 1/64 pixel, at least 1."""
        return max(math.floor(body_heights * self.scale * SUBPIXEL + 0.5), 1)


@dataclass(frozen=True)
class Palette:
    """The colours of one film, by the part they paint."""

    colours: MappingProxyType[str, Colour] = field(hash=False)

    def __getitem__(self, part: str) -> Colour:
        return self.colours[part]

    def shaded(self, part: str) -> Colour:
        """The colour of the far side of the body."""
        return darker(self.colours[part], 6)


_BLACK: Colour = (16, 128, 128)


def shapes_of(scene: Scene, body: Body, palette: Palette, view: View, rim: int) -> list[Stroke | Box]:
    """The shapes that show `scene`, far ones first; `rim` is the width of dark edges in 1/64 pixel."""
    shapes: list[Stroke | Box] = []
    feet = sorted(leg.tip[0] for leg in scene.legs)
    shadow = (
        view.pixel((min(feet[0], scene.hip[0]) - 0.05, 0.0)),
        view.pixel((max(feet[1], scene.hip[0]) + 0.09, 0.0)),
    )
    shapes.append(Stroke(*shadow, view.length(0.022), _BLACK, opacity=20))

    def line(start: Point, end: Point, radius: float, colour: Colour) -> None:
        shapes.append(Stroke(view.pixel(start), view.pixel(end), view.length(radius), colour, rim))

    def props(things: tuple[Prop, ...]) -> None:
        for thing in things:
            if thing.is_box:
                shapes.append(Box(view.pixel(thing.start), view.pixel(thing.end), palette[thing.colour], rim))
            else:
                line(thing.start, thing.end, thing.radius, palette[thing.colour])

    thick = body.thickness

    def leg(limb: Limb, colour_of: Callable[[str], Colour]) -> None:
        line(limb.tip, limb.toe or limb.tip, 0.026 * thick, colour_of("shoes"))
        line(limb.joint, limb.tip, 0.035 * thick, colour_of("trousers"))
        line(limb.root, limb.joint, 0.044 * thick, colour_of("trousers"))

    def arm(limb: Limb, colour_of: Callable[[str], Colour]) -> None:
        line(limb.tip, limb.tip, 0.031 * thick, colour_of("skin"))
        line(limb.joint, limb.tip, 0.025 * thick, colour_of("skin"))
        line(limb.root, limb.joint, 0.033 * thick, colour_of("shirt"))

    far = palette.__getitem__ if scene.faces_camera else palette.shaded
    near = palette.__getitem__
    props(scene.behind)
    if not scene.faces_camera:
        arm(scene.arms[0], far)
    leg(scene.legs[0], far)
    leg(scene.legs[1], near)
    line(scene.neck, scene.head, 0.026 * thick, near("skin"))
    _draw_trunk(line, scene, thick, near("shirt"))
    _draw_head(line, scene, body.head, palette)
    if scene.faces_camera:
        arm(scene.arms[0], far)
    arm(scene.arms[1], near)
    props(scene.before)
    return shapes


Line = Callable[[Point, Point, float, Colour], None]


def _draw_trunk(line: Line, scene: Scene, thick: float, shirt: Colour) -> None:
    chest = between(scene.hip, scene.neck, 0.82)
    if scene.faces_camera:
        # Shoulders wider than hips: three lines side by side.
        for side in (-1, 1):
            shoulder = (chest[0] + side * 0.045 * thick, chest[1])
            line(
                (scene.hip[0] + side * 0.022 * thick, scene.hip[1] + 0.02),
                shoulder,
                0.055 * thick,
                shirt,
            )
        line(between(scene.hip, scene.neck, 0.15), chest, 0.055 * thick, shirt)
    else:
        line(between(scene.hip, scene.neck, 0.10), chest, 0.068 * thick, shirt)


def _draw_head(line: Line, scene: Scene, radius: float, palette: Palette) -> None:
    head = scene.head
    line(head, head, radius, palette["skin"])
    eye = radius * 0.16
    if scene.faces_camera:
        top = (head[0], head[1] + radius * 0.55)
        line((top[0] - radius * 0.4, top[1]), (top[0] + radius * 0.4, top[1]), radius * 0.45, palette["hair"])
        for side in (-1, 1):
            place = (head[0] + side * radius * 0.36, head[1] - radius * 0.05)
            line(place, place, eye, _BLACK)
    else:
        crown = (head[0] - radius * 0.25, head[1] + radius * 0.52)
        nape = (head[0] - radius * 0.58, head[1] + radius * 0.05)
        line(nape, crown, radius * 0.46, palette["hair"])
        line(crown, (head[0] + radius * 0.35, head[1] + radius * 0.62), radius * 0.34, palette["hair"])
        place = (head[0] + radius * 0.48, head[1] + radius * 0.08)
        line(place, place, eye, _BLACK)
