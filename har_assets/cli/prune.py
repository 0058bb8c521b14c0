"""`har prune`: what may go from the store, shown first and removed with --yes."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from har_assets import settings
from har_assets.errors import HarError
from har_assets.store.bucket_pruning import GRACE_HOURS
from har_assets.store.opening import open_store
from har_assets.store.pruning import KEEP, OLDER_THAN_DAYS
from har_assets.store.pruning_report import Rules, prune_store
from har_assets.tracking.registry import registered_versions


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
    ] = settings.OWN_DATABASE,
    store: Annotated[
        str, typer.Option("--store", help="Folder or address of the products; HAR_ARTIFACTS, else artifacts.")
    ] = "",
    grace_hours: Annotated[
        float, typer.Option(min=1, help="In a bucket: hours that a superseded version stays.")
    ] = GRACE_HOURS,
) -> None:
    """Show which old versions and abandoned work may go from the store, and remove them with --yes.

    Never what is the latest, what an alias of the model registry stands for, what any of these was made from, or what
    a process is reading. Readers of a bucket on other machines cannot be detected, so a version stays in it for the
    grace period after a newer one has superseded it, and for as long as a run is at work that began before that.
    """

    rules = Rules(keep, older_than_days, grace_hours)
    report = prune_store(open_store(store), rules, partial(registered_versions, uri), _at_work_since, remove=yes)
    if as_json:
        print(json.dumps(report.facts))
        return
    for line in report.lines:
        print(line)
    print(report.summary)
    if report.is_pending:
        print("Nothing was changed: the same command with --yes does it.")


def _at_work_since() -> float | None:
    """Start of the run that has been at work longest, by the project's Dagster; HarError where that is not found."""
    from dagster import DagsterInstance

    from har_assets.graph.running.dead_runs import at_work_since

    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path.cwd())))
    if not (home / "dagster.yaml").is_file():
        raise HarError(
            f"{home} has no dagster.yaml, and what runs are reading must not be pruned: start this in the project "
            "folder, or set DAGSTER_HOME."
        )
    with DagsterInstance.get() as instance:
        return at_work_since(instance)
