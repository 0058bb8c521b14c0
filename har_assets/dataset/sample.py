"""The built-in sample: a synthetic stand-in for HMDB51, which may not be shipped.

Nothing in it was filmed. A drawn figure performs eight actions that bear the names of HMDB51 classes, in
twelve "source films" that differ in colours, proportions, camera, background and picture quality. What is
written has the form of the original: an archive of one archive a class (ZIP here, as nothing free writes
RAR), MPEG-4 part 2 in AVI with B-frames, file names in HMDB51's scheme, and the official split lists' format.

Three pairs of actions show the same poses and can be told apart by motion alone: stand is sit played
backwards, throw is catch played backwards, and run is walk at another tempo.

The bytes are the same on every machine with the locked packages, so that a data set made from the sample
never looks changed: pictures come from integer arithmetic (see `figure`), and the encoder runs with one
thread, integer transforms and bit-exact headers.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from har_assets.dataset import figure
from har_assets.dataset.figure import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    Body,
    Box,
    Colour,
    Manner,
    Palette,
    Performance,
    Scene,
    Stroke,
    View,
)
from har_assets.system.files import remove_partials, written_whole

SAMPLE_VERSION = "1"
"""Changes whenever the bytes of the sample change."""

ARCHIVE_NAME = "hmdb51_sample.zip"
SPLIT_LISTS_NAME = "hmdb51_sample_splits.zip"

FRAMES_PER_SECOND = 30
FILM_COUNT = 12
_SEED = 51


@dataclass(frozen=True)
class SampleFiles:
    """The two files of the sample, as HMDB51 has two."""

    archive: Path
    """ZIP of one ZIP per class, each holding `<class>/<clip>.avi`."""
    split_lists: Path
    """ZIP of `testTrainMulti_7030_splits/<class>_test_split<1|2|3>.txt`."""


@dataclass(frozen=True)
class _Action:
    """One class of the sample: what is performed, for how long and how fast."""

    perform: Performance
    frames: tuple[int, int]
    """Shortest and longest clip."""
    cycle_frames: tuple[float, float] | None
    """Fastest and slowest repetition, in frames; None for a movement that happens once a clip."""
    backwards: bool = False
    size: float = 1.0
    """Scale of the figure; less than 1 where the action needs room above it."""
    home: float = 0.0
    """Where the figure's origin lies, in body heights behind the centre of the frame."""
    travels: bool = False
    """The person moves on and the camera follows: the background passes by."""


_ACTIONS = {
    "catch": _Action(figure.catching, (40, 62), (32, 42), size=0.82, home=0.14),
    "jump": _Action(figure.jumping, (30, 56), (24, 34), size=0.85),
    "pullup": _Action(figure.pulling_up, (34, 58), (28, 44), size=0.86),
    "run": _Action(figure.gait, (30, 48), (30 / 2.6, 30 / 2.0), travels=True),
    "sit": _Action(figure.sitting_down, (32, 44), None, home=-0.12),
    "stand": _Action(figure.sitting_down, (32, 44), None, backwards=True, home=-0.12),
    "throw": _Action(figure.catching, (40, 62), (32, 42), backwards=True, size=0.82, home=0.14),
    "walk": _Action(figure.gait, (32, 58), (30 / 1.1, 30 / 0.8), travels=True),
}

SAMPLE_CLASSES: tuple[str, ...] = tuple(sorted(_ACTIONS))
"""The classes of the sample, each the name of an HMDB51 class, sorted."""


# ------------------------------------------------------------------------------------------ random draws
_Choice = TypeVar("_Choice")


class _Draws:
    """Seeded draws that use integers only, so that they are alike on every CPU."""

    def __init__(self, *seed: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64([_SEED, *seed]))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * (int(self.generator.integers(0, 1009)) / 1008)

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(self.generator.integers(low, high + 1))

    def pick(self, choices: Sequence[_Choice]) -> _Choice:
        return choices[int(self.generator.integers(0, len(choices)))]


# ------------------------------------------------------------------------------------------ source films
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

_TEXTURE_WIDTH = 1024
_TEXTURE_HEIGHT = 304
_GRAIN_MARGIN = 64


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
class _Film:
    """What all clips of one source film have in common."""

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
    draws = _Draws(0)
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
def _film(number: int) -> _Film:
    draws = _Draws(number)
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

    def deal(trait: str, choices: Sequence[_Choice]) -> _Choice:
        return choices[int(_dealt()[trait][number - 1]) % len(choices)]

    parts = {"skin": _SKIN, "hair": _HAIR, "shirt": _SHIRT, "trousers": _TROUSERS, "shoes": _SHOES}
    parts |= {"prop": _PROP, "ball": _BALL}
    palette = Palette(MappingProxyType({part: _yuv(*deal(part, colours)) for part, colours in parts.items()}))
    ground = draws.integer(208, 220)
    return _Film(
        number=number,
        body=body,
        palette=palette,
        scale=draws.between(152, 176),
        ground=ground,
        horizon=(_TEXTURE_HEIGHT - FRAME_HEIGHT) // 2 + ground - draws.integer(10, 40),
        wall=_yuv(*deal("wall", _WALL)),
        floor=_yuv(*deal("floor", _FLOOR)),
        pattern=deal("pattern", _WALL_PATTERNS),
        rim=draws.integer(64, 128),
        steady=number % 2 == 0,
        facing=draws.pick((-1, 1)),
        quality=deal("quality", _QUALITIES),
    )


@dataclass(frozen=True)
class _Backdrop:
    """The painted surroundings of a film: planes wider and higher than the frame, and film grain."""

    luma: NDArray[np.int16]
    chroma_u: NDArray[np.int16]
    chroma_v: NDArray[np.int16]
    grain: NDArray[np.int16]


@lru_cache(maxsize=FILM_COUNT)
def _backdrop(number: int) -> _Backdrop:
    """Paint wall, floor and furniture of a film. The planes wrap round from left to right."""
    film = _film(number)
    draws = _Draws(number, 1)
    luma = np.empty((_TEXTURE_HEIGHT, _TEXTURE_WIDTH), np.int16)
    chroma = [np.empty((_TEXTURE_HEIGHT, _TEXTURE_WIDTH), np.int16) for _ in range(2)]
    columns = np.arange(_TEXTURE_WIDTH)[None, :]
    rows = np.arange(_TEXTURE_HEIGHT)[:, None]

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
    luma[:] = film.wall[0] + slope * (rows - _TEXTURE_HEIGHT // 2) // _TEXTURE_HEIGHT - draws.integer(6, 18) * marks
    chroma[0][:], chroma[1][:] = film.wall[1], film.wall[2]

    for _ in range(draws.integer(5, 9)):
        _hang_picture(draws, film, luma, chroma)

    floor = np.s_[film.horizon :, :]
    depth = rows[film.horizon :] - film.horizon
    boards = columns // draws.pick((32, 64, 128)) % 2
    luma[floor] = film.floor[0] + depth // 3 - draws.integer(6, 14) * boards
    chroma[0][floor], chroma[1][floor] = film.floor[1], film.floor[2]
    luma[film.horizon - 5 : film.horizon] = film.wall[0] * 5 // 8  # skirting board

    grain_shape = (FRAME_HEIGHT + _GRAIN_MARGIN, FRAME_WIDTH + _GRAIN_MARGIN)
    grain = draws.generator.integers(-film.quality.grain, film.quality.grain + 1, grain_shape, dtype=np.int16)
    # Far enough from black and white for grain to need no clipping.
    luma = np.minimum(np.maximum(luma, 24), 228)
    return _Backdrop(luma, chroma[0][::2, ::2].copy(), chroma[1][::2, ::2].copy(), grain)


def _hang_picture(draws: _Draws, film: _Film, luma: NDArray[np.int16], chroma: Sequence[NDArray[np.int16]]) -> None:
    """Put a window, shelf or cupboard on the wall: a framed rectangle."""
    width, height = draws.integer(30, 110), draws.integer(24, 90)
    left = draws.integer(0, _TEXTURE_WIDTH - width)
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


# ------------------------------------------------------------------------------------------------- takes
@dataclass(frozen=True)
class _Take:
    """Everything that decides the pictures of one clip."""

    label: str
    film: int
    number: int
    """Counts the clips of one film and class from 0."""
    frames: int
    start: float
    """Phase at the first frame, in cycles; of a movement made once, the frames of rest before it."""
    tempo: float
    """Cycles per frame; of a movement made once, the frames of rest after it."""
    manner: Manner
    facing: int
    scale: float
    offset: tuple[float, float]
    """Where the person stands in the picture, in pixels from the film's usual place."""
    pan: tuple[float, float]
    """Pixels per frame by which the camera turns right and down."""
    zoom: float
    """Relative growth of the picture per frame."""
    shake: float
    """Amplitude of the hand-held camera's tremble, in pixels."""
    scroll: float
    """Pixels per frame by which the floor passes under a person whom the camera follows."""
    seed: int

    @property
    def name(self) -> str:
        """The clip's file name in HMDB51's scheme.

        film_class_body part_camera_people_viewpoint_quality_number: the full body is visible (f), the camera
        moves (cm) or not (nm), one person, seen from the front, left or right, and the picture quality.
        """
        moving = self.scroll or self.shake or self.zoom or self.pan != (0.0, 0.0)
        side = "ri" if self.facing > 0 else "le"
        viewpoint = "fr" if _ACTIONS[self.label].perform is figure.pulling_up else side
        camera = "cm" if moving else "nm"
        quality = _film(self.film).quality.tag
        return f"SampleFilm{self.film:02d}_{self.label}_f_{camera}_np1_{viewpoint}_{quality}_{self.number}.avi"


def _clips_per_class(film: int) -> int:
    """Three or two, so that the four test films of each split hold ten clips of every class."""
    return 3 if (film - 1) // 3 % 2 == 0 else 2


def _plan_take(label: str, film_number: int, number: int) -> _Take:
    action, film = _ACTIONS[label], _film(film_number)
    seed = (SAMPLE_CLASSES.index(label) * FILM_COUNT + film_number) * 8 + number
    draws = _Draws(1000, seed)
    frames = draws.integer(*action.frames)
    manner = Manner(*(draws.between(0, 1) for _ in range(4)))
    facing = film.facing * (1 if number % 2 == 0 else -1)
    scale = film.scale * action.size * draws.between(0.95, 1.03)
    if action.cycle_frames is None:
        start, tempo = draws.between(1, 5), draws.between(1, 5)
    else:
        start, tempo = draws.between(0, 1), 1 / draws.between(*action.cycle_frames)
    still = film.steady
    # A stride covers about a body height; the camera's own drift comes on top.
    scroll = facing * tempo * scale * (0.85 + 0.35 * manner.stride) if action.travels else 0.0
    travel = draws.between(-14, 14), draws.between(-5, 5)
    return _Take(
        label=label,
        film=film_number,
        number=number,
        frames=frames,
        start=start,
        tempo=tempo,
        manner=manner,
        facing=facing,
        scale=scale,
        offset=(draws.between(-14, 14), draws.between(-4, 4)),
        pan=(0.0, 0.0) if still else (travel[0] / frames, travel[1] / frames),
        zoom=0.0 if still else draws.between(-0.05, 0.05) / frames,
        shake=0.0 if still else draws.between(0.0, 1.2),
        scroll=scroll,
        seed=seed,
    )


def _plan() -> list[_Take]:
    """All takes, class by class and film by film."""
    return [
        _plan_take(label, film, number)
        for label in SAMPLE_CLASSES
        for film in range(1, FILM_COUNT + 1)
        for number in range(_clips_per_class(film))
    ]


# -------------------------------------------------------------------------------------------- rendering
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


def _scene(take: _Take, frame: int) -> Scene:
    """The pose and props of one frame of a take."""
    action = _ACTIONS[take.label]
    time = take.frames - 1 - frame if action.backwards else frame
    if action.cycle_frames is None:
        phase = (time - take.start) / (take.frames - 1 - take.start - take.tempo)
    else:
        phase = take.start + time * take.tempo
    return action.perform(_film(take.film).body, phase, take.manner)


def _view(take: _Take, frame: int) -> tuple[View, _Look]:
    """Where the figure stands in one frame of a take, and which part of the backdrop is seen."""
    film, action = _film(take.film), _ACTIONS[take.label]
    middle = frame - take.frames / 2
    look_right = take.pan[0] * middle + take.shake * figure.sine(frame * 0.137 + take.seed * 0.31)
    look_down = take.pan[1] * middle + take.shake * figure.sine(frame * 0.171)
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


def _show_backdrop(picture: NDArray[np.int16], film: _Film, backdrop: _Backdrop, look: _Look) -> None:
    """Fill one yuv420p picture, [360, 320], with the part of the backdrop that `look` names."""
    across = _FROM_MIDDLE_RIGHT * 1024 // look.zoom + look.right
    down = _FROM_MIDDLE_DOWN * 1024 // look.zoom + look.down
    rows = np.minimum(np.maximum(down + _TEXTURE_HEIGHT // 2, 0), _TEXTURE_HEIGHT - 1)
    # The wall is farther off than the floor and passes by at three fifths of its speed.
    wall_columns = (across + look.scrolled * 3 // 5) % _TEXTURE_WIDTH
    floor_columns = (across + look.scrolled) % _TEXTURE_WIDTH
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


def _render(take: _Take) -> Iterator[NDArray[np.uint8]]:
    """The pictures of a take, each [360, 320] uint8: yuv420p, its planes one below the other."""
    film, backdrop = _film(take.film), _backdrop(take.film)
    unpeopled = np.empty((FRAME_HEIGHT * 3 // 2, FRAME_WIDTH), np.int16)
    shown: _Look | None = None
    # Some frames at a time: quick, and yet a few MB of memory.
    for first in range(0, take.frames, _RENDERED_TOGETHER):
        frames = range(first, min(first + _RENDERED_TOGETHER, take.frames))
        pictures = np.empty((len(frames), FRAME_HEIGHT * 3 // 2, FRAME_WIDTH), np.int16)
        shapes: list[list[Stroke | Box]] = []
        for picture, frame in zip(pictures, frames, strict=True):
            view, look = _view(take, frame)
            if look != shown:
                _show_backdrop(unpeopled, film, backdrop, look)
                shown = look
            picture[:] = unpeopled
            shapes.append(figure.shapes_of(_scene(take, frame), film.body, film.palette, view, film.rim))
        figure.draw(pictures, shapes)
        for picture, frame in zip(pictures, frames, strict=True):
            top, left = frame * 37 % _GRAIN_MARGIN, (frame * 23 + take.seed) % _GRAIN_MARGIN
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


def _render_take(take: _Take) -> bytes:
    """The AVI file of one take."""
    return _encode(_render(take), _film(take.film).quality.quantiser)


# ----------------------------------------------------------------------------------------------- splits
def _test_films(split: int) -> frozenset[int]:
    """The films that are test in split 1, 2 or 3; every film is test once."""
    return frozenset(film for film in range(1, FILM_COUNT + 1) if (film - 1) % 3 == split - 1)


def _split_lists(takes: Sequence[_Take]) -> dict[str, str]:
    """The official-format lists: file name to text, one line a clip: 1 train, 2 test, 0 unused."""
    lists: dict[str, str] = {}
    for label, of_class in groupby(takes, lambda take: take.label):
        clips = sorted(of_class, key=lambda take: take.name)
        for split in (1, 2, 3):
            test_films = _test_films(split)
            # One spare clip a class is left out, as the original leaves some out.
            spare = [clip.name for clip in clips if clip.film not in test_films and clip.number == 2]
            unused = spare[SAMPLE_CLASSES.index(label) % len(spare)] if spare else ""
            lines = []
            for clip in clips:
                mark = 2 if clip.film in test_films else 0 if clip.name == unused else 1
                lines.append(f"{clip.name} {mark} \n")  # the original's lines end in a space
            lists[f"testTrainMulti_7030_splits/{label}_test_split{split}.txt"] = "".join(lines)
    return lists


# ---------------------------------------------------------------------------------------------- archive
def _zip_of(members: Iterable[tuple[str, bytes]], file: io.BytesIO | Path) -> None:
    """Write a ZIP whose bytes depend on the members alone: fixed time, system and permissions, no packing."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, also where this runs on another system
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


@contextmanager
def _rendered(takes: Sequence[_Take], workers: int) -> Iterator[Iterator[bytes]]:
    """The AVI files of `takes`, in order, made by `workers` processes (by this one if it is one)."""
    # A daemonic process (a data loader's, a pool's) is not allowed to have children.
    if workers <= 1 or multiprocessing.current_process().daemon:
        yield map(_render_take, takes)
        return
    # spawn, not fork: the caller may hold threads and locks.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool.map(_render_take, takes, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _class_archives(
    takes: Sequence[_Take], clips: Iterator[bytes], log: Callable[[str], None]
) -> Iterator[tuple[str, bytes]]:
    """The inner ZIPs, one a class, while the clips come in."""
    labels = {take.label for take in takes}
    for done, (label, of_class) in enumerate(groupby(takes, lambda take: take.label), start=1):
        members = [(f"{label}/{take.name}", next(clips)) for take in of_class]
        inner = io.BytesIO()
        _zip_of(members, inner)
        log(f"sample: {label}, {len(members)} clips ({done} of {len(labels)} classes)")
        yield f"{label}.zip", inner.getvalue()


def _write_takes(takes: Sequence[_Take], folder: Path, workers: int, log: Callable[[str], None]) -> SampleFiles:
    """Write archive and lists of `takes`, which come class by class."""
    files = SampleFiles(folder / ARCHIVE_NAME, folder / SPLIT_LISTS_NAME)
    for path in (files.split_lists, files.archive):
        remove_partials(path)
    with written_whole(files.split_lists) as lists_path, written_whole(files.archive) as archive_path:
        _zip_of(((name, text.encode()) for name, text in _split_lists(takes).items()), lists_path)
        with _rendered(takes, workers) as clips:
            _zip_of(_class_archives(takes, clips, log), archive_path)
    return files


def _say_nothing(_message: str) -> None:
    """The default log."""


def write_sample(folder: Path, *, workers: int | None = None, log: Callable[[str], None] = _say_nothing) -> SampleFiles:
    """Write the synthetic sample into `folder` and return the paths of its two archives.

    240 clips of 8 classes and 12 films, 320x240 at 30 frames a second, 1 to 3 s each. The bytes are always
    the same. The files appear under their names only when they are complete; files of these names that were
    there before are replaced.

    Args:
        folder: created if missing.
        workers: processes that draw and encode; all cores if None, this process alone if 1.
        log: called with one line a class.

    Raises:
        OSError: the folder cannot be written.
    """
    return _write_takes(_plan(), Path(folder), workers or os.cpu_count() or 1, log)
