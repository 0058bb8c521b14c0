"""`har promote`, `har rollback` and `har mlflow-sync`: the registry and the outbox, without starting Dagster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from har_assets import settings
from har_assets.cli.output import Store
from har_assets.store.opening import open_store
from har_assets.tracking.tags import MODEL_NAME

if TYPE_CHECKING:
    from har_assets.serving.promotion import Decision

Name = Annotated[str, typer.Option("--model", help="Registered model.")]
Address = Annotated[
    str,
    typer.Option(
        "--tracking-uri", envvar=[settings.MLFLOW_URI, "MLFLOW_TRACKING_URI"], help="MLflow server or database."
    ),
]


def promote(
    version: Annotated[
        str, typer.Option(help="Version to promote; the one with the alias challenger if left out.")
    ] = "",
    alpha: Annotated[float, typer.Option(help="Largest p-value that counts as more than noise.")] = 0.05,
    name: Name = MODEL_NAME,
    uri: Address = settings.OWN_DATABASE,
    store: Store = "",
) -> None:
    """Make the challenger champion if it is better on the same test videos beyond noise. Exit status 1 where not."""
    from har_assets.serving.promotion import promote as promoted

    _say(promoted(uri, name, open_store(store), version=version, alpha=alpha))


def rollback(
    to: Annotated[str, typer.Option(help="Version to return to; the champion before if left out.")] = "",
    name: Name = MODEL_NAME,
    uri: Address = settings.OWN_DATABASE,
    store: Store = "",
) -> None:
    """Give the alias champion back to the version that had it before. Exit status 1 where nothing was moved."""
    from har_assets.serving.promotion import rollback as rolled_back

    _say(rolled_back(uri, name, open_store(store), to=to))


def _say(decision: "Decision") -> None:
    print(decision.words)
    if not decision.moved:
        raise typer.Exit(1)


def mlflow_sync(
    folder: Annotated[Path, typer.Argument(help="Folder in which steps keep what MLflow has not got.")] = Path(
        "mlflow_outbox"
    ),
) -> None:
    """Send what was logged while the MLflow server was away. Exit status 1 when some of it cannot be sent yet."""
    from har_assets.tracking.outbox import report_settled, settle

    settled = settle(folder)
    report_settled(settled, print)
    if not settled:
        print(f"Nothing is kept in {folder}: MLflow has everything.")
    if any(result.left for result in settled):
        raise typer.Exit(1)
