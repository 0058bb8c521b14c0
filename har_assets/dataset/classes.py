"""The 51 actions of HMDB51 and the naming scheme of its clips.

Source: Kuehne et al., "HMDB: A Large Video Database for Human Motion Recognition", ICCV 2011, and the
official lists `testTrainMulti_7030_splits`. The index of a class is its place in `HMDB51_CLASSES`, never
its place in a directory listing.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

HMDB51_CLASSES: tuple[str, ...] = (
    "brush_hair",
    "cartwheel",
    "catch",
    "chew",
    "clap",
    "climb",
    "climb_stairs",
    "dive",
    "draw_sword",
    "dribble",
    "drink",
    "eat",
    "fall_floor",
    "fencing",
    "flic_flac",
    "golf",
    "handstand",
    "hit",
    "hug",
    "jump",
    "kick",
    "kick_ball",
    "kiss",
    "laugh",
    "pick",
    "pour",
    "pullup",
    "punch",
    "push",
    "pushup",
    "ride_bike",
    "ride_horse",
    "run",
    "shake_hands",
    "shoot_ball",
    "shoot_bow",
    "shoot_gun",
    "sit",
    "situp",
    "smile",
    "smoke",
    "somersault",
    "stand",
    "swing_baseball",
    "sword",
    "sword_exercise",
    "talk",
    "throw",
    "turn",
    "walk",
    "wave",
)
"""The class names in index order (sorted)."""

HMDB51_CLIPS = 6766
"""Clips in the full data set."""

HMDB51_TRAIN_CLIPS = 3570
"""Clips marked 1 in each official split: 70 a class."""

HMDB51_TEST_CLIPS = 1530
"""Clips marked 2 in each official split: 30 a class."""

HMDB51_UNUSED_CLIPS = 1666
"""Clips marked 0 in each official split."""

HMDB51_SPLITS: tuple[int, ...] = (1, 2, 3)
"""The official splits; published accuracies are the mean of the three."""


@dataclass(frozen=True)
class ClipName:
    """The facts in the file name of an HMDB51 clip: `FILM_ACTION_f_cm_np1_fr_med_0.avi`."""

    film: str
    """The source film or video, for example `TrumanShow`."""
    action: str
    """The class name."""
    body_part: str
    """Visible body: `h` head, `u` upper, `l` lower, `f` full."""
    camera_motion: str
    """`cm` the camera moves, `nm` it does not."""
    people: int
    """People taking part in the action."""
    viewpoint: str
    """`fr` front, `ba` back, `le` left, `ri` right."""
    quality: str
    """`bad`, `med` or `goo`."""
    number: int
    """The clip's number among those of this film and action."""


_TAGS = (
    r"_(?P<body_part>[hulf])_(?P<camera_motion>cm|nm)_np(?P<people>\d+)"
    r"_(?P<viewpoint>fr|ba|le|ri)_(?P<quality>bad|med|goo)_(?P<number>\d+)(?:\.[^.]+)?"
)


@lru_cache(maxsize=4096)
def _pattern_of_label(label: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<film>.+)_(?P<action>{re.escape(label)}){_TAGS}", re.DOTALL)


def parse_clip_name(name: str, label: str | None = None) -> ClipName | None:
    """Read the parts of an HMDB51 file name; None where the name does not follow the scheme.

    Without `label` the action is the longest class of HMDB51 that fits: `..._draw_sword_u_cm_...` is a
    clip of draw_sword, not of sword.
    """
    labels = HMDB51_CLASSES if label is None else (label,)
    matches = [match for each in labels if (match := _pattern_of_label(each).fullmatch(name))]
    if not matches:
        return None
    match = max(matches, key=lambda found: len(found["action"]))
    return ClipName(
        film=match["film"],
        action=match["action"],
        body_part=match["body_part"],
        camera_motion=match["camera_motion"],
        people=int(match["people"]),
        viewpoint=match["viewpoint"],
        quality=match["quality"],
        number=int(match["number"]),
    )
