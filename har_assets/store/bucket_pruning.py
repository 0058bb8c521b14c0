"""Removal of old versions from a bucket, whose readers on other machines cannot be detected.

It keeps what `har_assets.store.pruning` keeps. What nothing needs goes in one pass, once nobody can be reading it: it
was superseded, which means that it ceased to be the latest version, longer ago than the grace period, and every run has
ended that began before that. When it was superseded is derived from the times of the objects:

- the record of a version is written last, and `latest` right after it, so the next record of an asset supersedes;
- a version that was found again by its key counts as written then (`ArtifactBucket.point_to` leaves an object);
- the `latest` of a store inside this one may have named any version until it was moved.

The record of a version goes first, without which it is no version, then its files; a version goes before those that it
was made from. If it is found again at that very moment, its record is put back. A prune that is killed leaves versions
whole or without a record, and the next one goes on. A reader that comes too late gets a sentence that says so, and a
step is tried again with the newest version; a reader that has its copy needs the bucket no more.

The clocks of machines count: those that S3 lets in differ from its own by 15 minutes at most.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from har_assets.errors import HarError
from har_assets.store.bucket import ArtifactBucket, stamp_of
from har_assets.store.copies import ABANDONED
from har_assets.store.pruning import KEEP, Candidate, Plan, Pruned, Version, needed
from har_assets.store.record import LATEST, RECORD_FILE, FolderArtifact, Record
from har_assets.store.remote_folder import PARTS_AT_ONCE, RemoteObject
from har_assets.system.files import Log, format_bytes, silent
from har_assets.tracking.registry import Registered

GRACE_HOURS = 24.0
"""Hours that a superseded version stays, unless another number is named: longer than anything reads that is no run."""

CLOCKS_S = 1800.0
"""Most by which the clocks of two machines differ, seconds: each by 15 minutes from that of the bucket."""

CONDEMNED_PREFIX = ".condemned-"
"""Of objects by which earlier releases marked versions that were to go. They mean nothing now, and are removed."""


def plan_bucket(
    store: ArtifactBucket,
    registered: Iterable[Registered] = (),
    *,
    keep: int = KEEP,
    grace: timedelta = timedelta(hours=GRACE_HOURS),
    at_work_since: float | None = None,
) -> Plan:
    """Look what may go from a bucket; nothing is changed. One listing, and a request for each record not at hand.

    Args:
        store: the bucket.
        registered: versions of the model registry to keep, from `har_assets.tracking.registry`.
        keep: newest versions of each asset to keep, 1 or more.
        grace: how long a superseded version stays.
        at_work_since: start of the run that has been at work longest, seconds since 1970; None where none is.

    Raises:
        HarError: a number that is too small. StorageError.
    """
    if keep < 1:
        raise HarError(f"keep is {keep}: choose 1 or more.")
    objects, now = store.remote.objects(), datetime.now(UTC)
    sizes: dict[Path, int] = {}
    written: dict[Path, datetime] = {}
    moved: dict[Path, datetime] = {}
    for path, found in objects.items():
        if place := _version_of(path):
            sizes[place] = sizes.get(place, 0) + found.bytes
            written[place] = max(written.get(place, found.written), found.written)
        elif path.endswith(f"/{LATEST}"):
            moved[Path(path).parent] = found.written
    complete = sorted(_complete(store, sizes, objects), key=lambda version: version.age, reverse=True)
    homes: dict[Path, list[Version]] = {}
    for version in complete:
        homes.setdefault(version.place.parent, []).append(version)

    def waits(place: Path, at_last: datetime | None) -> str:
        """Why a version that nothing needs may not go yet; empty where it may.

        `at_last`: when it was superseded at the latest, where no version was written after it.
        """
        home = place.parent
        others = (written[other.place] for other in homes.get(home, ()))
        superseded = min((at for at in others if at > written[place]), default=at_last)
        if superseded is None:
            return "nothing has superseded it"
        superseded = max(superseded, written[place], *(moved[inner] for inner in moved if _is_inside(inner, home)))
        if now < superseded + grace:
            return f"it may go after {superseded + grace:%Y-%m-%d %H:%M} UTC"
        if at_work_since is not None and at_work_since < superseded.timestamp() + CLOCKS_S:
            return f"a run is at work that began before it was superseded ({superseded:%Y-%m-%d %H:%M} UTC)"
        return ""

    latest = {_named_by(store, home): "it is the latest" for home in moved}
    needs = needed(homes.values(), latest, registered, keep=keep)
    idle = (version.place for version in complete if version.place not in needs)
    late = {place: why for place in idle if (why := waits(place, moved.get(place.parent)))}
    kept = needed(homes.values(), {**needs, **late}, registered, keep=keep)  # with what those were made from
    going: list[Candidate] = []
    left: list[tuple[Candidate, str]] = []
    # What was made from others goes before these: at no moment does a version stay whose inputs are gone.
    for version in complete:
        candidate = Candidate(version.place, sizes[version.place], version.words, "version", version.place)
        if version.place not in kept:
            going.append(candidate)
        elif version.place not in needs:
            left.append((candidate, kept[version.place]))
    for place in sizes.keys() - {version.place for version in complete}:
        made = stamp_of(place.name)
        if not waits(place, None) or (made and made < now - ABANDONED):
            why = f"{place}: what a killed upload or prune has left"
            going.append(Candidate(place, sizes[place], why, "trash", place))
    return Plan(store.root, tuple(going), kept, tuple(left), written)


def prune_bucket(store: ArtifactBucket, replan: Callable[[], Plan], log: Log = silent) -> Pruned:
    """Remove what a plan names that is made here, while no other prune or promotion is at it on any machine.

    Args:
        store: the bucket.
        replan: makes the plan, the registry and the runs asked anew.
        log: takes a line for each thing removed or left.

    Raises:
        HarError: what `replan` raises. StorageError; what was removed by then is whole.
    """
    remote = store.remote
    removed: list[Candidate] = []
    with store.alone(log) as refuse_lost:
        plan = replan()
        left = list(plan.left)
        for candidate in plan.candidates:
            refuse_lost()
            if _take_away(store, candidate.folder, plan.written[candidate.folder]):
                removed.append(candidate)
                log(f"removed {candidate.why}, {format_bytes(candidate.bytes)}")
            else:
                left.append((candidate, "it is in use again"))
        marks = [path for path in remote.listing() if PurePosixPath(path).name.startswith(CONDEMNED_PREFIX)]
        remote.remove_objects(marks)
    for candidate, reason in left:
        log(f"left {candidate.why}, as {reason}")
    return Pruned(tuple(removed), tuple(left))


def _take_away(store: ArtifactBucket, place: Path, written: datetime) -> bool:
    """Remove a version, its record first, unless anything was written to it since the plan was made."""
    remote, record = store.remote, f"{place}/{RECORD_FILE}"

    def written_since(found: dict[str, RemoteObject]) -> bool:
        return any(each.written > written for each in found.values())

    if written_since(remote.objects(str(place))):
        return False
    content = remote.read_object(record)
    remote.remove_objects([record])
    rest = remote.objects(str(place))
    if not written_since(rest):
        remote.remove_objects([f"{place}/{name}" for name in rest])
        return True
    if content:  # whoever has found it again may have seen the record, and makes it the latest version
        remote.write_object(record, content)
    return False


def _version_of(path: str) -> Path | None:
    """Place of the version that an object belongs to."""
    folders = Path(path).parts[:-1]
    depth = next((at for at, folder in enumerate(folders) if stamp_of(folder)), None)
    return Path(*folders[: depth + 1]) if depth else None


def _complete(store: ArtifactBucket, places: Iterable[Path], objects: Container[str]) -> list[Version]:
    """Versions that have a record."""
    recorded = [place for place in places if f"{place}/{RECORD_FILE}" in objects]

    def read(place: Path) -> Version | None:
        copy = FolderArtifact.read(store.root / place)  # never written twice, so a copy of it will do
        record = copy.record if copy else Record.parse(store.remote.read_object(f"{place}/{RECORD_FILE}") or b"")
        return Version(place, record) if record else None

    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        return [version for version in pool.map(read, recorded) if version]


def _named_by(store: ArtifactBucket, home: Path) -> Path:
    """Place of the version that the `latest` of an asset names."""
    content = store.remote.read_object(f"{home}/{LATEST}") or b""
    return Path(posixpath.normpath(home / content.decode(errors="replace").strip()))


def _is_inside(inner: Path, home: Path) -> bool:
    """Whether one asset is another one, in a store inside the store of that."""
    return inner != home and inner.name == home.name and inner.is_relative_to(home.parent)
