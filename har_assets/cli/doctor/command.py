"""The command, and its table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from har_assets.cli.output import printable


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of findings.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mark dead runs failed, free their slots, remove what they left.")
    ] = False,
) -> None:
    """Look over this machine, environment and folder: what is wrong and what to do. Exit status 1 for a problem."""
    from har_assets.cli.doctor.examine import examine
    from har_assets.cli.doctor.finding import PROBLEM, to_json

    findings = examine(Path.cwd(), fix=fix)
    if as_json:
        print(to_json(findings))
    else:
        colours = {"ok": "green", "warning": "yellow", "problem": "bold red"}
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("check", "state", "what there is"):
            table.add_column(column, no_wrap=column != "what there is", overflow="fold")
        for finding in findings:
            said = printable(finding.found) + (f"\n→ {printable(finding.remedy)}" if finding.remedy else "")
            table.add_row(finding.check, Text(finding.state, style=colours[finding.state]), Text(said))
        console = Console(highlight=False)
        console.width = max(console.width, 80)
        console.print(table)
    if any(finding.state == PROBLEM for finding in findings):
        raise typer.Exit(1)
