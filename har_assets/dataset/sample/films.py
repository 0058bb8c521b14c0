"""The twelve "source films" of the sample: people, rooms, cameras and picture quality, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from har_assets.dataset.sample.drawing import FRAME_HEIGHT, FRAME_WIDTH, Colour
from har_assets.dataset.sample.figure import Palette
from har_assets.dataset.sample.poses import Body

FILM_COUNT = 12
_SEED = 51


Choice = TypeVar("Choice")


class Draws:
    """Seeded draws that use integers only, so that they are alike on every CPU."""

    def __init__(self, *seed: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64([_SEED, *seed]))

    def between(self, low: float, high: float) -> float:
        """One of 1009 evenly spaced numbers from `low` to `high`."""
        return low + (high - low) * (int(self.generator.integers(0, 1009)) / 1008)

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(self.generator.integers(low, high + 1))

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of the choices."""
        return choices[int(self.generator.integers(0, len(choices)))]


def _yuv(red: int, green: int, blue: int) -> Colour:
    """BT.601 video-range colour in integer arithmetic."""
    return (
        (66 * red + 129 * green + 25 * blue + 128 >> 8) + 16,
        (-38 * red - 74 * green + 112 * blue + 128 >> 8) + 128,
        (112 * red - 94 * green - 18 * blue + 128 >> 8) + 128,
    )


# Red, green, blue. People are darker than the rooms they are in, so that a movement changes the light in the
# same sense in all films: 150 clips are too few to learn both senses.
_SKIN = ((206, 152, 118), (188, 132, 96), (166, 114, 78), (140, 94, 64), (108, 72, 48))
_HAIR = ((40, 30, 26), (84, 54, 32), (132, 92, 44), (28, 28, 34), (96, 96, 100), (124, 50, 30))
_SHIRT = (
    (176, 40, 46),
    (36, 84, 164),
    (34, 116, 70),
    (170, 112, 20),
    (112, 52, 132),
    (188, 80, 28),
    (24, 112, 120),
)
_TROUSERS = ((44, 54, 92), (70, 66, 62), (100, 74, 50), (40, 76, 72), (92, 40, 52), (60, 60, 110))
_SHOES = ((120, 116, 110), (40, 40, 44), (130, 44, 36))
_PROP = ((126, 84, 50), (96, 104, 116), (70, 88, 70), (140, 60, 50), (60, 70, 120))
_BALL = ((206, 90, 16), (200, 40, 36), (150, 40, 110))
_WALL = (
    (232, 226, 212),
    (204, 220, 230),
    (216, 228, 206),
    (238, 218, 204),
    (206, 202, 214),
    (222, 210, 228),
    (196, 218, 214),
)
_FLOOR = ((190, 164, 136), (172, 172, 170), (156, 182, 142), (204, 188, 164), (166, 156, 172))
_WALL_PATTERNS = ("plain", "checks", "stripes", "bricks", "panels", "dots")

TEXTURE_WIDTH = 1024
TEXTURE_HEIGHT = 304
GRAIN_MARGIN = 64


@dataclass(frozen=True)
class _Quality:
    """How good the picture of a film is; the tag is HMDB51's."""

    tag: str
    grain: int
    """Largest luma noise, of 255."""
    quantiser: int
    """MPEG-4 quantiser scale, 1 (best) to 31."""


_QUALITIES = (_Quality("goo", 1, 4), _Quality("med", 2, 6), _Quality("bad", 4, 9))


@dataclass(frozen=True)
class Film:
    """Properties that all clips of one source film share."""

    number: int
    body: Body
    palette: Palette
    scale: float
    """Pixels per body height."""
    ground: int
    """Row of the frame on which the person stands."""
    horizon: int
    """Row of the texture where the wall ends and the floor begins."""
    wall: Colour
    floor: Colour
    pattern: str
    rim: int
    """Width of dark edges in 1/64 pixel."""
    steady: bool
    """On a tripod; otherwise the camera pans, zooms and shakes."""
    facing: int
    quality: _Quality


@lru_cache(maxsize=1)
def _dealt() -> dict[str, NDArray[np.int64]]:
    """A place in a shuffled order for every film and trait, so that films differ as much as choices allow."""
    draws = Draws(0)
    traits = (
        "skin",
        "hair",
        "shirt",
        "trousers",
        "shoes",
        "prop",
        "ball",
        "wall",
        "floor",
        "pattern",
        "quality",
    )
    return {trait: draws.generator.permutation(FILM_COUNT) for trait in traits}


@lru_cache(maxsize=FILM_COUNT)
def film_of(number: int) -> Film:
    """The film of a number from 1 to FILM_COUNT."""
    draws = Draws(number)
    legs = draws.between(0.455, 0.495)
    torso = draws.between(0.275, 0.305)
    arms = draws.between(0.285, 0.325)
    body = Body(
        thigh=legs * 0.51,
        shin=legs * 0.49,
        torso=torso,
        upper_arm=arms * 0.51,
        forearm=arms * 0.49,
        head=draws.between(0.070, 0.085),
        thickness=draws.between(0.88, 1.22),
    )

    def deal(trait: str, choices: Sequence[Choice]) -> Choice:
        return choices[int(_dealt()[trait][number - 1]) % len(choices)]

    parts = {"skin": _SKIN, "hair": _HAIR, "shirt": _SHIRT, "trousers": _TROUSERS, "shoes": _SHOES}
    parts |= {"prop": _PROP, "ball": _BALL}
    palette = Palette(MappingProxyType({part: _yuv(*deal(part, colours)) for part, colours in parts.items()}))
    ground = draws.integer(208, 220)
    return Film(
        number=number,
        body=body,
        palette=palette,
        scale=draws.between(152, 176),
        ground=ground,
        horizon=(TEXTURE_HEIGHT - FRAME_HEIGHT) // 2 + ground - draws.integer(10, 40),
        wall=_yuv(*deal("wall", _WALL)),
        floor=_yuv(*deal("floor", _FLOOR)),
        pattern=deal("pattern", _WALL_PATTERNS),
        rim=draws.integer(64, 128),
        steady=number % 2 == 0,
        facing=draws.pick((-1, 1)),
        quality=deal("quality", _QUALITIES),
    )


@dataclass(frozen=True)
class Backdrop:
    """The painted surroundings of a film: planes wider and higher than the frame, and film grain."""

    luma: NDArray[np.int16]
    chroma_u: NDArray[np.int16]
    chroma_v: NDArray[np.int16]
    grain: NDArray[np.int16]


@lru_cache(maxsize=FILM_COUNT)
def backdrop_of(number: int) -> Backdrop:
    """Paint wall, floor and furniture of a film. The planes wrap round from left to right."""
    film = film_of(number)
    draws = Draws(number, 1)
    luma = np.empty((TEXTURE_HEIGHT, TEXTURE_WIDTH), np.int16)
    chroma = [np.empty((TEXTURE_HEIGHT, TEXTURE_WIDTH), np.int16) for _ in range(2)]
    columns = np.arange(TEXTURE_WIDTH)[None, :]
    rows = np.arange(TEXTURE_HEIGHT)[:, None]

    pitch = draws.pick((32, 64))
    row_pitch = pitch // 2
    marks = {
        "plain": np.zeros_like(columns + rows),
        "checks": (columns // pitch + rows // pitch) % 2,
        "stripes": columns // pitch % 2 + 0 * rows,
        "bricks": ((rows % row_pitch < 2) | ((columns + rows // row_pitch % 2 * row_pitch) % pitch < 2)) * 1,
        "panels": ((columns % (2 * pitch) < 3) | (rows % (2 * pitch) < 3)) * 1,
        "dots": ((columns % pitch - pitch // 2) ** 2 + (rows % pitch - pitch // 2) ** 2 < 50) * 1,
    }[film.pattern]
    slope = draws.integer(-24, 24)
    luma[:] = film.wall[0] + slope * (rows - TEXTURE_HEIGHT // 2) // TEXTURE_HEIGHT - draws.integer(6, 18) * marks
    chroma[0][:], chroma[1][:] = film.wall[1], film.wall[2]

    for _ in range(draws.integer(5, 9)):
        _hang_picture(draws, film, luma, chroma)

    floor = np.s_[film.horizon :, :]
    depth = rows[film.horizon :] - film.horizon
    boards = columns // draws.pick((32, 64, 128)) % 2
    luma[floor] = film.floor[0] + depth // 3 - draws.integer(6, 14) * boards
    chroma[0][floor], chroma[1][floor] = film.floor[1], film.floor[2]
    luma[film.horizon - 5 : film.horizon] = film.wall[0] * 5 // 8  # skirting board

    grain_shape = (FRAME_HEIGHT + GRAIN_MARGIN, FRAME_WIDTH + GRAIN_MARGIN)
    grain = draws.generator.integers(-film.quality.grain, film.quality.grain + 1, grain_shape, dtype=np.int16)
    # Far enough from black and white for grain to need no clipping.
    luma = np.minimum(np.maximum(luma, 24), 228)
    return Backdrop(luma, chroma[0][::2, ::2].copy(), chroma[1][::2, ::2].copy(), grain)


def _hang_picture(draws: Draws, film: Film, luma: NDArray[np.int16], chroma: Sequence[NDArray[np.int16]]) -> None:
    """Put a window, shelf or cupboard on the wall: a framed rectangle."""
    width, height = draws.integer(30, 110), draws.integer(24, 90)
    left = draws.integer(0, TEXTURE_WIDTH - width)
    stands = draws.integer(0, 2) == 0
    top = film.horizon - height if stands else draws.integer(20, max(21, film.horizon - height - 50))
    colour = _yuv(*draws.pick(_WALL + _FLOOR + _PROP))
    # A quarter of the contrast with the wall: furniture must not drown the person.
    shade = (colour[0] + 3 * film.wall[0]) // 4
    place = np.s_[top : top + height, left : left + width]
    luma[place] = shade - 20
    luma[top + 3 : top + height - 3, left + 3 : left + width - 3] = shade
    if draws.integer(0, 1):
        luma[top + 3 : top + height - 3, left + width // 2 - 1 : left + width // 2 + 1] = shade - 20
    chroma[0][place], chroma[1][place] = (colour[1] + 128) // 2, (colour[2] + 128) // 2
