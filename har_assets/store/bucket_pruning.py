"""Removal of old versions from a bucket, whose readers on other machines cannot be detected.

It keeps what `har_assets.store.pruning` keeps, and whatever was uploaded since the start of a run that is still at
work, as that may be a part of a product that is not there yet. Locks end at the machine, so a version that nothing
needs is deleted in two passes:

1. One prune condemns it: the object `<asset>/.condemned-<version>` says since when. From then on `ArtifactBucket.find`
   passes it over, so nothing new is made from it; whoever reads it reads on.
2. A prune after the grace period removes it, if it is still not needed and every run has ended that was at work when it
   was condemned. Its record goes first, without which it is no version, then its files, then the object that condemns
   it.

A condemned version that is needed after all (an alias returned to it, a run published what it made from it) is
pardoned. A prune that is killed leaves versions whole or without a record, and the next one goes on; two at once do the
same twice. A reader that comes too late gets a sentence that says so, and a step is tried again with the newest
version; a reader that has its copy needs the bucket no more.

The clocks of machines count: those that S3 lets in differ from its own by 15 minutes at most.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from har_assets.errors import HarError
from har_assets.store.bucket import CONDEMNED_PREFIX, ArtifactBucket, stamp_of
from har_assets.store.copies import ABANDONED
from har_assets.store.pruning import KEEP, Version, needed
from har_assets.store.record import LATEST, RECORD_FILE, FolderArtifact, Record
from har_assets.store.remote_folder import PARTS_AT_ONCE, RemoteFolder
from har_assets.system.files import Log, format_bytes, silent
from har_assets.system.locks import locked
from har_assets.tracking.registry import Registered

GRACE_HOURS = 24.0
"""Hours between the two passes, unless another number is named: longer than anything reads that is no run."""

CLOCKS_S = 1800.0
"""Most by which the clocks of two machines differ, seconds: each by 15 minutes from that of the bucket."""


@dataclass(frozen=True)
class Doomed:
    """A version that is not needed, or what is left of one."""

    place: str
    """Path below the address of the store."""
    bytes: int
    why: str
    """`onnx_model 3f0c... of 2026-11-03 10:00: fp32`, for people."""
    since: datetime | None = None
    """When it was condemned."""
    waits: str = ""
    """Why it is not removed yet; empty where it may be."""

    @property
    def home(self) -> str:
        """Path of its asset."""
        return posixpath.dirname(self.place)

    @property
    def tombstone(self) -> str:
        """Path of the object that condemns it."""
        return f"{self.home}/{CONDEMNED_PREFIX}{posixpath.basename(self.place)}"


@dataclass(frozen=True)
class BucketPlan:
    """What a prune does with a bucket."""

    address: str
    condemn: tuple[Doomed, ...]
    """Versions that nothing needs, not condemned yet."""
    waiting: tuple[Doomed, ...]
    """Condemned ones whose time has not come."""
    remove: tuple[Doomed, ...]
    """Condemned ones whose time has come, and rests."""
    pardon: tuple[str, ...]
    """Paths of tombstones of versions that are needed after all, or of none."""
    kept: dict[Path, str]
    """Path below the address to the reason for which a version stays."""
    bytes: int
    """Size of the whole store."""


@dataclass(frozen=True)
class Condemned:
    """What a prune has done."""

    condemned: tuple[Doomed, ...]
    removed: tuple[Doomed, ...]
    pardoned: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """What was freed."""
        return sum(doomed.bytes for doomed in self.removed)


def plan_bucket(
    store: ArtifactBucket,
    registered: Iterable[Registered] = (),
    *,
    keep: int = KEEP,
    grace: timedelta = timedelta(hours=GRACE_HOURS),
    at_work_since: float | None = None,
) -> BucketPlan:
    """Look what may go from a bucket; nothing is changed. One listing, and a request for each record not at hand.

    Args:
        store: the bucket.
        registered: versions of the model registry to keep, from `har_assets.tracking.registry`.
        keep: newest versions of each asset to keep, 1 or more.
        grace: between condemnation and removal.
        at_work_since: start of the run that has been at work longest, seconds since 1970; None where none is.

    Raises:
        HarError: a number that is too small. StorageError.
    """
    if keep < 1:
        raise HarError(f"keep is {keep}: choose 1 or more.")
    remote = store.remote
    listing = remote.listing()
    sizes, tombstones, pointers = _sorted_out(listing)
    complete, rests = _read_records(store, sizes, listing)
    by_home: dict[Path, list[Version]] = {}
    for version in complete:
        by_home.setdefault(version.place.parent, []).append(version)
    known = {
        version.place: "it was made while a run was at work that still is"
        for version in complete
        if at_work_since is not None and _uploaded(version).timestamp() > at_work_since - CLOCKS_S
    }
    for home, name in _targets(remote, pointers):
        known[Path(posixpath.normpath(f"{home}/{name}"))] = "it is the latest"
    by_age = [sorted(found, key=lambda version: version.age, reverse=True) for found in by_home.values()]
    kept = needed(by_age, known, registered, keep=keep)

    now, condemned = datetime.now(UTC), _since(remote, tombstones)
    condemn: list[Doomed] = []
    waiting: list[Doomed] = []
    remove: list[Doomed] = []
    # What was made from others goes before these: at no moment does a version stay whose inputs are gone.
    for version in sorted(complete, key=lambda version: version.age, reverse=True):
        if version.place in kept:
            continue
        place = str(version.place)
        since = condemned.get(place)
        waits = _waits(since, now, grace, at_work_since) if since else ""
        doomed = Doomed(place, sizes[place], version.words, since, waits)
        (condemn if since is None else waiting if waits else remove).append(doomed)
    for place in rests:
        made = stamp_of(posixpath.basename(place))
        if place in condemned or (made and made < now - ABANDONED):
            remove.append(Doomed(place, sizes[place], f"{place}: what a killed upload or prune has left", now))
    pardon = [Doomed(place, 0, "").tombstone for place in condemned if Path(place) in kept or place not in sizes]
    return BucketPlan(
        store.address, tuple(condemn), tuple(waiting), tuple(remove), tuple(pardon), kept, sum(listing.values())
    )


def prune_bucket(store: ArtifactBucket, replan: Callable[[], BucketPlan], log: Log = silent) -> Condemned:
    """Condemn, remove and pardon what a plan names that is made here, while no other prune of this machine is at it.

    Args:
        store: the bucket.
        replan: makes the plan, the registry and the runs asked anew.
        log: takes a line for each thing done.

    Raises:
        HarError: what `replan` raises. StorageError; what was done by then is whole.
    """
    remote = store.remote
    with locked(store.root / "pruning", log), locked(store.root / "promotion", log):
        plan = replan()
        for tombstone in plan.pardon:
            remote.remove_objects([tombstone])
            log(f"pardoned {tombstone}")
        moment = json.dumps({"since": datetime.now(UTC).isoformat(timespec="seconds")}).encode()
        for doomed in plan.condemn:
            remote.write_object(doomed.tombstone, moment)
            log(f"condemned {doomed.why}, {format_bytes(doomed.bytes)}")
        objects = sorted(remote.listing()) if plan.remove else []
        for doomed in plan.remove:
            record = f"{doomed.place}/{RECORD_FILE}"
            remote.remove_objects([record])
            remote.remove_objects([path for path in objects if path.startswith(f"{doomed.place}/") and path != record])
            remote.remove_objects([doomed.tombstone])
            log(f"removed {doomed.why}, {format_bytes(doomed.bytes)}")
    return Condemned(plan.condemn, plan.remove, plan.pardon)


def _sorted_out(listing: dict[str, int]) -> tuple[dict[str, int], list[str], list[str]]:
    """Version to its bytes, versions that are condemned, and assets that have a `latest`."""
    sizes: dict[str, int] = {}
    condemned, homes = [], []
    for path, size in listing.items():
        *folders, name = path.split("/")
        depth = next((at for at, folder in enumerate(folders) if stamp_of(folder)), None)
        if depth:
            version = "/".join(folders[: depth + 1])
            sizes[version] = sizes.get(version, 0) + size
        elif folders and name.startswith(CONDEMNED_PREFIX):
            condemned.append("/".join([*folders, name.removeprefix(CONDEMNED_PREFIX)]))
        elif folders and name == LATEST:
            homes.append("/".join(folders))
    return sizes, condemned, homes


def _read_records(
    store: ArtifactBucket, versions: Iterable[str], listing: dict[str, int]
) -> tuple[list[Version], list[str]]:
    """Complete versions, and the paths of those that have no record."""
    recorded = [place for place in versions if f"{place}/{RECORD_FILE}" in listing]

    def read(place: str) -> Version | None:
        copy = FolderArtifact.read(store.root / place)  # never written twice, so a copy of it will do
        record = copy.record if copy else Record.parse(store.remote.read_object(f"{place}/{RECORD_FILE}") or b"")
        return Version(Path(place), record) if record else None

    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        complete = [version for version in pool.map(read, recorded) if version]
    found = {str(version.place) for version in complete}
    return complete, [place for place in versions if place not in found]


def _targets(remote: RemoteFolder, homes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Asset and the version that its `latest` names, a path relative to the asset."""
    for home in homes:
        yield home, (remote.read_object(f"{home}/{LATEST}") or b"").decode(errors="replace").strip()


def _since(remote: RemoteFolder, condemned: Iterable[str]) -> dict[str, datetime]:
    """Condemned version to the time of it; now for what cannot be read."""
    found = {}
    for place in condemned:
        try:
            said = json.loads(remote.read_object(Doomed(place, 0, "").tombstone) or b"")
            found[place] = datetime.fromisoformat(said["since"]).astimezone(UTC)
        except (ValueError, TypeError, KeyError):
            found[place] = datetime.now(UTC)
    return found


def _uploaded(version: Version) -> datetime:
    """When a version was uploaded, by its name."""
    uploaded = stamp_of(version.place.name)
    assert uploaded
    return uploaded


def _waits(since: datetime, now: datetime, grace: timedelta, at_work_since: float | None) -> str:
    if now < since + grace:
        return f"it may go after {since + grace:%Y-%m-%d %H:%M} UTC"
    if at_work_since is not None and at_work_since < since.timestamp() + CLOCKS_S:
        return "a run is at work that began before it was condemned"
    return ""
