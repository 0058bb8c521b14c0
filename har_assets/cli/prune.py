"""`har prune`: what may go from the store, shown first and removed with --yes."""

import json
import os
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from har_assets import settings
from har_assets.errors import HarError
from har_assets.store.bucket import ArtifactBucket, open_store
from har_assets.store.bucket_pruning import GRACE_HOURS, BucketPlan, Doomed, plan_bucket, prune_bucket
from har_assets.store.pruning import KEEP, OLDER_THAN_DAYS, Plan, plan_pruning, plan_work_alone, registered_versions
from har_assets.store.pruning import prune as pruned
from har_assets.store.quota import Quota
from har_assets.system.files import format_bytes, size_of


def prune(
    keep: Annotated[int, typer.Option(min=1, help="Newest versions of each asset to keep.")] = KEEP,
    older_than_days: Annotated[
        float, typer.Option(min=1, help="Days without a change after which unfinished work and caches go.")
    ] = OLDER_THAN_DAYS,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is shown. Without it nothing is changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    uri: Annotated[
        str,
        typer.Option(
            "--tracking-uri",
            envvar=[settings.MLFLOW_URI, "MLFLOW_TRACKING_URI"],
            help="MLflow server or database whose aliases are kept.",
        ),
    ] = "sqlite:///mlflow.db",
    store: Annotated[
        str, typer.Option("--store", help="Folder or address of the products; HAR_ARTIFACTS, else artifacts.")
    ] = "",
    grace_hours: Annotated[
        float, typer.Option(min=1, help="In a bucket: hours between the prune that condemns and one that removes.")
    ] = GRACE_HOURS,
) -> None:
    """Show which old versions and abandoned work may go from the store, and remove them with --yes.

    Never what is the latest, what an alias of the model registry stands for, what any of these was made from, or what
    a process is reading. From a bucket, whose readers nobody sees, a version goes in two steps: one prune condemns it,
    one after the grace period removes it, if no run is at work that began before.
    """

    opened = open_store(store)
    if isinstance(opened, ArtifactBucket):
        _prune_bucket(opened, uri, keep, timedelta(hours=grace_hours), older_than_days, yes, as_json)
        return
    root = opened.root

    def plan_now(going: frozenset[Path] | None = None) -> Plan:
        return plan_pruning(root, registered_versions(uri), keep=keep, older_than_days=older_than_days, going=going)

    plan = plan_now()
    done = pruned(plan, plan_now) if yes else None
    if as_json:
        facts = {
            "would_free" if done is None else "freed": plan.bytes if done is None else done.bytes,
            "versions_kept": len(plan.kept),
            "candidates": [
                {name: str(value) for name, value in asdict(candidate).items()} for candidate in plan.candidates
            ],
            "removed": [str(candidate.folder) for candidate in done.removed] if done else [],
            "left": {str(candidate.folder): reason for candidate, reason in done.left} if done else {},
        }
        print(json.dumps(facts))
        return
    for candidate in done.removed if done else plan.candidates:
        print(f"{format_bytes(candidate.bytes):>8}  {candidate.why}")
    for candidate, reason in done.left if done else ():
        print(f"    left  {candidate.why}: {reason}")
    quota = Quota.of(root)
    limit = f" of a quota of {format_bytes(quota.bytes)}" if quota else ""
    holds = f"The store holds {format_bytes(size_of(root))}{limit}; {len(plan.kept)} versions stay."
    if done:
        print(f"Removed {len(done.removed)}, {format_bytes(done.bytes)} freed. {holds}")
    elif plan.candidates:
        print(f"{len(plan.candidates)} may go and free {format_bytes(plan.bytes)}. {holds}")
        print("Nothing was removed: the same command with --yes does it.")
    else:
        print(f"Nothing may go. {holds}")


def _prune_bucket(
    store: ArtifactBucket, uri: str, keep: int, grace: timedelta, older_than_days: float, yes: bool, as_json: bool
) -> None:
    from dagster import DagsterInstance

    from har_assets.graph.running.dead_runs import at_work_since

    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path.cwd())))
    if not (home / "dagster.yaml").is_file():
        raise HarError(
            f"{home} has no dagster.yaml, and what runs are reading must not be pruned: start this in the project "
            "folder, or set DAGSTER_HOME."
        )

    def plan_now() -> BucketPlan:
        with DagsterInstance.get() as instance:
            since = at_work_since(
                instance
            )  # before the look at the bucket: what a run has published by its end is seen
        return plan_bucket(store, registered_versions(uri), keep=keep, grace=grace, at_work_since=since)

    def plan_work(_: object = None) -> Plan:
        return plan_work_alone(store.root, older_than_days)

    plan, work = plan_now(), plan_work()
    done = prune_bucket(store, plan_now) if yes else None
    work_done = pruned(work, plan_work) if yes else None
    condemned, removed = (done.condemned, done.removed) if done else (plan.condemn, plan.remove)
    if as_json:

        def facts_of(versions: tuple[Doomed, ...]) -> list[dict[str, object]]:
            return [{**asdict(doomed), "since": doomed.since and doomed.since.isoformat()} for doomed in versions]

        facts = {
            "address": plan.address,
            "done": yes,
            "condemned": facts_of(condemned),
            "waiting": facts_of(plan.waiting),
            "removed": facts_of(removed),
            "pardoned": list(done.pardoned if done else plan.pardon),
            "freed": sum(doomed.bytes for doomed in removed),
            "versions_kept": len(plan.kept),
            "work": [str(candidate.folder) for candidate in (work_done.removed if work_done else work.candidates)],
        }
        print(json.dumps(facts))
        return
    for doomed in removed:
        print(f"{format_bytes(doomed.bytes):>8}  {doomed.why}: {'removed' if done else 'may be removed'}")
    for doomed in plan.waiting:
        print(f"{format_bytes(doomed.bytes):>8}  {doomed.why}: condemned, {doomed.waits}")
    for doomed in condemned:
        print(f"{format_bytes(doomed.bytes):>8}  {doomed.why}: {'condemned' if done else 'may be condemned'}")
    for candidate in work_done.removed if work_done else work.candidates:
        print(f"{format_bytes(candidate.bytes):>8}  {candidate.why}")
    freed = sum(doomed.bytes for doomed in removed)
    quota = f" of a quota of {format_bytes(store.quota.bytes)}" if store.quota else ""
    held = f"{plan.address} holds {format_bytes(plan.bytes - (freed if done else 0))}{quota}"
    numbers = f"{len(condemned)} condemned, {len(plan.waiting)} waiting, {len(removed)} removed ({format_bytes(freed)})"
    print(f"{numbers if done else f'To do: {numbers}'}. {held}; {len(plan.kept)} versions stay.")
    if not done and (condemned or removed or work.candidates):
        print("Nothing was changed: the same command with --yes does it.")
