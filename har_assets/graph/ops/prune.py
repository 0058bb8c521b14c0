"""prune_artifacts: the job that removes old versions, for a schedule."""

from datetime import timedelta
from pathlib import Path

import dagster as dg

from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.dead_runs import at_work_since
from har_assets.store.bucket import ArtifactBucket
from har_assets.store.bucket_pruning import GRACE_HOURS, BucketPlan, plan_bucket, prune_bucket
from har_assets.store.pruning import (
    KEEP,
    OLDER_THAN_DAYS,
    Plan,
    plan_pruning,
    plan_work_alone,
    prune,
)
from har_assets.system.files import format_bytes
from har_assets.tracking.registry import registered_versions


class PruningConfig(dg.Config):
    """What is kept."""

    keep: int = KEEP
    """Newest versions of each asset that stay."""
    older_than_days: float = OLDER_THAN_DAYS
    """Days without a change after which unfinished work and caches go."""
    grace_hours: float = GRACE_HOURS
    """In a bucket: hours between the prune that condemns a version and one that removes it; 1 or more."""
    remove: bool = False
    """Remove it. False only says what would go."""


@dg.op
def prune_store(
    context: dg.OpExecutionContext, config: PruningConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> None:
    """Remove old versions that neither `latest`, the model registry nor a lineage needs, and abandoned work."""
    with failures_in_words():
        opened, uri = store.folder, mlflow.uri(store.project_folder)
    if isinstance(opened, ArtifactBucket):
        with failures_in_words():
            _prune_bucket(context, config, opened, uri)
        return
    root = opened.root

    def plan_now(going: frozenset[Path] | None = None) -> Plan:
        return plan_pruning(
            root, registered_versions(uri), keep=config.keep, older_than_days=config.older_than_days, going=going
        )

    with failures_in_words():
        plan = plan_now()
        done = prune(plan, plan_now, context.log.info) if config.remove else None
    count, size = (len(done.removed), done.bytes) if done else (len(plan.candidates), plan.bytes)
    words = f"{count} {'removed' if done else 'would go'}, {format_bytes(size)} {'freed' if done else 'to free'}"
    context.log.info(f"{words}; {len(plan.kept)} versions stay")
    context.add_output_metadata(
        {
            "removed": bool(done),
            "bytes": size,
            "versions_kept": len(plan.kept),
            "what": [candidate.why for candidate in (done.removed if done else plan.candidates)],
            "left": {candidate.why: reason for candidate, reason in done.left} if done else {},
        }
    )


def _prune_bucket(context: dg.OpExecutionContext, config: PruningConfig, store: ArtifactBucket, uri: str) -> None:
    grace = timedelta(hours=max(config.grace_hours, 1.0))

    def plan_now() -> BucketPlan:
        since = at_work_since(context.instance, but=context.run_id)  # before the look at the bucket
        return plan_bucket(store, registered_versions(uri), keep=config.keep, grace=grace, at_work_since=since)

    def plan_work(_: object = None) -> Plan:
        return plan_work_alone(store.root, config.older_than_days)

    plan = plan_now()
    done = prune_bucket(store, plan_now, context.log.info) if config.remove else None
    work = plan_work()
    if config.remove:
        prune(work, plan_work, context.log.info)
    condemned, removed = (done.condemned, done.removed) if done else (plan.condemn, plan.remove)
    freed = sum(doomed.bytes for doomed in removed)
    words = (
        f"{len(condemned)} condemned, {len(plan.waiting)} waiting, {len(removed)} removed, {format_bytes(freed)} freed"
    )
    context.log.info(f"{words if done else f'To do: {words}'}; {len(plan.kept)} versions stay")
    context.add_output_metadata(
        {
            "removed": bool(done),
            "bytes": freed,
            "versions_kept": len(plan.kept),
            "what": [doomed.why for doomed in removed],
            "condemned": [doomed.why for doomed in condemned],
            "left": {doomed.why: doomed.waits for doomed in plan.waiting},
            "work": [candidate.why for candidate in work.candidates],
        }
    )


@dg.job(
    description="Old versions of every asset that neither `latest`, the model registry nor a lineage needs, and "
    "abandoned work: says what would go, and removes it with `remove: true`, from a bucket in two steps with a day "
    "between. As `har prune`."
)
def prune_artifacts() -> None:
    """One op."""
    prune_store()
