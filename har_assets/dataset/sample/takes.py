"""The plan of the sample: what each of its clips shows, how long and how fast, and which split it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from har_assets.dataset.sample import poses
from har_assets.dataset.sample.films import FILM_COUNT, Draws, film_of
from har_assets.dataset.sample.poses import Manner, Performance


@dataclass(frozen=True)
class Action:
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


ACTIONS = {
    "catch": Action(poses.catching, (40, 62), (32, 42), size=0.82, home=0.14),
    "jump": Action(poses.jumping, (30, 56), (24, 34), size=0.85),
    "pullup": Action(poses.pulling_up, (34, 58), (28, 44), size=0.86),
    "run": Action(poses.gait, (30, 48), (30 / 2.6, 30 / 2.0), travels=True),
    "sit": Action(poses.sitting_down, (32, 44), None, home=-0.12),
    "stand": Action(poses.sitting_down, (32, 44), None, backwards=True, home=-0.12),
    "throw": Action(poses.catching, (40, 62), (32, 42), backwards=True, size=0.82, home=0.14),
    "walk": Action(poses.gait, (32, 58), (30 / 1.1, 30 / 0.8), travels=True),
}

SAMPLE_CLASSES: tuple[str, ...] = tuple(sorted(ACTIONS))
"""The classes of the sample, each the name of an HMDB51 class, sorted."""


@dataclass(frozen=True)
class Take:
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
        viewpoint = "fr" if ACTIONS[self.label].perform is poses.pulling_up else side
        camera = "cm" if moving else "nm"
        quality = film_of(self.film).quality.tag
        return f"SampleFilm{self.film:02d}_{self.label}_f_{camera}_np1_{viewpoint}_{quality}_{self.number}.avi"


def _clips_per_class(film: int) -> int:
    """Three or two, so that the four test films of each split hold ten clips of every class."""
    return 3 if (film - 1) // 3 % 2 == 0 else 2


def _plan_take(label: str, film_number: int, number: int) -> Take:
    action, film = ACTIONS[label], film_of(film_number)
    seed = (SAMPLE_CLASSES.index(label) * FILM_COUNT + film_number) * 8 + number
    draws = Draws(1000, seed)
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
    return Take(
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


def plan() -> list[Take]:
    """All takes, class by class and film by film."""
    return [
        _plan_take(label, film, number)
        for label in SAMPLE_CLASSES
        for film in range(1, FILM_COUNT + 1)
        for number in range(_clips_per_class(film))
    ]


def test_films(split: int) -> frozenset[int]:
    """The films that are test in split 1, 2 or 3; every film is test once."""
    return frozenset(film for film in range(1, FILM_COUNT + 1) if (film - 1) % 3 == split - 1)


def split_lists(takes: Sequence[Take]) -> dict[str, str]:
    """The official-format lists: file name to text, one line a clip: 1 train, 2 test, 0 unused."""
    lists: dict[str, str] = {}
    for label, of_class in groupby(takes, lambda take: take.label):
        clips = sorted(of_class, key=lambda take: take.name)
        for split in (1, 2, 3):
            tested = test_films(split)
            # One spare clip a class is left out, as the original leaves some out.
            spare = [clip.name for clip in clips if clip.film not in tested and clip.number == 2]
            unused = spare[SAMPLE_CLASSES.index(label) % len(spare)] if spare else ""
            lines = []
            for clip in clips:
                mark = 2 if clip.film in tested else 0 if clip.name == unused else 1
                lines.append(f"{clip.name} {mark} \n")  # the original's lines end in a space
            lists[f"testTrainMulti_7030_splits/{label}_test_split{split}.txt"] = "".join(lines)
    return lists
