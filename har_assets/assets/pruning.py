"""prune_artifacts: the job that removes old versions, for a schedule."""

from pathlib import Path

import dagster as dg

from har_assets.assets.publishing import failures_in_words
from har_assets.hmdb51._files import format_bytes
from har_assets.pruning import KEEP, OLDER_THAN_DAYS, Plan, folder_of, plan_pruning, prune, registered_versions
from har_assets.resources.mlflow import MlflowTracking
from har_assets.resources.store import ArtifactStore


class PruningConfig(dg.Config):
    """What is kept."""

    keep: int = KEEP
    """Newest versions of each asset that stay."""
    older_than_days: float = OLDER_THAN_DAYS
    """Days without a change after which unfinished work and caches go."""
    remove: bool = False
    """Remove it. False only says what would go."""


@dg.op
def prune_store(
    context: dg.OpExecutionContext, config: PruningConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> None:
    """Remove old versions that neither `latest`, the model registry nor a lineage needs, and abandoned work."""
    with failures_in_words():
        root, uri = folder_of(store.folder), mlflow.uri(store.project_folder)

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


@dg.job(
    description="Old versions of every asset that neither `latest`, the model registry nor a lineage needs, and "
    "abandoned work: says what would go, and removes it with `remove: true`. As `har prune`."
)
def prune_artifacts() -> None:
    """One op."""
    prune_store()
