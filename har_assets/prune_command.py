"""`har prune`: what may go from the store, shown first and removed with --yes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from har_assets.bucket import open_store
from har_assets.hmdb51._files import format_bytes
from har_assets.pruning import KEEP, OLDER_THAN_DAYS, Plan, folder_of, plan_pruning, registered_versions
from har_assets.pruning import prune as pruned
from har_assets.quota import Quota, size_of


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
            envvar=["HAR_MLFLOW_URI", "MLFLOW_TRACKING_URI"],
            help="MLflow server or database whose aliases are kept.",
        ),
    ] = "sqlite:///mlflow.db",
    store: Annotated[str, typer.Option("--store", help="Folder of the products; HAR_ARTIFACTS, else artifacts.")] = "",
) -> None:
    """Show which old versions and abandoned work may go from the store, and remove them with --yes.

    Never what is the latest, what an alias of the model registry stands for, what any of these was made from, or what
    a process is reading.
    """

    root = folder_of(open_store(store))

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
