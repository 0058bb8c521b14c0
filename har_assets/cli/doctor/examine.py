"""`har doctor`: what of this machine, environment and project folder is not as it should be, and what to do.

Each check is a function of the project folder that returns findings. Whatever a check meets is a finding,
never a traceback: libraries that may take their process down are tried in another one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from har_assets.cli.doctor import environment, services
from har_assets.cli.doctor import project as project_folder
from har_assets.cli.doctor.finding import (
    OK,
    PROBLEM,
    WARNING,
    Check,
    Finding,
    one_line,
)
from har_assets.errors import HarError, SettingsError


def examine(project: Path, *, fix: bool = False) -> list[Finding]:
    """Run all checks on a project folder; `fix` ends dead runs and removes what killed runs have left.

    The project is to be the working folder: Dagster takes the paths in dagster.yaml from there.
    """
    project = project.absolute()
    if fix:
        repaired = _attempt("repairs", lambda: repair(project))
    # Two at a time: most wait for a process of their own.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda check: _attempt(_name(check), lambda: check(project)), CHECKS))
    return [finding for findings in ([repaired] if fix else []) + found for finding in findings]


def _attempt(name: str, check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    try:
        found = check()
    except SettingsError:  # a finding of its own
        found = Finding(name, WARNING, "not looked at", "correct the settings first")
    except HarError as error:
        found = Finding(name, PROBLEM, str(error))
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding too
        found = Finding(name, PROBLEM, f"the check itself failed: {one_line(f'{type(error).__name__}: {error}')}")
    return found if isinstance(found, list) else [found]


def _name(check: Check) -> str:
    return getattr(check, "__name__", "check").removeprefix("check_").replace("_", " ")


CHECKS: tuple[Check, ...] = (*environment.CHECKS, *project_folder.CHECKS, *services.CHECKS)


def repair(project: Path) -> Finding:
    """End the runs of dead processes, free their slots, remove their staging folders."""
    from har_assets.graph.running.dead_runs import release_dead_runs

    released: list[str] = []
    if any((project / ".dagster").rglob("*.db")) or services.on_postgres(services.dagster_home(project)):
        with services.open_instance(project) as instance:
            released = release_dead_runs(instance)
    left = project_folder.leftovers(project)
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return Finding("repairs", OK, f"{len(released)} dead runs marked failed, {len(left)} staging folders removed")
