"""Poses of the figure and what it performs, in figure space.

Poses are computed in Python floats from `+ - * /`, `math.sqrt` (correctly rounded everywhere) and a table of sines
rounded to integers, since the C library's sine is not the same on all CPUs.

Figure space: the unit is the height of the person, x points where the person faces, y up, and the origin is
the ground under the person. Angles are in turns (1 = 360 degrees), 0 is straight down, positive is forward.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

Point = tuple[float, float]
"""A place in figure space: (forward, up) in body heights."""


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
