"""One prune of a store, wherever it lies, and what `har prune` and the job prune_artifacts say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from har_assets.store.bucket import ArtifactBucket
from har_assets.store.bucket_pruning import GRACE_HOURS, BucketPlan, Doomed, plan_bucket, prune_bucket
from har_assets.store.protocol import Store
from har_assets.store.pruning import KEEP, OLDER_THAN_DAYS, Plan, plan_pruning, plan_work_alone, prune
from har_assets.system.files import Log, format_bytes, silent, size_of
from har_assets.tracking.registry import Registered


@dataclass(frozen=True)
class Rules:
    """What a prune keeps."""

    keep: int = KEEP
    """Newest versions of each asset; 1 or more."""
    older_than_days: float = OLDER_THAN_DAYS
    """Days without a change after which unfinished work and caches go; 1 or more."""
    grace_hours: float = GRACE_HOURS
    """In a bucket: hours between the prune that marks a version and one that removes it."""


@dataclass(frozen=True)
class PruneReport:
    """What a prune has done, or would do."""

    lines: tuple[str, ...]
    """For people, one for each thing that goes, waits or was left."""
    summary: str
    """For people: what goes together, what the store holds, how many versions stay."""
    is_pending: bool
    """Whether there is something to do that was not done."""
    facts: dict[str, Any]
    """JSON-ready, for `har prune --json`."""
    metadata: dict[str, Any]
    """JSON-ready, for the web UI."""


def prune_store(
    store: Store,
    rules: Rules,
    registered: Callable[[], list[Registered]],
    at_work_since: Callable[[], float | None],
    *,
    remove: bool,
    log: Log = silent,
) -> PruneReport:
    """Look what may go from a store, and remove it if asked to.

    Args:
        store: to be pruned.
        rules: what is kept.
        registered: asks the model registry for the versions that it needs; asked again before anything is removed.
        at_work_since: start of the run that has been at work longest, seconds since 1970, None where none is; asked
            for a bucket alone.
        remove: False only looks.
        log: takes a line for each thing done.

    Raises:
        HarError: a rule that is too small, what `registered` and `at_work_since` raise, nothing can be written.
            StorageError. What was removed by then is whole.
    """
    if isinstance(store, ArtifactBucket):
        return _prune_bucket(store, rules, registered, at_work_since, remove, log)
    return _prune_folder(store, rules, registered, remove, log)


def _prune_folder(
    store: Store, rules: Rules, registered: Callable[[], list[Registered]], remove: bool, log: Log
) -> PruneReport:
    def plan_now(going: frozenset[Any] | None = None) -> Plan:
        return plan_pruning(
            store.root, registered(), keep=rules.keep, older_than_days=rules.older_than_days, going=going
        )

    plan = plan_now()
    done = prune(plan, plan_now, log) if remove else None
    gone, left = (done.removed, done.left) if done else (plan.candidates, ())
    size = sum(candidate.bytes for candidate in gone)
    said = f"{len(gone)} may go and free {format_bytes(size)}." if gone else "Nothing may go."
    if done:
        said = f"Removed {len(gone)}, {format_bytes(size)} freed."
    return PruneReport(
        lines=(
            *(f"{format_bytes(candidate.bytes):>8}  {candidate.why}" for candidate in gone),
            *(f"    left  {candidate.why}: {reason}" for candidate, reason in left),
        ),
        summary=f"{said} The store holds {format_bytes(size_of(store.root))}{_of_quota(store)}; "
        f"{len(plan.kept)} versions stay.",
        is_pending=bool(gone) and not done,
        facts={
            "freed" if done else "would_free": size,
            "versions_kept": len(plan.kept),
            "candidates": [
                {name: str(value) for name, value in asdict(candidate).items()} for candidate in plan.candidates
            ],
            "removed": [str(candidate.folder) for candidate in gone] if done else [],
            "left": {str(candidate.folder): reason for candidate, reason in left},
        },
        metadata={
            "removed": remove,
            "bytes": size,
            "versions_kept": len(plan.kept),
            "what": [candidate.why for candidate in gone],
            "left": {candidate.why: reason for candidate, reason in left},
        },
    )


def _prune_bucket(
    store: ArtifactBucket,
    rules: Rules,
    registered: Callable[[], list[Registered]],
    at_work_since: Callable[[], float | None],
    remove: bool,
    log: Log,
) -> PruneReport:
    def plan_now() -> BucketPlan:
        since = at_work_since()  # before the look at the bucket: what a run has published by its end is seen
        grace = timedelta(hours=rules.grace_hours)
        return plan_bucket(store, registered(), keep=rules.keep, grace=grace, at_work_since=since)

    def plan_work(_: object = None) -> Plan:
        return plan_work_alone(store.root, rules.older_than_days)

    plan, work = plan_now(), plan_work()
    done = prune_bucket(store, plan_now, log) if remove else None
    work_gone = prune(work, plan_work, log).removed if remove else work.candidates
    condemned, removed = (done.condemned, done.removed) if done else (plan.condemn, plan.remove)
    freed = sum(doomed.bytes for doomed in removed)
    numbers = f"{len(condemned)} condemned, {len(plan.waiting)} waiting, {len(removed)} removed ({format_bytes(freed)})"
    holds = f"{plan.address} holds {format_bytes(plan.bytes - (freed if done else 0))}{_of_quota(store)}"
    return PruneReport(
        lines=(
            *_lines(removed, "removed" if done else "may be removed"),
            *(line for doomed in plan.waiting for line in _lines((doomed,), f"condemned, {doomed.waits}")),
            *_lines(condemned, "condemned" if done else "may be condemned"),
            *(f"{format_bytes(candidate.bytes):>8}  {candidate.why}" for candidate in work_gone),
        ),
        summary=f"{numbers if done else f'To do: {numbers}'}. {holds}; {len(plan.kept)} versions stay.",
        is_pending=not done and bool(condemned or removed or work_gone),
        facts={
            "address": plan.address,
            "done": remove,
            "condemned": _facts(condemned),
            "waiting": _facts(plan.waiting),
            "removed": _facts(removed),
            "pardoned": list(done.pardoned if done else plan.pardon),
            "freed": freed,
            "versions_kept": len(plan.kept),
            "work": [str(candidate.folder) for candidate in work_gone],
        },
        metadata={
            "removed": remove,
            "bytes": freed,
            "versions_kept": len(plan.kept),
            "what": [doomed.why for doomed in removed],
            "condemned": [doomed.why for doomed in condemned],
            "left": {doomed.why: doomed.waits for doomed in plan.waiting},
            "work": [candidate.why for candidate in work_gone],
        },
    )


def _of_quota(store: Store) -> str:
    return f" of a quota of {format_bytes(store.quota.bytes)}" if store.quota else ""


def _lines(versions: tuple[Doomed, ...], state: str) -> list[str]:
    return [f"{format_bytes(doomed.bytes):>8}  {doomed.why}: {state}" for doomed in versions]


def _facts(versions: tuple[Doomed, ...]) -> list[dict[str, Any]]:
    return [{**asdict(doomed), "since": doomed.since and doomed.since.isoformat()} for doomed in versions]
