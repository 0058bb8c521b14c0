"""Removal of old versions and of abandoned work from an artifact store, never of anything that is needed.

Kept of each asset are

- the latest version, and any that a `latest` of a store inside this one points to;
- the newest `keep` versions;
- what an alias of the model registry stands for: the ONNX model, its test predictions, its serving model, and of the
  version that was champion before, to which `har rollback` returns;
- the versions that kept ones were made from, and those that these were made from, and so on;
- what a process is reading at this moment (it holds a lock on it, see har_assets.store.folder).

Nothing is half there at any moment: a version is renamed to a hidden name first, and deleted under that. What a killed
run leaves under such a name is deleted by the next one.

Work folders and caches that nothing has written to for some days go as well, unless their asset is being made.
A store in a bucket is pruned by har_assets.store.bucket_pruning, with the same rules of what is needed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from har_assets.errors import HarError
from har_assets.store.record import LATEST, RECORD_FILE, FolderArtifact, Record
from har_assets.system.files import Log, format_bytes, freed, modified, remove_tree, silent
from har_assets.system.locks import FolderLock, locked
from har_assets.tracking.registry import Registered

KEEP = 3
"""Versions of an asset that are kept because they are the newest, unless another number is named."""

OLDER_THAN_DAYS = 14.0
"""Days without a change after which unfinished work counts as abandoned, unless another number is named."""

TRASH_PREFIX = ".trash-"
WORK_PATTERNS = (".work*", ".downloads", ".timing_caches")
"""Names, beside the versions of an asset, of unfinished work and of what makes the next build faster."""

LOCKED_AT_ONCE = 100
"""Versions that are removed in one go; each takes a file handle, of which a process has about a thousand."""


@dataclass(frozen=True)
class Version:
    """A complete version of an asset."""

    place: Path
    """Its folder, or its path below the address of a bucket."""
    record: Record

    @property
    def words(self) -> str:
        """`onnx_model 3f0c9a1b2d4e of 2026-11-03 10:00: fp32`, for people."""
        record = self.record
        return f"{record.asset} {self.place.name} of {record.created[:16].replace('T', ' ')}: {record.headline}"

    @property
    def age(self) -> tuple[str, float]:
        """What versions are sorted by: the time at which they were made."""
        return self.record.created, modified(self.place)


@dataclass(frozen=True)
class Candidate:
    """Something that may go."""

    folder: Path
    """Its folder, or its path below the address of a bucket."""
    bytes: int
    """What its removal frees; packs that another version shares are not counted."""
    why: str
    """`onnx_model of 2026-11-03T10:00:00+00:00: ...`, for people."""
    kind: str
    """`version`, `work` or `trash`."""
    guard: Path
    """Folder whose lock says whether anyone uses it: its own, of unfinished work that of the asset."""


@dataclass(frozen=True)
class Plan:
    """What may go and what stays for which reason."""

    root: Path
    candidates: tuple[Candidate, ...]
    kept: dict[Path, str]
    """Version to the reason for which it stays."""
    left: tuple[tuple[Candidate, str], ...] = ()
    """In a bucket: versions that nothing needs but somebody may be reading, and until when they stay."""
    written: dict[Path, datetime] = field(default_factory=dict)
    """In a bucket: when anything was last written to a version."""

    @property
    def bytes(self) -> int:
        """What removing all candidates frees."""
        return sum(candidate.bytes for candidate in self.candidates)


@dataclass(frozen=True)
class Pruned:
    """What was removed, and what of the plan was not and why."""

    removed: tuple[Candidate, ...]
    left: tuple[tuple[Candidate, str], ...]

    @property
    def bytes(self) -> int:
        """What was freed."""
        return sum(candidate.bytes for candidate in self.removed)


def plan_pruning(
    root: Path,
    registered: Iterable[Registered] = (),
    *,
    keep: int = KEEP,
    older_than_days: float = OLDER_THAN_DAYS,
    going: frozenset[Path] | None = None,
) -> Plan:
    """Look what may go from the store at `root`; nothing is changed.

    Args:
        root: folder of the store.
        registered: versions of the model registry to keep, from `har_assets.tracking.registry`.
        keep: newest versions of each asset to keep, 1 or more.
        older_than_days: age of abandoned work and caches, 1 or more.
        going: the only versions that may go: those that the caller has locked. All others stay, and so does what they
            were made from. None asks for every version that may go.

    Raises:
        HarError: for a number that is too small.
    """
    if keep < 1 or older_than_days < 1:
        raise HarError(f"keep is {keep} and older_than_days {older_than_days:g}: choose 1 or more of each.")
    homes = list(asset_homes(root))
    versions = [_versions(home) for home in homes]
    latest = ((home / LATEST).resolve() for home in homes if (home / LATEST).is_symlink())
    kept = needed(versions, dict.fromkeys(latest, "it is the latest"), registered, keep=keep, going=going)
    candidates = [
        Candidate(version.place, freed(version.place), version.words, "version", version.place)
        # What was made from others goes before these: at no moment does a version stay whose inputs are gone.
        for version in sorted(itertools.chain(*versions), key=_age, reverse=True)
        if version.place not in kept
    ]
    for home in homes:
        candidates += _abandoned(home, older_than_days)
    return Plan(root, tuple(candidates), kept)


def plan_work_alone(root: Path, older_than_days: float = OLDER_THAN_DAYS) -> Plan:
    """Abandoned work and caches in a folder, no versions: what a store in a bucket has on this machine."""
    found = (candidate for home in asset_homes(root) for candidate in _abandoned(home, older_than_days))
    return Plan(root, tuple(found), {})


def needed(
    versions: Iterable[Sequence[Version]],
    known: dict[Path, str],
    registered: Iterable[Registered],
    *,
    keep: int,
    going: frozenset[Path] | None = None,
) -> dict[Path, str]:
    """Places of the versions that must stay, and why.

    Args:
        versions: those of each asset, the newest first.
        known: those to which a `latest` points, and others that stay whatever else holds.
        registered: versions of the model registry that an alias stands for.
        keep: newest versions of each asset to keep.
        going: as in `plan_pruning`.
    """
    by_home = list(versions)
    every = list(itertools.chain(*by_home))
    kept = dict(known)
    for found in by_home:
        for version in found[:keep]:
            kept.setdefault(version.place, f"it is one of the {keep} newest")
    for model in registered:
        for asset in ("onnx_model", "test_predictions", "serving_model"):
            found = [version for version in every if version.record.asset == asset]
            serving = [version for version in found if _stands_for(version, model)]
            _keep_one(serving, kept, f"{model.words} needs it")
    if going is not None:
        for version in every:
            if version.place not in going:
                kept.setdefault(version.place, "it is not to go now")
    _keep_lineages(every, kept)
    return kept


Replan = Callable[[frozenset[Path]], Plan]


def prune(plan: Plan, replan: Replan, log: Log = silent) -> Pruned:
    """Remove what a plan names, as far as a second look while it is locked still finds it removable.

    One prune at a time in a store, and none while `har promote` or `har rollback` moves an alias.

    Args:
        plan: from `plan_pruning`.
        replan: makes the plan once more, the registry asked again, with what it is given as `going`.
        log: takes a line for each thing removed or left.

    Raises:
        HarError: nothing can be written to the store, or what `replan` raises; what was removed by then is whole.
    """
    removed: list[Candidate] = []
    left: list[tuple[Candidate, str]] = []
    with locked(plan.root / "pruning", log):
        for at in range(0, len(plan.candidates), LOCKED_AT_ONCE):
            batch = plan.candidates[at : at + LOCKED_AT_ONCE]
            trash = _take_away(batch, plan.root, replan, left, log)
            for candidate, hidden in trash:
                remove_tree(hidden)
                removed.append(candidate)
                log(f"removed {candidate.why}, {format_bytes(candidate.bytes)}")
    for candidate, reason in left:
        log(f"left {candidate.why}, as {reason}")
    return Pruned(tuple(removed), tuple(left))


def _take_away(
    batch: Sequence[Candidate],
    root: Path,
    replan: Replan,
    left: list[tuple[Candidate, str]],
    log: Log,
) -> list[tuple[Candidate, Path]]:
    """Rename to hidden names what is still removable while nobody can begin to read it; it is deleted afterwards.

    A run that publishes something made from a candidate holds that candidate until it is published. So whatever can
    be locked here has all that was made from it in the store already, and the second plan sees it: it lets go only
    what nothing but other locked versions was made from.
    """
    trash = []
    with contextlib.ExitStack() as held:
        held.enter_context(locked(root / "promotion", log))
        locks: dict[Path, FolderLock | None] = {}
        for candidate in batch:
            if candidate.guard not in locks:
                locks[candidate.guard] = lock = FolderLock.exclusive(candidate.guard)
                if lock is not None:
                    held.callback(lock.release)
        mine = frozenset(candidate.folder for candidate in batch if locks[candidate.guard] is not None)
        still = {candidate.folder for candidate in replan(mine).candidates}
        for candidate in batch:
            if locks[candidate.guard] is None:
                left.append((candidate, "something uses it at this moment"))
                continue
            if candidate.folder not in still:
                left.append((candidate, "it is needed by now"))
                continue
            hidden = candidate.folder
            if candidate.kind != "trash":
                hidden = candidate.folder.with_name(f"{TRASH_PREFIX}{os.getpid()}-{time.time_ns()}")
                try:
                    candidate.folder.rename(hidden)
                except OSError as error:
                    left.append((candidate, f"it cannot be moved ({error.strerror})"))
                    continue
            trash.append((candidate, hidden))
    return trash


def asset_homes(root: Path, depth: int = 4) -> Iterator[Path]:
    """Folders that hold versions of an asset, those of stores inside this store too (split_evaluation)."""
    for folder in _folders(root):
        if folder.name.startswith(".") or (folder / RECORD_FILE).exists():
            continue
        inside = _folders(folder)
        if (folder / LATEST).is_symlink() or any(
            child.name.startswith(".") or (child / RECORD_FILE).exists() for child in inside
        ):
            yield folder
        if depth > 1:
            yield from asset_homes(folder, depth - 1)


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder, links to such left out; none where it cannot be read."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _versions(home: Path) -> list[Version]:
    """Complete versions, the newest first."""
    found = (FolderArtifact.read(folder) for folder in _folders(home) if not folder.name.startswith("."))
    return sorted((Version(artifact.folder, artifact.record) for artifact in found if artifact), key=_age, reverse=True)


def _age(version: Version) -> tuple[str, float]:
    return version.age


def _stands_for(version: Version, model: Registered) -> bool:
    record = version.record
    if record.asset == "serving_model":
        return record.metadata.get("registered") == {"name": model.name, "version": model.number}
    if not model.onnx_version:
        return False
    if record.asset == "onnx_model":
        return record.data_version == model.onnx_version
    return record.asset == "test_predictions" and record.inputs.get("onnx_model") == model.onnx_version


def _keep_one(found: Iterable[Version], kept: dict[Path, str], reason: str) -> list[Version]:
    """Keep, of equal versions, one in each folder: a kept one or the newest. Returns those that are kept by this."""
    by_home: dict[Path, list[Version]] = {}
    for version in found:
        by_home.setdefault(version.place.parent, []).append(version)
    chosen = []
    for equal in by_home.values():
        if not any(version.place in kept for version in equal):
            newest = max(equal, key=_age)
            kept[newest.place] = reason
            chosen.append(newest)
    return chosen


def _keep_lineages(every: list[Version], kept: dict[Path, str]) -> None:
    """Keep what kept versions were made from, and what that was made from."""
    by_version: dict[tuple[str, str], list[Version]] = {}
    for version in every:
        by_version.setdefault((version.record.asset, version.record.data_version), []).append(version)
    waiting = [version for version in every if version.place in kept]
    while waiting:
        child = waiting.pop()
        for source in child.record.inputs.items():
            reason = f"{child.record.asset} {child.place.name} was made from it"
            waiting += _keep_one(by_version.get(source, ()), kept, reason)


def _abandoned(home: Path, older_than_days: float) -> Iterator[Candidate]:
    """Trash of killed prunes, and work and caches that nothing has written to for so long."""
    before = time.time() - older_than_days * 86_400
    for folder in _folders(home):
        if folder.name.startswith(TRASH_PREFIX):
            yield Candidate(folder, freed(folder), f"{home.name}: what a killed prune has left", "trash", folder)
        elif any(folder.match(pattern) for pattern in WORK_PATTERNS):
            last = max((modified(path) for path in folder.rglob("*")), default=modified(folder))
            if max(last, modified(folder)) < before:
                days = (time.time() - last) / 86_400
                why = f"{home.name}/{folder.name}: untouched for {days:.0f} days"
                yield Candidate(folder, freed(folder), why, "work", home)
