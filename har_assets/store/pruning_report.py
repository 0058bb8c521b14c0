"""One prune of a store, wherever it lies, and what `har prune` and the job prune_artifacts say about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from har_assets.store.bucket import ArtifactBucket
from har_assets.store.bucket_pruning import GRACE_HOURS, plan_bucket, prune_bucket
from har_assets.store.protocol import Store
from har_assets.store.pruning import KEEP, OLDER_THAN_DAYS, Plan, Pruned, plan_pruning, plan_work_alone, prune
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
    """In a bucket: hours that a version stays after a newer one has superseded it."""


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

        def look_at_bucket() -> Plan:
            since = at_work_since()  # before the look at the bucket: what a run has published by its end is seen
            grace = timedelta(hours=rules.grace_hours)
            return plan_bucket(store, registered(), keep=rules.keep, grace=grace, at_work_since=since)

        def look_at_work(_: object = None) -> Plan:
            return plan_work_alone(store.root, rules.older_than_days)

        plans = (look_at_bucket(), work := look_at_work())
        done = (prune_bucket(store, look_at_bucket, log), prune(work, look_at_work, log)) if remove else ()
        return _report(store, plans, done)

    def look(going: frozenset[Path] | None = None) -> Plan:
        days = rules.older_than_days
        return plan_pruning(store.root, registered(), keep=rules.keep, older_than_days=days, going=going)

    plan = look()
    return _report(store, (plan,), (prune(plan, look, log),) if remove else ())


def _report(store: Store, plans: Sequence[Plan], done: Sequence[Pruned]) -> PruneReport:
    """`done` is empty where nothing was to be removed."""
    candidates = [candidate for plan in plans for candidate in plan.candidates]
    gone = [candidate for pruned in done for candidate in pruned.removed] if done else candidates
    left = dict(found for each in done or plans for found in each.left)
    kept = sum(len(plan.kept) for plan in plans)
    size = sum(candidate.bytes for candidate in gone)
    said = f"{len(gone)} may go and free {format_bytes(size)}." if gone else "Nothing may go."
    if done:
        said = f"Removed {len(gone)}, {format_bytes(size)} freed."
    if left:
        said += f" {len(left)} may not go yet."
    holds = format_bytes(store.remote.size() if store.remote else size_of(store.root))
    quota = f" of a quota of {format_bytes(store.quota.bytes)}" if store.quota else ""
    return PruneReport(
        lines=(
            *(f"{format_bytes(candidate.bytes):>8}  {candidate.why}" for candidate in gone),
            *(f"    left  {candidate.why}: {reason}" for candidate, reason in left.items()),
        ),
        summary=f"{said} The store holds {holds}{quota}; {kept} versions stay.",
        is_pending=bool(gone) and not done,
        facts={
            "freed" if done else "would_free": size,
            "versions_kept": kept,
            "candidates": [{name: str(value) for name, value in asdict(candidate).items()} for candidate in candidates],
            "removed": [str(candidate.folder) for candidate in gone] if done else [],
            "left": {str(candidate.folder): reason for candidate, reason in left.items()},
        },
        metadata={
            "removed": bool(done),
            "bytes": size,
            "versions_kept": kept,
            "what": [candidate.why for candidate in gone],
            "left": {candidate.why: reason for candidate, reason in left.items()},
        },
    )
