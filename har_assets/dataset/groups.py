"""Recordings: which clips were cut from one film, and therefore stay on one side of a split.

A rule reads it from the name of a clip. `dataset.json` names the rule of a data set; a rule is one row of RULES.
The option `groups` of the manifests chooses another source.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from har_assets.dataset.classes import parse_clip_name
from har_assets.errors import DatasetError

Rule = Callable[[str, str], str | None]
"""File name and class of a clip to its recording; None where the name does not tell one."""

_UCF101 = re.compile(r"v_(?P<label>.+)_g\d+(?=_c\d+(\.[^.]+)?$)")


def hmdb51_film(name: str, label: str) -> str | None:
    """The source film of a clip of class `label`: HMDB51 writes it before `_<label>_<tags>`, UCF101 `_g01` after it."""
    if clip := parse_clip_name(name, label):
        return clip.film
    found = _UCF101.match(name)
    return found[0] if found else None


HMDB51_FILMS = "hmdb51"

RULES: dict[str, Rule] = {HMDB51_FILMS: hmdb51_film}
"""Name of a rule, as in `dataset.json`, to the rule."""

DEFAULT_RULE = HMDB51_FILMS
"""The rule of a data set whose own conventions nobody knows: its names may follow HMDB51's scheme, or tell nothing."""

AUTO, NAME, FOLDER, NONE = "auto", "name", "folder", "none"
GROUPS = (AUTO, NAME, FOLDER, NONE)
"""Values of the option `groups` besides a regular expression."""

KNOWN, INFERRED, UNKNOWN = "known", "inferred", "unknown"
"""What is known of the recordings: names, lists, folders or an expression tell them; pictures suggest them; nothing."""

TOLD = 0.95
"""Recordings are known where so large a share of the videos has one that is told."""


def rule_of(groups: str, rule: Rule) -> Rule:
    """The rule for names that the option `groups` means; DatasetError for an expression that is none.

    Args:
        groups: one of GROUPS, or a regular expression with one group, searched for in `<class>/<file>`.
        rule: that of the data set.
    """
    if groups in (AUTO, NAME):
        return rule
    if groups in (FOLDER, NONE):
        return lambda name, label: None
    try:
        expression = re.compile(groups)
    except re.error as error:
        raise DatasetError(f"groups is {groups!r}, no regular expression ({error}): correct it.") from None
    if expression.groups != 1:
        raise DatasetError(
            f"groups is {groups!r}, with {expression.groups} groups: choose {', '.join(GROUPS)}, or put the part of "
            "the name that is the recording in one pair of parentheses."
        )

    def searched(name: str, label: str) -> str | None:
        found = expression.search(f"{label}/{name}")
        return found[1] or None if found else None

    return searched


def recording_of(name: str, label: str, rule: Rule) -> tuple[str, bool]:
    """Recording of a clip, and whether its name tells it; a clip whose name does not is a recording of its own."""
    told = rule(name, label)
    return (told, True) if told is not None else (f"{label}/{name.rpartition('.')[0] or name}", False)


def knowledge_of(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """KNOWN, INFERRED or UNKNOWN, and how recordings were found, of the metadata of a published manifest.

    A manifest of a version before the option `groups` tells nothing where every video is a film of its own.
    """
    if "groups" in metadata:
        return str(metadata["groups"]), str(metadata.get("groups_found", ""))
    by_file = str(metadata.get("split_source", "")).endswith("by file") or (
        metadata.get("clips", 0) > 1 and metadata.get("films") == metadata["clips"]
    )
    return (UNKNOWN, "") if by_file else (KNOWN, "")
