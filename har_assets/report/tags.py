"""Accuracy by what HMDB51 says of each clip in its file name.

The scheme is that of the data set's home page: visible body parts, camera motion, people taking part, view of the
camera, quality of the video; for example `TrumanShow_run_f_nm_np1_ba_med_19.avi`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from har_assets.dataset.classes import ClipName, parse_clip_name
from har_assets.report.statistics import Estimate, clustered_estimate

NOT_TAGGED = "not tagged"

TAGS: dict[str, tuple[str, dict[str, str]]] = {
    "body_part": ("Visible body", {"f": "full", "u": "upper", "l": "lower", "h": "head"}),
    "camera_motion": ("Camera", {"cm": "moves", "nm": "does not move"}),
    "people": ("People", {}),
    "viewpoint": ("Seen from", {"fr": "the front", "le": "the left", "ri": "the right", "ba": "behind"}),
    "quality": ("Quality", {"goo": "good", "med": "medium", "bad": "bad"}),
}
"""Field of ClipName -> heading and the words of its values, in the order in which they are shown."""


@dataclass(frozen=True)
class TagRow:
    """Accuracy on the videos that bear one tag."""

    tag: str
    """`Camera`."""
    value: str
    """`moves`."""
    top1: Estimate


def tag_rows(
    clips_N: Sequence[str], labels_N: Sequence[str], correct_N: Sequence[bool], films_N: Sequence[str]
) -> list[TagRow]:
    """Top-1 accuracy by tag. Empty where no file name follows HMDB51's scheme.

    `clips_N` are `class/file name`. Names outside the scheme are counted as `not tagged`.
    """
    names = [parse_clip_name(clip.rpartition("/")[2], label) for clip, label in zip(clips_N, labels_N, strict=True)]
    if not any(names):
        return []
    rows = []
    for field, (heading, words) in TAGS.items():
        values = [_word(name, field, words) for name in names]
        others = {*values} - {*words.values(), NOT_TAGGED}
        order = [*words.values(), *sorted(others, key=lambda value: (len(value), value))]
        for value in (*order, NOT_TAGGED):
            chosen = [number for number, found in enumerate(values) if found == value]
            if chosen:
                estimate = clustered_estimate([correct_N[n] for n in chosen], [films_N[n] for n in chosen])
                rows.append(TagRow(heading, value, estimate))
    return rows


def _word(name: ClipName | None, field: str, words: dict[str, str]) -> str:
    if name is None:
        return NOT_TAGGED
    value = str(getattr(name, field))
    return words.get(value, value)
