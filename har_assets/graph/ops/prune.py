"""prune_artifacts: the job that removes old versions, for a schedule."""

from functools import partial

import dagster as dg

from har_assets.graph.asset import GraphConfig
from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.dead_runs import at_work_since
from har_assets.store.bucket_pruning import GRACE_HOURS
from har_assets.store.pruning import KEEP, OLDER_THAN_DAYS
from har_assets.store.pruning_report import Rules, prune_store
from har_assets.tracking.registry import registered_versions


class PruningConfig(GraphConfig):
    """Rules for the versions that are kept."""

    keep: int = KEEP
    """Newest versions of each asset that stay."""
    older_than_days: float = OLDER_THAN_DAYS
    """Days without a change after which unfinished work and caches go."""
    grace_hours: float = GRACE_HOURS
    """In a bucket: hours that a version stays after a newer one has superseded it; 1 or more."""
    remove: bool = False
    """Remove it. False only says what would go."""


@dg.op(name="prune_store")
def prune_op(
    context: dg.OpExecutionContext, config: PruningConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> None:
    """Remove old versions that neither `latest`, the model registry nor a lineage needs, and abandoned work."""
    with failures_in_words():
        report = prune_store(
            store.folder,
            Rules(config.keep, config.older_than_days, max(config.grace_hours, 1.0)),
            partial(registered_versions, mlflow.uri(store.project_folder)),
            lambda: at_work_since(context.instance, but=context.run_id),
            remove=config.remove,
            log=context.log.info,
        )
    context.log.info(report.summary)
    context.add_output_metadata(report.metadata)


@dg.job(
    description="Removes old versions of every asset that neither `latest`, the model registry nor a lineage needs, "
    "and abandoned work, as `har prune` does. Without `remove: true` it only says what would go. In a bucket a version "
    "stays for a day after it was superseded."
)
def prune_artifacts() -> None:
    """One op."""
    prune_op()
