"""A pose in the frame: the shapes that show it, far ones first, with joints rounded to 1/64 pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType

from har_assets.dataset.sample.drawing import SUBPIXEL, Box, Colour, Pixel, Stroke, darker
from har_assets.dataset.sample.poses import Body, Limb, Point, Prop, Scene, between


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
