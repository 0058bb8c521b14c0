"""Manifests: which clip trains, which validates, which tests.

HMDB51's three official splits mark every clip 1 (train), 2 (test) or 0 (unused): 70, 30 and the rest of each
class. They have no validation set; here one is held out of train by source film, so that the best checkpoint
is not chosen on scenes that it was trained on.

A manifest is a table with one row a clip, sorted by `clip`:

=============  =====================================================================================
clip           path below the video folder, `<class>/<file>`
label          class name
label_index    place of the class in the class list
film           source film; `<class>/<stem>` where the file name does not tell one
split          number of the split
role           `train`, `val` or `test`
bytes          file size
=============  =====================================================================================
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from har_assets.dataset.classes import (
    HMDB51_CLASSES,
    HMDB51_CLIPS,
    HMDB51_SPLITS,
    HMDB51_TEST_CLIPS,
    HMDB51_TRAIN_CLIPS,
    HMDB51_UNUSED_CLIPS,
    parse_clip_name,
    source_film,
)
from har_assets.errors import DatasetError
from har_assets.video.walk import class_videos

MANIFEST_COLUMNS = {
    "clip": "str",
    "label": "str",
    "label_index": "int64",
    "film": "str",
    "split": "int64",
    "role": "str",
    "bytes": "int64",
}
"""Columns of a manifest and their types, in order."""

TEST_FRACTION = 0.3
"""Share of each class that tests: 30 of 100 in the official lists, and in the split made without lists."""

_ROUNDS = 10  # of improving the choice of films

_LIST_NAME = re.compile(r"(?P<label>.+)_test_split(?P<split>\d+)\.txt")
_ROLE_OF_MARK = {"0": "unused", "1": "train", "2": "test"}


@dataclass(frozen=True)
class Manifests:
    """The three tables of one split and what was counted while they were made."""

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    """Holds every test clip on disk, those included that may later prove undecodable."""
    summary: dict[str, Any]
    """JSON-ready: split, source, seed, listed, found, absent, unused, unlisted, train, val, test, per_class,
    films, notes (plain sentences)."""

    def items(self) -> tuple[tuple[str, pd.DataFrame], ...]:
        """Return (role, table) of all three."""
        return (("train", self.train), ("val", self.val), ("test", self.test))


def read_split_lists(folder: Path, split: int | None = None) -> pd.DataFrame:
    """Read every `<class>_test_split<k>.txt` at or below `folder`, or those of one split.

    Returns a table with one row a clip and split: label, name, split, role (`train`, `test`, `unused`).

    Raises:
        DatasetError: no list, none of that split, a line that is not `NAME 0|1|2`, one clip with two roles in
            a split.
    """
    paths = [
        (path, match["label"], int(match["split"]))
        for path in sorted(Path(folder).rglob("*_test_split*.txt"))
        if (match := _LIST_NAME.fullmatch(path.name))
    ]
    if not paths:
        raise DatasetError(
            f"{folder} holds no split list: expected files named CLASS_test_split1.txt, as in HMDB51's "
            "test_train_splits.rar."
        )
    known = sorted({number for _, _, number in paths})
    if split is not None and split not in known:
        raise DatasetError(f"there is no split {split} in {folder}: choose one of {', '.join(map(str, known))}.")
    rows: list[tuple[str, str, int, str]] = []
    for path, label, number in paths:
        if split in (None, number):
            rows += _read_split_list(path, label, number)
    lists = pd.DataFrame(rows, columns=["label", "name", "split", "role"]).drop_duplicates()
    key = ["split", "label", "name"]
    twice = lists[lists.duplicated(key, keep=False)].sort_values([*key, "role"])
    if len(twice):
        first = twice.iloc[0]
        raise DatasetError(
            f"split {first['split']} lists {first['name']} of class {first['label']} twice with different "
            "marks: keep one of the lines."
        )
    return lists.sort_values(key, ignore_index=True)


def _read_split_list(path: Path, label: str, split: int) -> list[tuple[str, str, int, str]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a text in UTF-8: fetch the split lists again.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *marks = line.rsplit(maxsplit=1)
        role = _ROLE_OF_MARK.get("".join(marks))
        if role is None:
            raise DatasetError(
                f"line {number} of {path} is {line!r}, not a file name and 1 (train), 2 (test) or 0 "
                "(unused): correct it or fetch the split lists again."
            )
        rows.append((label, name.strip(), split, role))
    return rows


def build_manifests(
    videos: Path,
    split_lists: Path | None,
    *,
    split: int,
    class_names: tuple[str, ...],
    val_fraction: float = 0.15,
    seed: int = 0,
) -> Manifests:
    """Sort the videos of `videos/<class>/<file>` into train, validation and test.

    With `split_lists` the marks of split number `split` hold. Without, a seeded 70/30 split by source film is
    made, another for each number. Validation is then taken out of train: whole films, so many that each
    class gives about `val_fraction` of its clips and keeps at least one. The result depends on the names, the
    seed and the arguments alone, not on the order of a directory.

    Args:
        videos: folder of class folders.
        split_lists: folder of the lists, or None.
        split: number of the split.
        class_names: class list in index order.
        val_fraction: share of train clips for validation, 0 for none.
        seed: for the choice of films.

    Raises:
        DatasetError: a split that the lists do not have, a class that is not in `class_names`, lists that
            contradict themselves, no clip to train on.
    """
    if not 0 <= val_fraction < 1:
        raise DatasetError(f"val_fraction is {val_fraction}: choose 0 (no validation) or more, below 1.")
    if len(set(class_names)) != len(class_names):
        raise DatasetError("the class list names a class twice: remove one of them.")
    found = _scan_videos(Path(videos))
    _refuse_unknown(found["label"], class_names, f"{videos} holds folders")
    notes: list[str] = []
    if split_lists is None:
        if split not in HMDB51_SPLITS:
            raise DatasetError(f"there is no split {split}: without split lists three are made, choose 1, 2 or 3.")
        table = found.assign(role="train")
        table["role"] = _take_films(table, TEST_FRACTION, f"test {seed} {split}", "test")
        listed = absent = unlisted = 0
        how = "film" if table["named"].any() else "file"
        source = f"seeded 70/30 by {how}"
        notes.append(
            f"There are no split lists: a 70/30 split by {how} was made with seed {seed}; its figures "
            "cannot be compared with published ones."
        )
    else:
        source = "lists"
        lists = read_split_lists(split_lists, split).drop(columns="split")
        _refuse_unknown(lists["label"], class_names, f"{split_lists} holds lists")
        both = found.merge(lists, on=["label", "name"], how="outer", indicator=True)
        listed, absent = len(lists), int((both["_merge"] == "right_only").sum())
        unlisted = int((both["_merge"] == "left_only").sum())
        table = both[both["_merge"] == "both"].drop(columns="_merge")
        if absent:
            notes.append(f"{absent} of {listed} listed clips are not on disk.")
        if unlisted:
            notes.append(f"{unlisted} videos on disk are in no list of split {split} and are left out.")
    unused = int((table["role"] == "unused").sum())
    table = table[table["role"] != "unused"].copy()
    is_train = table["role"] == "train"
    if not is_train.any():
        raise DatasetError(
            f"split {split} leaves no clip to train on ({len(found)} videos in {videos}, {listed} listed, "
            f"{absent} of them absent): unpack more of the data set or choose another split."
        )
    table.loc[is_train, "role"] = _take_films(table[is_train], val_fraction, f"val {seed} {split}", "val")
    table = _finish(table, split, class_names)
    parts = {role: table[table["role"] == role].reset_index(drop=True) for role in ("train", "val", "test")}
    notes += _notes_on_parts(parts, class_names, val_fraction)
    summary = {
        "split": split,
        "source": source,
        "seed": seed,
        "val_fraction": val_fraction,
        "listed": listed,
        "found": len(found),
        "absent": absent,
        "unlisted": unlisted,
        "unused": unused,
        **{role: len(part) for role, part in parts.items()},
        "classes": len(class_names),
        "classes_with_train_clips": int(parts["train"]["label"].nunique()),
        "per_class": _per_class(parts, class_names),
        "films": {role: int(part["film"].nunique()) for role, part in parts.items()},
        "notes": notes,
    }
    return Manifests(parts["train"], parts["val"], parts["test"], summary)


def _scan_videos(videos: Path) -> pd.DataFrame:
    """One row a video: label, name, bytes, film, named (the name follows HMDB51's scheme)."""
    if not videos.is_dir():
        raise DatasetError(f"there is no folder {videos}: unpack the videos first (asset video_clips).")
    rows = list(class_videos(videos))
    if not rows:
        raise DatasetError(f"{videos} holds no video in a class folder: unpack the videos again.")
    table = pd.DataFrame(rows, columns=["label", "name", "bytes"]).sort_values(["label", "name"], ignore_index=True)
    names = list(zip(table["label"], table["name"], strict=True))
    parsed = [parse_clip_name(name, label) for label, name in names]
    table["named"] = [clip is not None for clip in parsed]
    table["film"] = [
        clip.film if clip else f"{label}/{source_film(name, label)}"
        for clip, (label, name) in zip(parsed, names, strict=True)
    ]
    return table


def _refuse_unknown(labels: "pd.Series[str]", class_names: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(labels) - set(class_names)):
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DatasetError(
            f"{where} of {len(unknown)} classes that are not in the class list ({shown}): remove them, or "
            "take the class list from this data set."
        )


def _take_films(table: pd.DataFrame, fraction: float, seed: str, role: str) -> list[str]:
    """Return the roles of `table` with about `fraction` of every class, whole films, changed to `role`.

    Films come in an order drawn from the seed, in a few rounds. One is taken (or given back) where that
    lessens the squared distance of the classes from their targets and leaves every class a clip. A film may
    show several classes (HMDB51's 1,407 films make 2,291 pairs of film and class) and moves with all of them.
    """
    labels, label_codes = np.unique(table["label"].to_numpy(dtype=str), return_inverse=True)
    films, film_codes = np.unique(table["film"].to_numpy(dtype=str), return_inverse=True)
    clips_FK = np.zeros((len(films), len(labels)), dtype=np.int64)
    np.add.at(clips_FK, (film_codes, label_codes), 1)
    left_K = clips_FK.sum(axis=0)
    missing_K = np.rint(fraction * left_K).astype(np.int64)
    taken_F = np.zeros(len(films), dtype=bool)
    order = sorted(range(len(films)), key=lambda index: _drawn(seed, str(films[index])))
    for _ in range(_ROUNDS):
        before_F = taken_F.copy()
        for film in order:
            moved_K = -clips_FK[film] if taken_F[film] else clips_FK[film]
            gain = (missing_K**2).sum() - ((missing_K - moved_K) ** 2).sum()
            if gain > 0 and (left_K - moved_K).min() > 0:
                taken_F[film] = not taken_F[film]
                missing_K = missing_K - moved_K
                left_K = left_K - moved_K
        if (taken_F == before_F).all():
            break
    roles: list[str] = np.where(taken_F[film_codes], role, table["role"].to_numpy(dtype=str)).tolist()
    return roles


def _drawn(seed: str, film: str) -> bytes:
    """Return a sort key that looks random and is the same on every machine and NumPy version."""
    return hashlib.sha256(f"{seed}\0{film}".encode("utf-8", "surrogatepass")).digest()


def _finish(table: pd.DataFrame, split: int, class_names: tuple[str, ...]) -> pd.DataFrame:
    index_of = {name: index for index, name in enumerate(class_names)}
    table = table.assign(
        clip=table["label"] + "/" + table["name"],
        label_index=table["label"].map(index_of),
        split=split,
    )
    return table[list(MANIFEST_COLUMNS)].astype(MANIFEST_COLUMNS).sort_values("clip", ignore_index=True)


def _per_class(parts: dict[str, pd.DataFrame], class_names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    counts = {role: Counter(part["label"]) for role, part in parts.items()}
    return {name: {role: counts[role][name] for role in parts} for name in class_names}


def _notes_on_parts(parts: dict[str, pd.DataFrame], class_names: tuple[str, ...], val_fraction: float) -> list[str]:
    notes = []
    if parts["val"].empty:
        why = "none was asked for" if val_fraction == 0 else "the classes have too few clips or films"
        notes.append(
            f"The validation set is empty ({why}): the last checkpoint is kept instead of the best one, and "
            "training does not stop early."
        )
    if parts["test"].empty:
        notes.append("The test set is empty: the model cannot be evaluated.")
    if without := sorted(set(class_names) - set(parts["train"]["label"])):
        notes.append(f"{len(without)} of {len(class_names)} classes have no clip to train on.")
    trained = pd.concat([parts["train"], parts["val"]])
    if shared := set(trained["film"]) & set(parts["test"]["film"]):
        within = _films_with_labels(trained) & _films_with_labels(parts["test"])
        notes.append(
            f"{len(shared)} films are both in train or validation and in test, {len(within)} of them with "
            "the same class."
        )
    return notes


# --- storing ---------------------------------------------------------------------------------------


def write_manifest(manifest: pd.DataFrame, path: Path) -> None:
    """Write a manifest as CSV, the same bytes for the same table."""
    manifest[list(MANIFEST_COLUMNS)].to_csv(path, index=False, lineterminator="\n")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read what `write_manifest` wrote; a class named `nan` or `NA` stays a text.

    Raises:
        DatasetError: no such file, or columns are missing.
    """
    if not Path(path).is_file():
        raise DatasetError(f"there is no manifest {path}: materialize train_manifest again.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [column for column in MANIFEST_COLUMNS if column not in table]:
        raise DatasetError(
            f"{path} is not a manifest, it lacks {', '.join(missing)}: materialize train_manifest again."
        )
    return table[list(MANIFEST_COLUMNS)].astype(MANIFEST_COLUMNS)


# --- checks: each returns problems as sentences, none where all is well ------------------------------


def films_on_both_sides(manifests: Manifests) -> list[str]:
    """Films on two sides of a border.

    Between train and validation a film counts whatever its class. Between these and test it counts within
    its class only, which is what HMDB51's official lists hold: about 140 of 1,407 films show one action in
    train and another in test.
    """
    problems = []
    for (role, part), (other_role, other) in combinations(manifests.items(), 2):
        if "test" in (role, other_role):
            shared = _films_with_labels(part) & _films_with_labels(other)
        else:
            shared = set(part["film"]) & set(other["film"])
        if shared:
            problems.append(f"{len(shared)} films are both in {role} and in {other_role}, {_first(sorted(shared))}.")
    return problems


def _films_with_labels(part: pd.DataFrame) -> set[str]:
    return set(part["film"] + " (" + part["label"] + ")")


def missing_files(manifests: Manifests, videos: Path) -> list[str]:
    """Clips of the manifests that are not on disk, or not with the size they had."""
    problems = []
    sizes = {
        f"{label}/{name}": size
        for label, name, size in _scan_videos(Path(videos))[["label", "name", "bytes"]].itertuples(index=False)
    }
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


def full_dataset_problems(manifests: Manifests, class_names: tuple[str, ...] = HMDB51_CLASSES) -> list[str]:
    """What is missing from the full HMDB51. Ask only where the full data set is claimed."""
    summary = manifests.summary
    expected = {
        "classes": (len(class_names), len(HMDB51_CLASSES)),
        "clips on disk": (summary["found"], HMDB51_CLIPS),
        "clips listed": (summary["listed"], HMDB51_CLIPS),
        "train clips, validation included": (
            len(manifests.train) + len(manifests.val),
            HMDB51_TRAIN_CLIPS,
        ),
        "test clips": (len(manifests.test), HMDB51_TEST_CLIPS),
        "unused clips": (summary["unused"], HMDB51_UNUSED_CLIPS),
    }
    problems = [f"{have} {what} instead of {want}." for what, (have, want) in expected.items() if have != want]
    if tuple(class_names) != HMDB51_CLASSES:
        problems.append("The class list is not that of HMDB51 in its order.")
    if summary["split"] not in HMDB51_SPLITS:
        problems.append(f"Split {summary['split']} is not one of the official three.")
    return problems


def check_manifests(
    manifests: Manifests, videos: Path, class_names: tuple[str, ...], *, full_dataset: bool = False
) -> dict[str, list[str]]:
    """Run every check; name of the check -> problems. `full_dataset` adds the counts of the full HMDB51."""
    problems = {
        "films_on_both_sides": films_on_both_sides(manifests),
        "missing_files": missing_files(manifests, videos),
        "duplicate_names": duplicate_names(manifests),
        "class_share": class_share(manifests),
        "label_problems": label_problems(manifests, class_names),
    }
    if full_dataset:
        problems["full_dataset_problems"] = full_dataset_problems(manifests, class_names)
    return problems


def _first(names: Iterable[str]) -> str:
    return f"the first is {next(iter(names))}"
