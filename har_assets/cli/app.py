"""Say what happens in videos with the models made here, and look after this folder, without starting Dagster."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from har_assets.cli.bench import bench
from har_assets.cli.card import card
from har_assets.cli.check import check
from har_assets.cli.doctor.command import doctor
from har_assets.cli.explain import explain
from har_assets.cli.init import init
from har_assets.cli.predict import predict
from har_assets.cli.prune import prune
from har_assets.cli.registry import mlflow_sync, promote, rollback
from har_assets.cli.status import status
from har_assets.errors import HarError
from har_assets.settings import fields

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


def _with_valid_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, refused where settings are wrong."""

    @wraps(command)
    def checked(*arguments: Any, **options: Any) -> Any:
        fields.read()
        for sentence in fields.unknown().values():
            print(f"warning: {sentence}", file=sys.stderr)
        return command(*arguments, **options)

    return checked


for command in (predict, explain, bench, status, check, prune, card, init, promote, rollback, mlflow_sync):
    app.command()(_with_valid_settings(command))
app.command()(doctor)  # which says what is wrong with the settings itself


def run() -> None:
    """Run the command line: a HarError becomes one line on stderr and exit status 1."""
    try:
        app()
    except HarError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
