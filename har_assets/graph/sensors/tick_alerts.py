"""Messages about failed ticks. A sensor, a schedule or the automation that raises starts no run, so the messages about
failed runs (alerts.py) do not report it.

A series of failed ticks gets one message. The next one is sent when the same sensor or schedule has worked in between,
and QUIET_S after the last message at the earliest. The cursor of alert_sensor records what was sent, as ticks take no
tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dagster import DagsterInstance

from har_assets.graph import dagster_private
from har_assets.graph.dagster_private import (
    InstigatorType,
    SerializableErrorInfo,
    newest_tick,
    newest_ticks,
)
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.sensors.delivery import GIVE_UP_S, Alert, Way, compose, iso

if TYPE_CHECKING:
    from har_assets.graph.dagster_private import InstigatorState, InstigatorTick

QUIET_S = 3600.0
"""Shortest time between two messages about one sensor or schedule, seconds: one that fails at every other tick has many
series."""

KINDS = {
    InstigatorType.SENSOR: "sensor",
    InstigatorType.SCHEDULE: "schedule",
    InstigatorType.AUTO_MATERIALIZE: "automation",
}

Reported = dict[str, dict[str, float]]
"""Key of a way, then id of a sensor or schedule, to the time of the failed tick reported last; JSON-ready."""


def tick_alerts(
    instance: DagsterInstance, by: Sequence[Way], reported: Reported, link: MlflowTracking, since: float, now: float
) -> tuple[list[Alert], Reported]:
    """Make an alert about each series of failed ticks after `since` that a way has not reported.

    Returns them, and what is reported; delivering them adds to the latter. It holds failures of the last day, so it
    stays small.
    """
    found = []
    known: Reported = {way.key: {} for way in by}
    for state, tick in newest_ticks(instance, [dagster_private.TickStatus.FAILURE], after=max(since, now - GIVE_UP_S)):
        for way in by:
            before = reported.get(way.key, reported.get(way.kind, {}))
            if state.selector_id in before:
                known[way.key][state.selector_id] = before[state.selector_id]

        def note(key: str, _: str, selector: str = state.selector_id, failed_at: float = tick.timestamp) -> None:
            known[key][selector] = failed_at

        told = {key: times.get(state.selector_id) for key, times in known.items()}
        waiting = {key for key, before in told.items() if _is_news(instance, state, tick, before, now)}
        found.append(Alert(tick.timestamp, partial(message_of_tick, state, tick, link), waiting, note))
    return found, known


def _is_news(
    instance: DagsterInstance, state: InstigatorState, tick: InstigatorTick, reported: float | None, now: float
) -> bool:
    if reported is None:
        return True
    if tick.timestamp <= reported or now - reported < QUIET_S:
        return False
    good = [dagster_private.TickStatus.SUCCESS, dagster_private.TickStatus.SKIPPED]
    return newest_tick(instance, state, good, after=reported, before=tick.timestamp) is not None


def message_of_tick(state: InstigatorState, tick: InstigatorTick, link: MlflowTracking) -> dict[str, Any]:
    """Write the message about a failed tick: the fields of a failed run, without `run_id`, and the sensor as `job`."""
    kind = KINDS.get(state.instigator_type, "automation")
    place = state.repository_selector
    page = f"locations/{place.repository_name}@{place.location_name}/{kind}s/{state.name}"
    return compose(
        f"The {kind} {state.name} failed and started no run.",
        [("", _reason(tick.tick_data.error))],
        run_id="",
        job=f"{kind} {state.name}",
        assets=[],
        started=iso(tick.timestamp),
        ended=iso(tick.tick_data.end_timestamp or tick.timestamp),
        url=link.dagster_page(page if kind != "automation" else "automation"),
    )


def _reason(error: SerializableErrorInfo | None) -> str:
    """Find the first error of the chain: Dagster raises one of its own from it."""
    while error is not None and error.cause is not None:
        error = error.cause
    return " ".join(error.message.split()) if error is not None else "no reason given"
