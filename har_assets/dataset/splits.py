"""Splits: which clip trains, which validates, which tests.

HMDB51's three official splits mark every clip 1 (train), 2 (test) or 0 (unused): 70, 30 and the rest of each
class. They have no validation set; here one is held out of train by source film, so that the best checkpoint
is not chosen on scenes that it was trained on.
"""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from har_assets.dataset.classes import HMDB51_SPLITS
from har_assets.dataset.fingerprints import Content
from har_assets.dataset.folder import videos_on_disk
from har_assets.dataset.groups import (
    AUTO,
    DEFAULT_RULE,
    FOLDER,
    INFERRED,
    KNOWN,
    NONE,
    RULES,
    TOLD,
    UNKNOWN,
    Rule,
    recording_of,
    rule_of,
)
from har_assets.dataset.lists import are_by_folders, read_split_lists
from har_assets.dataset.manifests import MANIFEST_COLUMNS, ROLES, TEST_FRACTION, Manifests, films_with_labels
from har_assets.dataset.recordings import find_recordings
from har_assets.errors import DatasetError

_ROUNDS = 10  # of improving the choice of films


def build_manifests(
    videos: Path,
    split_lists: Path | None,
    *,
    split: int,
    class_names: tuple[str, ...],
    val_fraction: float = 0.15,
    seed: int = 0,
    rule: Rule = RULES[DEFAULT_RULE],
    groups: str = AUTO,
    content: Content | None = None,
) -> Manifests:
    """Sort the videos of `videos/<class>/<file>` into train, validation and test.

    With `split_lists` the marks of split number `split` hold. Without, or where these give no marks, a seeded 70/30
    split by source film is made, another for each number. Validation is then taken out of train, unless the lists
    have one: whole films, so many that each class gives about `val_fraction` of its clips and keeps at least one.
    The result depends on the names, the seed and the arguments alone, not on the order of a directory.

    Args:
        videos: folder of class folders.
        split_lists: folder of the lists, or None.
        split: number of the split.
        class_names: class list in index order.
        val_fraction: share of train clips for validation, 0 for none.
        seed: for the choice of films.
        rule: by which a clip belongs to a film.
        groups: what tells the film of a clip, see `har_assets.dataset.groups`.
        content: hashes of the videos and a place for fingerprints; None leaves content out of account.

    Raises:
        DatasetError: `groups` finds nothing to read or is impossible, a split that the lists do not have, a class
            that is not in `class_names`, lists that contradict themselves, no clip to train on.
    """
    if not 0 <= val_fraction < 1:
        raise DatasetError(f"val_fraction is {val_fraction}: choose 0 (no validation) or more, below 1.")
    if len(set(class_names)) != len(class_names):
        raise DatasetError("the class list names a class twice: remove one of them.")
    found = _scan_videos(Path(videos), rule_of(groups, rule))
    _refuse_unknown(found["label"], class_names, f"{videos} holds folders")
    notes: list[str] = []
    by_folders = split_lists is not None and are_by_folders(split_lists)
    table, counts = found.assign(role=""), {"listed": 0, "absent": 0, "unlisted": 0}
    if split_lists is not None:
        table, counts = _with_lists(found, split_lists, split, class_names, take_groups=groups in (AUTO, FOLDER))
    if counts["absent"]:
        notes.append(f"{counts['absent']} of {counts['listed']} listed clips are not on disk.")
    if counts["unlisted"]:
        notes.append(f"{counts['unlisted']} videos on disk are in no list of split {split} and are left out.")
    table, knowledge, groups_found = _with_recordings(table, Path(videos), groups, content)
    if knowledge != KNOWN:
        notes.append(f"Recordings are {knowledge}{f', {groups_found}' if groups_found else ''}.")
    if (table["role"] == "").all():
        if split not in HMDB51_SPLITS:
            raise DatasetError(f"there is no split {split}: without split lists three are made, choose 1, 2 or 3.")
        table["role"] = "train"
        table["role"] = _take_films(table, TEST_FRACTION, f"test {seed} {split}", "test")
        how = "file" if knowledge == UNKNOWN else "film"
        source = f"seeded 70/30 by {how}"
        why = "There are no split lists" if split_lists is None or by_folders else "The lists give no split"
        notes.append(
            f"{why}: a 70/30 split by {how} was made with seed {seed}; its figures cannot be compared with published "
            "ones."
        )
    else:
        source = "folders" if by_folders else "lists"
        notes += _notes_on_roles(table, source)
    unused = int((table["role"] == "unused").sum())
    table = table[table["role"] != "unused"].copy()
    is_train = table["role"] == "train"
    if not is_train.any():
        raise DatasetError(
            f"split {split} leaves no clip to train on ({len(found)} videos in {videos}, {counts['listed']} listed, "
            f"{counts['absent']} of them absent): unpack more of the data set or choose another split."
        )
    if not (table["role"] == "val").any():
        table.loc[is_train, "role"] = _take_films(table[is_train], val_fraction, f"val {seed} {split}", "val")
    table = _finish(table, split, class_names)
    parts = {role: table[table["role"] == role].reset_index(drop=True) for role in ROLES}
    notes += _notes_on_parts(parts, class_names, val_fraction)
    summary = {
        "split": split,
        "source": source,
        "seed": seed,
        "val_fraction": val_fraction,
        "listed": counts["listed"],
        "found": len(found),
        "absent": counts["absent"],
        "unlisted": counts["unlisted"],
        "unused": unused,
        **{role: len(part) for role, part in parts.items()},
        "classes": len(class_names),
        "classes_with_train_clips": int(parts["train"]["label"].nunique()),
        "per_class": _per_class(parts, class_names),
        "films": {role: int(part["film"].nunique()) for role, part in parts.items()},
        "groups": knowledge,
        "groups_found": groups_found,
        "notes": notes,
    }
    return Manifests(parts["train"], parts["val"], parts["test"], summary)


def _scan_videos(videos: Path, rule: Rule) -> pd.DataFrame:
    """One row a video: label, name, bytes, film, named (the name tells its film)."""
    rows = [
        (label, name, size, *recording_of(name, label, rule)) for label, name, size in sorted(videos_on_disk(videos))
    ]
    return pd.DataFrame(rows, columns=["label", "name", "bytes", "film", "named"])


def _with_lists(
    found: pd.DataFrame, split_lists: Path, split: int, class_names: tuple[str, ...], *, take_groups: bool
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The videos that are listed, with their roles and the films that lists name, and how many are listed."""
    lists = read_split_lists(split_lists, split).drop(columns="split")
    _refuse_unknown(lists["label"], class_names, f"{split_lists} holds lists")
    both = found.merge(lists, on=["label", "name"], how="outer", indicator=True)
    counts = {
        "listed": len(lists),
        "absent": int((both["_merge"] == "right_only").sum()),
        "unlisted": int((both["_merge"] == "left_only").sum()),
    }
    table = both[both["_merge"] == "both"].drop(columns="_merge")
    if "group" in table and take_groups:
        is_told = table["group"] != ""
        table["film"] = table["film"].where(~is_told, table["group"])
        table["named"] |= is_told
    return table, counts


def _with_recordings(
    table: pd.DataFrame, videos: Path, groups: str, content: Content | None
) -> tuple[pd.DataFrame, str, str]:
    """The table with the films that are known or inferred, which of the two, and how. Raises DatasetError."""
    table = table.reset_index(drop=True)
    named = table["named"].to_numpy(dtype=bool)
    if groups not in (AUTO, NONE) and not named.any():
        raise DatasetError(
            f"groups is {groups!r}, and that tells the recording of no video: "
            + ("materialize raw_archive with label: top." if groups == FOLDER else "correct it, or choose auto.")
        )
    clips_N = (table["label"] + "/" + table["name"]).tolist()
    knowledge, how = (KNOWN, "") if len(table) and named.mean() >= TOLD else (UNKNOWN, "")
    if knowledge == UNKNOWN and groups == AUTO and content is not None:
        found = find_recordings(clips_N, *content.fingerprints(videos, clips_N))
        if found is not None:
            knowledge, how = INFERRED, found.how
            table["film"] = table["film"].where(named, found.groups_N)
    if knowledge != KNOWN and content is not None:
        table["film"] = _merged(table["film"].tolist(), [content.hashes[clip] for clip in clips_N])
    return table, knowledge, how


def _merged(films_N: list[str], hashes_N: list[str]) -> list[str]:
    """Films, those that have a video of equal content made one, under the name that comes first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, film_N = np.unique(np.array(films_N, dtype=str), return_inverse=True)
    _, first_N, content_N = np.unique(np.array(hashes_N, dtype=str), return_index=True, return_inverse=True)
    links = coo_array((np.ones(len(film_N), dtype=np.int8), (film_N, film_N[first_N[content_N]])), (len(names),) * 2)
    merged_F = connected_components(links, directed=False)[1]
    _, first_G = np.unique(merged_F, return_index=True)
    return [str(name) for name in names[first_G[merged_F[film_N]]]]


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


def _notes_on_roles(table: pd.DataFrame, source: str) -> list[str]:
    """Where the split comes from, other than lists of train and test as HMDB51 has them."""
    roles = set(table["role"])
    notes = []
    if source == "folders":
        notes.append("The split is that of the source's folders for train, validation and test.")
    if "val" in roles:
        notes.append(f"The validation set is that of the {source}: val_fraction is not used.")
    elif source == "folders":
        notes.append("There is no folder for validation: it is held out of train by whole films, see val_fraction.")
    if "val" in roles and "test" not in roles:
        notes.append(
            f"The {source} have no test set: name the validation set test instead to evaluate on it, and validation is "
            "held out of train."
        )
    return notes


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
        within = films_with_labels(trained) & films_with_labels(parts["test"])
        notes.append(
            f"{len(shared)} films are both in train or validation and in test, {len(within)} of them with "
            "the same class."
        )
    return notes
