"""Which classes are of one side, so that a mirrored clip of theirs would show another class."""

import re
from collections.abc import Sequence

from har_assets.errors import HarError

_SIDE = re.compile(r".*(left|right|clockwise).*|ccw|cw|l|r")
"""Words that say a side, alone or as a part: `lefthook`, `turnright`, `counterclockwise`, the `L` of `arm_L`."""

_NO_SIDE = re.compile(r"[bfw]right\w*|(up|out|down|forth|copy|birth|play|ship|wheel)w?right\w*|cleft\w*|leftover\w*")
"""English words that only contain one."""


def may_be_mirrored(label: str, pairs: Sequence[str] = ()) -> bool:
    """False for a class whose name says a side, or holds a name of one of `pairs`, such as `forehand/backhand`."""
    words = _words(label)
    if any(_SIDE.fullmatch(word) and not _NO_SIDE.fullmatch(word) for word in words):
        return False
    spaced = f" {' '.join(words)} "
    return not any(f" {' '.join(side)} " in spaced for pair in pairs for side in _sides(pair))


def check_pairs(pairs: Sequence[str]) -> None:
    """HarError for what is not two names with a slash between them."""
    for pair in pairs:
        if len(sides := _sides(pair)) != 2 or not all(sides):
            raise HarError(f"{pair!r} in mirror_pairs is no pair: write two names as forehand/backhand.")


def _sides(pair: str) -> list[list[str]]:
    return [_words(side) for side in pair.split("/")]


def _words(name: str) -> list[str]:
    """The words of `SwipeLeft`, `LEFT_hand`, `handLeft2right`, in lower case: split at case changes and non-letters."""
    spaced = ""
    for before, letter, after in zip(f" {name}", name, f"{name[1:]} ", strict=False):
        begins = letter.isupper() and (before.islower() or (before.isupper() and after.islower()))
        spaced += f" {letter}" if begins else letter
    return [word.lower() for word in re.findall(r"[^\W\d_]+", spaced)]
