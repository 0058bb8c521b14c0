"""How a stage of the table becomes an asset of Dagster."""

import inspect
import typing
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import dagster as dg

from har_assets.cluster.needs import needs
from har_assets.graph.failures import failures_in_words
from har_assets.graph.stage import STAGES
from har_assets.options import Options
from har_assets.system.tables import Table

A_WEEK_OLD = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
"""A warning when one weekly retraining is overdue by a day, a failure when two are."""


class GraphConfig(Options, dg.Config):
    """Options as the Launchpad shows them."""


class AssetConfig(GraphConfig):
    """Configuration of an asset: the options of its product, and `force`."""

    not_content: ClassVar[frozenset[str]] = frozenset({"force"})

    force: bool = False
    """Make it again although nothing has changed."""


CONFIGS: dict[str, type[AssetConfig]] = {}
"""Stage to its configuration, filled as the assets are defined."""

MAIN: dict[str, Table | str] = {}
"""Stage to the table that it publishes or to the name of its main file, filled as the assets are defined."""


def stage_asset(
    name: str, main: Table | str = "", **arguments: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with all that the table says of a stage; `main` as in MAIN, `arguments` are others of `dg.asset`.

    A HarError that the function raises fails the step as its sentence; a generator sees to that itself.
    """

    def define(function: Callable[..., Any]) -> dg.AssetsDefinition:
        CONFIGS[name] = typing.get_type_hints(function)["config"]
        if not inspect.isgeneratorfunction(function):
            function = failures_in_words()(function)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # backfill_policy, in dagster 1.13
            asset: dg.AssetsDefinition = dg.asset(
                name=name,
                deps=list(STAGES[name].deps),
                pool="gpu" if STAGES[name].gpu else None,
                op_tags=stage_needs(name),
                **_attributes(name, main),
                **arguments,
            )(function)
        return asset

    return define


def stage_spec(name: str, description: str, main: Table | str = "", **arguments: Any) -> dg.AssetSpec:
    """`dg.AssetSpec` with all that the table says of a stage, for a function that makes several."""
    return dg.AssetSpec(name, deps=STAGES[name].deps, description=description, **_attributes(name, main), **arguments)


def stage_needs(name: str) -> dict[str, Any]:
    """Tags of the op of a stage: what it needs of a node of a Ray cluster."""
    stage = STAGES[name]
    return needs(stage.cpus, gpus=1 if stage.gpu and stage.cpus else 0, project=stage.project)


def _attributes(name: str, main: Table | str) -> dict[str, Any]:
    stage = STAGES[name]
    if main:
        MAIN[name] = main
    return {
        "group_name": stage.group,
        "kinds": set(stage.kinds),
        "code_version": stage.version,
        "automation_condition": when_changed(stage.follows) if stage.follows else None,
        "freshness_policy": A_WEEK_OLD if stage.weekly else None,
    }


def when_changed(inputs: tuple[str, ...]) -> dg.AutomationCondition:
    """True once when the data version of one of these inputs has changed.

    The same product made again sets nothing off; a run that fails is not repeated; nothing is asked for while a run
    that makes the asset or an input is under way, nor on inputs that were not made yet.
    """
    changed: Any = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    missing = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.missing())
    condition: Any = (
        changed.allow(dg.AssetSelection.assets(*inputs)).since_last_handled()
        & ~missing
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    )
    labelled: dg.AutomationCondition = condition.with_label(f"{' or '.join(inputs)} has changed")
    return labelled
