"""Checks of manifests: each returns problems as sentences, none where all is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from har_assets.dataset.folder import videos_on_disk
from har_assets.dataset.groups import KNOWN, UNKNOWN
from har_assets.dataset.known import KnownDataset
from har_assets.dataset.manifests import TEST_FRACTION, Manifests, films_with_labels

if TYPE_CHECKING:
    from har_assets.dataset.fingerprints import Content

MANIFEST_CHECKS = {
    "films_on_both_sides": "No source film is on both sides of a border: train, validation and test share none "
    "(between these and test within a class). A warning where films are not known, or only inferred.",
    "equal_content": "No file is in train or validation and in test as well, nor of two classes.",
    "near_twins": "No test video looks like a training video, where recordings are not known. A warning.",
    "missing_files": "Every clip of the manifests is on disk, with the size that it had.",
    "duplicate_names": "No clip stands in the manifests twice.",
    "class_share": "About 30 % of each class are test clips. A warning where the data is not HMDB51.",
    "label_problems": "Label, index and folder of every clip agree with the class list.",
    "full_dataset_problems": "Where all of HMDB51 is claimed: 51 classes, 6,766 clips, 3,570 to train on and 1,530 "
    "to test.",
}


NOT_KNOWN = (
    "It is not known which videos are of one recording, so the split is by file: name the recordings with the option "
    "groups of the manifests."
)


def films_on_both_sides(manifests: Manifests) -> list[str]:
    """Films on two sides of a border.

    Between train and validation a film counts whatever its class. Between these and test it counts within
    its class only, which is what HMDB51's official lists hold: about 140 of 1,407 films show one action in
    train and another in test.
    """
    problems = []
    if manifests.summary.get("groups") == UNKNOWN:
        problems.append(NOT_KNOWN)
    for (role, part), (other_role, other) in combinations(manifests.items(), 2):
        if "test" in (role, other_role):
            shared = films_with_labels(part) & films_with_labels(other)
        else:
            shared = set(part["film"]) & set(other["film"])
        if shared:
            problems.append(f"{len(shared)} films are both in {role} and in {other_role}, {_first(sorted(shared))}.")
    return problems


def equal_content_in_test(manifests: Manifests, hashes: Mapping[str, str]) -> list[str]:
    """Test videos whose bytes are also those of a video of train or validation; `hashes` by clip."""
    trained = {hashes[clip]: clip for part in (manifests.train, manifests.val) for clip in part["clip"]}
    pairs = [f"{clip} = {trained[hashes[clip]]}" for clip in manifests.test["clip"] if hashes[clip] in trained]
    if not pairs:
        return []
    return [f"{len(pairs)} test videos are also in train or validation, byte for byte: {_some(pairs)}."]


def equal_content_in_classes(manifests: Manifests, hashes: Mapping[str, str]) -> list[str]:
    """Videos of one content in two classes; `hashes` by clip."""
    first: dict[str, tuple[str, str]] = {}
    pairs = []
    for _, part in manifests.items():
        for clip, label in zip(part["clip"], part["label"], strict=True):
            other, other_label = first.setdefault(hashes[clip], (clip, label))
            if other_label != label:
                pairs.append(f"{clip} = {other}")
    return [f"{len(pairs)} videos are in two classes, byte for byte: {_some(sorted(pairs))}."] if pairs else []


def near_twins(manifests: Manifests, videos: Path, content: Content) -> list[str]:
    """Share of test videos that look like one of train or validation, where recordings are not known.

    Raises:
        HarError: fingerprints cannot be computed.
    """
    import numpy as np

    from har_assets.dataset.recordings import TWINS, neighbours

    parts = [
        manifests.test["clip"].tolist(),
        [*manifests.train["clip"], *manifests.val["clip"]],
    ]
    if manifests.summary.get("groups", KNOWN) == KNOWN or not all(parts):
        return []
    (test_NF, seen_N), (train_MF, seen_M) = (content.fingerprints(videos, clips) for clips in parts)
    tested, trained = np.flatnonzero(seen_N), np.flatnonzero(seen_M)
    if not (len(tested) and len(trained)):
        return []
    distance_N1, nearest_N1 = neighbours(test_NF[tested], train_MF[trained], 1)
    order = np.argsort(distance_N1[:, 0], kind="stable")
    pairs = [
        f"{parts[0][tested[row]]} ~ {parts[1][trained[nearest_N1[row, 0]]]}"
        for row in order
        if distance_N1[row, 0] < TWINS
    ]
    if not pairs:
        return []
    return [f"{len(pairs) / len(tested):.0%} of the test videos look like one of train or validation: {_some(pairs)}."]


def missing_files(manifests: Manifests, videos: Path) -> list[str]:
    """Clips of the manifests that are not on disk, or not with the size they had."""
    problems = []
    sizes = {f"{label}/{name}": size for label, name, size in videos_on_disk(videos)}
    for role, part in manifests.items():
        absent = [clip for clip in part["clip"] if clip not in sizes]
        if absent:
            problems.append(f"{len(absent)} clips of {role} are not on disk, {_first(absent)}.")
        changed = [
            clip for clip, size in zip(part["clip"], part["bytes"], strict=True) if sizes.get(clip, size) != size
        ]
        if changed:
            problems.append(f"{len(changed)} clips of {role} have another size now, {_first(changed)}.")
    return problems


def duplicate_names(manifests: Manifests) -> list[str]:
    """Clips that stand twice in one manifest or in two."""
    import pandas as pd

    everything = pd.concat([part for _, part in manifests.items()])
    twice = sorted(set(everything.loc[everything["clip"].duplicated(), "clip"]))
    return [f"{len(twice)} clips stand in the manifests twice, {_first(twice)}."] if twice else []


def class_share(manifests: Manifests, *, tolerance: float = 0.05) -> list[str]:
    """Classes whose test share is not 30 %, by more than `tolerance` and more than one clip."""
    trained = Counter(manifests.train["label"]) + Counter(manifests.val["label"])
    tested = Counter(manifests.test["label"])
    problems = []
    for label in sorted(trained | tested):
        clips = trained[label] + tested[label]
        if abs(tested[label] - TEST_FRACTION * clips) > max(1.0, tolerance * clips):
            problems.append(f"{label} has {tested[label]} of {clips} clips in test, not {TEST_FRACTION:.0%} of them.")
    return problems


def label_problems(manifests: Manifests, class_names: tuple[str, ...]) -> list[str]:
    """Rows whose label, index and path do not agree with the class list."""
    problems = []
    for role, part in manifests.items():
        known = dict(enumerate(class_names))
        wrong = part[
            (part["label_index"].map(known) != part["label"])
            | (part["clip"].str.partition("/")[0] != part["label"] if len(part) else False)
        ]
        if len(wrong):
            problems.append(
                f"{len(wrong)} clips of {role} have a label that does not fit their index or folder, "
                f"{_first(wrong['clip'].tolist())}."
            )
    return problems


def full_dataset_problems(manifests: Manifests, class_names: tuple[str, ...], known: KnownDataset) -> list[str]:
    """Files and classes that a published data set lacks. Ask only where all of it is claimed."""
    summary = manifests.summary
    expected = {
        "classes": (len(class_names), len(known.classes)),
        "clips on disk": (summary["found"], known.clips),
        "clips listed": (summary["listed"], known.clips),
        "train clips, validation included": (len(manifests.train) + len(manifests.val), known.train_clips),
        "test clips": (len(manifests.test), known.test_clips),
        "unused clips": (summary["unused"], known.unused_clips),
    }
    problems = [f"{have} {what} instead of {want}." for what, (have, want) in expected.items() if have != want]
    if tuple(class_names) != known.classes:
        problems.append(f"The class list is not that of {known.title} in its order.")
    if summary["split"] not in known.splits:
        problems.append(
            f"Split {summary['split']} is not one of the official splits {', '.join(map(str, known.splits))}."
        )
    return problems


def check_manifests(
    manifests: Manifests,
    videos: Path,
    class_names: tuple[str, ...],
    claims: KnownDataset | None = None,
    content: Content | None = None,
) -> dict[str, list[str]]:
    """Run every check; name of the check -> problems.

    `claims`: the data set that this is said to be all of; `content`: without it nothing is said of the content.
    """
    problems = {
        "films_on_both_sides": films_on_both_sides(manifests),
        "missing_files": missing_files(manifests, videos),
        "duplicate_names": duplicate_names(manifests),
        "class_share": class_share(manifests),
        "label_problems": label_problems(manifests, class_names),
    }
    if content is not None:
        hashes = content.hashes
        problems["equal_content"] = [
            *equal_content_in_test(manifests, hashes),
            *equal_content_in_classes(manifests, hashes),
        ]
        problems["near_twins"] = near_twins(manifests, videos, content)
    if claims:
        problems["full_dataset_problems"] = full_dataset_problems(manifests, class_names, claims)
    return problems


def _some(pairs: list[str]) -> str:
    return ", ".join(pairs[:5]) + (", ..." if len(pairs) > 5 else "")


def _first(names: Iterable[str]) -> str:
    return f"the first is {next(iter(names))}"
