"""The layout of a source: which of the folders around a video names its class, and which its split.

docs/own_data.md has the layouts. One that can be read in two ways is refused, with the value of `label` for each.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from har_assets.dataset.archive.listing import Listing, composed
from har_assets.dataset.groups import DEFAULT_RULE, RULES
from har_assets.dataset.list_formats.list_format import Row, role_named
from har_assets.dataset.lists import LABELS
from har_assets.dataset.manifests import ROLES
from har_assets.errors import ArchiveError

UNDERSTOOD = (
    "understood are CLASS/VIDEO, SPLIT/CLASS/VIDEO and CLASS/SPLIT/VIDEO with folders train, val and test, one archive "
    "a class, and lists that name each video and its class"
)
"""The layouts, for a sentence."""

Folders = tuple[str, ...]


@dataclass(frozen=True)
class Video:
    """A video of the source."""

    folders: Folders
    """Around it, from the outermost, with the stem of each archive in its place."""
    name: str
    shown: str
    """In messages."""
    bare: bool
    """In no folder of the archive that holds it."""
    label_file: str = ""
    """Name of a text of the same stem beside it."""
    any_text: str = ""
    """Name of a text in its folder."""


@dataclass
class Place:
    """Where a video goes."""

    label: str
    name: str
    role: str = ""
    group: str = ""


@dataclass
class Arrangement:
    """Where all videos go."""

    places: list[Place | None]
    """In the order of the videos; None leaves one out."""
    rows: dict[int, list[Row]] = field(default_factory=dict)
    """Number of a split to the list that is to be written of it; none where names and folders say it all."""
    by_folders: bool = False
    """The rows come from the folders and not from lists."""
    notes: list[str] = field(default_factory=list)


def arrange(videos: Sequence[Video], label: str, listing: Listing | None, source: Path) -> Arrangement:
    """Decide class, role, recording and file name of every video.

    Args:
        videos: of the source.
        label: one of LABELS.
        listing: its lists, None where it has none.
        source: its path.

    Raises:
        ArchiveError: a layout that can be read in two ways or none, two videos that would get one name.
        DatasetError: lists that contradict the source or themselves.
    """
    if label == "csv" and listing is None:
        raise ArchiveError(
            "label: csv takes the classes from lists, and there are none: name a CSV with the columns video and label "
            "as split_lists of raw_archive."
        )
    told = listing if listing and (listing.by_path or label == "csv") else None
    if label not in LABELS:
        raise ArchiveError(f"label is {label!r}: choose {', '.join(LABELS)}.")
    roles, chains, notes = _splits(videos, label, by_lists=told is not None and label in ("auto", "csv"))
    if told is None:
        places = _by_folders(videos, chains, label, notes)
        divided = any(roles)
        if divided and listing:
            notes.append(f"The folders of the splits are passed over: {listing.shown} divide the videos.")
        elif divided:
            for place, role in zip(places, roles, strict=True):
                place.role = role
        arrangement = Arrangement(list(places), by_folders=True, notes=notes)
        _rename(videos, arrangement)
        if listing is None and any(place.role or place.group for place in places):
            arrangement.rows[1] = [Row(place.label, place.name, place.role, place.group) for place in places]
        return arrangement
    return _by_lists(videos, chains, roles, label, told, source, notes)


# --- splits -------------------------------------------------------------------------------------------


def _splits(videos: Sequence[Video], label: str, *, by_lists: bool) -> tuple[list[str], list[Folders], list[str]]:
    """The role of each video by its folders, empty where these are no splits; the other folders; notes."""
    chains = [video.folders for video in videos]
    for depth in range(min(map(len, chains))):
        roles = [role_named(chain[depth]) or "" for chain in chains]
        named = set(roles)
        if "" in named or len(named) == 1 or (not by_lists and any(len(chain) == 1 for chain in chains)):
            continue
        if "train" not in named:
            raise ArchiveError(
                f"the videos lie in folders for {' and '.join(sorted(named))}, and none in a folder train: add one, or "
                "rename these folders."
            )
        words = sorted({chain[depth] for chain in chains}, key=lambda word: (ROLES.index(role_named(word) or ""), word))
        notes = [f"The folders {', '.join(words)} are taken for the split."]
        return roles, [chain[:depth] + chain[depth + 1 :] for chain in chains], notes
    found = [(video, part) for video in videos for part in video.folders if role_named(part)]
    meant = {role_named(part) for _, part in found}
    above = any(role_named(part) for chain in chains for part in chain[:-1])
    if len(meant) > 1 and not by_lists and (above or label == "auto"):
        raise ArchiveError(
            f"some folders are named like splits ({', '.join(sorted({part for _, part in found}))}), and not every "
            f"video lies in a class folder of one ({_outside(videos).shown} does not): move the videos to "
            "SPLIT/CLASS/VIDEO, or name split and class of each in a CSV (docs/own_data.md)."
        )
    notes = [
        f"All videos lie below the folder {part}, which is taken for no split."
        for part in sorted({part for chain in chains for part in chain[:-1] if role_named(part)})
        if all(part in chain[:-1] for chain in chains)
    ]
    return [""] * len(videos), chains, notes


def _outside(videos: Sequence[Video]) -> Video:
    """A video that lies in no class folder of a split."""
    return next(
        (video for video in videos if not any(role_named(part) for part in video.folders[:-1])),
        videos[0],
    )


# --- classes ------------------------------------------------------------------------------------------


def _by_folders(videos: Sequence[Video], chains: list[Folders], label: str, notes: list[str]) -> list[Place]:
    """The class of each video by its folders."""
    if outside := next((video for video, chain in zip(videos, chains, strict=True) if not chain), None):
        raise ArchiveError(
            f"the video {outside.shown} lies outside any folder"
            + (f", beside {outside.label_file}, as in WebDataset shards" if outside.label_file else "")
            + ": put every video into a folder named after its class, or name the class of each in a CSV "
            "(docs/own_data.md)."
        )
    wrapping = _shared([chain[:-1] for chain in chains])
    chains = [chain[wrapping:] for chain in chains]
    if label == "auto":
        _refuse_label_files(videos, chains)
        _refuse_depths(videos, chains)
    at = 0 if label == "top" else -1
    places = [Place(chain[at], video.name) for chain, video in zip(chains, videos, strict=True)]
    classes = {place.label for place in places}
    if len(classes) == 1:
        notes.append(f"There is one class only, {places[0].label}.")
    elif alike := sorted(filter(role_named, classes)):
        notes.append(f"The folder {', '.join(alike)} is taken for a class, not for a split.")
    if len({composed(name).casefold() for name in classes}) < len(classes):
        notes.append("Some classes differ in nothing but case: they stay apart, rename their folders if they are one.")
    if label == "top":
        below = defaultdict(set)
        for place, chain in zip(places, chains, strict=True):
            below[place.label].add(chain[1:])
        for place, chain in zip(places, chains, strict=True):
            if len(below[place.label]) > 1 and chain[1:]:
                place.group = "/".join(chain)
        if any(place.group for place in places):
            notes.append("The videos of one folder below a class are taken for one recording.")
    return places


def _shared(chains: Sequence[Folders]) -> int:
    """How many of the outermost folders are the same in all."""
    depth = 0
    for parts in zip(*chains, strict=False):
        if len(set(parts)) > 1:
            break
        depth += 1
    return depth


def _refuse_depths(videos: Sequence[Video], chains: list[Folders]) -> None:
    """Folders within folders: either may be the classes."""
    deep = [at for at, chain in enumerate(chains) if len(chain) > 1]
    if not deep:
        return
    parents, tops = Counter(chain[-1] for chain in chains), Counter(chain[0] for chain in chains)
    above = defaultdict(set)
    for chain in chains:
        above[chain[-1]].add(chain[:-1])
    several = next(
        (f"; {name} occurs in {len(found)} places" for name, found in sorted(above.items()) if len(found) > 1), ""
    )
    raise ArchiveError(
        f"the class of {videos[deep[0]].shown} may be {chains[deep[0]][-1]} or {chains[deep[0]][0]}{several}: set "
        f"label on raw_archive to parent ({_classes(parents)}) or to top ({_classes(tops)}), or to csv with a CSV as "
        f"split_lists; {UNDERSTOOD}."
    )


def _classes(found: Counter[str]) -> str:
    names = sorted(found)
    return f"{len(names)} classes: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _refuse_label_files(videos: Sequence[Video], chains: list[Folders]) -> None:
    """Texts that seem to hold the classes: WebDataset's shards, or a folder a video with its label."""
    of_folder = Counter(chains)
    numbered = {re.sub(r"\d{4,}$", "0000", chain[-1]) for chain in chains} & {
        re.sub(r"\d+$", "", chain[-1]) + "0000" for chain in chains
    }
    shards = len(numbered) == 1 and all(video.label_file for video in videos)
    alone = len(of_folder) > 1 and set(of_folder.values()) == {1} and all(video.any_text for video in videos)
    for video in videos:
        if video.label_file.lower().endswith(".cls") or (video.label_file and (video.bare or shards)):
            beside = video.label_file
        elif alone:
            beside = video.any_text
        else:
            continue
        raise ArchiveError(
            f"{video.shown} lies beside {beside}, which seems to hold its class, as in WebDataset shards; such files "
            "are not read: put the videos into class folders, name the class of each in a CSV (docs/own_data.md), or "
            "set label: parent on raw_archive where the folders or archives are the classes."
        )


# --- names --------------------------------------------------------------------------------------------


def _rename(videos: Sequence[Video], arrangement: Arrangement) -> None:
    """Give videos of one class and name names that differ: the folders that hold them are put before."""
    clashing = defaultdict(list)
    for at, place in enumerate(arrangement.places):
        if place is not None:
            clashing[place.label, place.name].append(at)
    twice = [found for found in clashing.values() if len(found) > 1]
    taken = {key: found[0] for key, found in clashing.items() if len(found) == 1}
    wrapping = _shared([video.folders for video in videos])
    for at in (at for found in twice for at in found):
        place = arrangement.places[at]
        assert place is not None
        film = RULES[DEFAULT_RULE](place.name, place.label)
        place.group = place.group or film or ""
        around = [part for part in videos[at].folders[wrapping:] if part != place.label]
        place.name = "_".join([*around, place.name])
        if (other := taken.setdefault((place.label, place.name), at)) != at:
            raise ArchiveError(
                f"two members would become {place.label}/{place.name} ({videos[other].shown} and {videos[at].shown}): "
                "rename or remove one."
            )
        if len(place.name.encode()) > 255:
            raise ArchiveError(
                f"{videos[at].shown} needs another name, since its class has a video of the same one, and "
                "would get one of more than 255 bytes: rename it."
            )
    if twice:
        first = arrangement.places[twice[0][0]]
        assert first is not None
        arrangement.notes.append(
            f"{sum(map(len, twice))} videos share a name with another of their class and are renamed after their "
            f"folders, {first.label}/{first.name} for instance."
        )


# --- lists --------------------------------------------------------------------------------------------


def _by_lists(
    videos: Sequence[Video],
    chains: list[Folders],
    roles: list[str],
    label: str,
    listing: Listing,
    source: Path,
    notes: list[str],
) -> Arrangement:
    """Class, split and recording by lists; by folders the class where `label` says so, the split where lists do not."""
    around = source.absolute()
    base = around.parts if source.is_dir() else (*around.parent.parts, around.name.partition(".")[0])
    paths = [(*base, *video.folders, video.name) for video in videos]
    matched = listing.match(paths, len(base), source.name)
    found = matched.rows
    divided = any(row.role for _, row in listing.rows)
    if label in ("auto", "csv"):
        notes += [f"The classes are those of {listing.shown}."]
        labels = {at: rows[0][1].label for at, rows in found.items()}
        places = [Place(labels[at], video.name) if at in labels else None for at, video in enumerate(videos)]
        if left := places.count(None):
            notes.append(
                f"{left} videos are in no list and are left out, {videos[places.index(None)].shown} for instance."
            )
    else:
        places = list(_by_folders(videos, chains, label, notes))
    _refuse_contradictions(videos, places, found, label, listing)
    if any(roles) and divided:
        notes[:] = [note for note in notes if not note.endswith("for the split.")]
        differ = sum(row.role not in ("unused", roles[at]) for at, rows in found.items() for _, row in rows)
        notes.append(f"The split is that of {listing.shown}; {differ} of its lines say another than the folders.")
    arrangement = Arrangement(places, by_folders=any(roles) and not divided, notes=[*listing.notes, *notes])
    _rename(videos, arrangement)
    for at, rows in found.items():
        place = places[at]
        assert place is not None
        for number, row in rows:
            role = row.role if divided else roles[at]
            arrangement.rows.setdefault(number, []).append(Row(place.label, place.name, role, row.group or place.group))
    for number, row in matched.absent:
        role = row.role if divided or not any(roles) else "train"
        arrangement.rows.setdefault(number, []).append(row._replace(role=role))
    return arrangement


def _refuse_contradictions(
    videos: Sequence[Video],
    places: Sequence[Place | None],
    found: dict[int, list[tuple[int, Row]]],
    label: str,
    listing: Listing,
) -> None:
    """Refuse lists that give a video another class than its folder, where `label` does not choose."""
    if label == "csv":
        return
    for at, rows in found.items():
        place, row = places[at], rows[0][1]
        assert place is not None
        around = videos[at].folders
        other = (
            place.label if label != "auto" else next((part for part in reversed(around) if part in listing.labels), "")
        )
        if other and other != row.label and (label != "auto" or row.label not in around):
            raise ArchiveError(
                f"{listing.shown} gives {videos[at].shown} the class {row.label}, and its folder the class {other}: "
                "correct one of them, or set label: csv on raw_archive to go by the lists."
            )
