"""Recordings: which clips were cut from one film, and therefore stay on one side of a split.

A rule reads it from the name of a clip. `dataset.json` names the rule of a data set; a rule is one row of RULES.
"""

from collections.abc import Callable

from har_assets.dataset.classes import parse_clip_name

Rule = Callable[[str, str], str | None]
"""File name and class of a clip to its recording; None where the name does not tell one."""


def hmdb51_film(name: str, label: str) -> str | None:
    """The source film of a clip of class `label` in HMDB51's scheme: the text before `_<label>_<tags>`."""
    clip = parse_clip_name(name, label)
    return clip.film if clip else None


HMDB51_FILMS = "hmdb51"

RULES: dict[str, Rule] = {HMDB51_FILMS: hmdb51_film}
"""Name of a rule, as in `dataset.json`, to the rule."""

DEFAULT_RULE = HMDB51_FILMS
"""The rule of a data set whose own conventions nobody knows: its names may follow HMDB51's scheme, or tell nothing."""


def recording_of(name: str, label: str, rule: Rule) -> tuple[str, bool]:
    """Recording of a clip, and whether its name tells it; a clip whose name does not is a recording of its own."""
    told = rule(name, label)
    return (told, True) if told is not None else (f"{label}/{name.rpartition('.')[0] or name}", False)
