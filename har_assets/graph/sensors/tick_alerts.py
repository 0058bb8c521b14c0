"""Messages about failed ticks. A sensor, a schedule or the automation that raises starts no run, so the messages about
failed runs (alerts.py) do not report it.

A series of failed ticks gets one message. The next one is sent when the same sensor or schedule has worked in between,
and QUIET_S after the last message at the earliest. The cursor of alert_sensor records what was sent, as ticks take no
tags.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
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
from har_assets.graph.sensors.delivery import GIVE_UP_S, LONGEST_REASON, TICK_S, Delivery, UndeliveredError, Way

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
"""Way of sending, then id of a sensor or schedule, to the time of the failed tick reported last; JSON-ready."""


def deliver_ticks(
    instance: DagsterInstance, by: Sequence[Way], reported: Reported, link: MlflowTracking, since: float, now: float
) -> tuple[Delivery, Reported]:
    """Send a message about each series of failed ticks after `since` that a way has not reported.

    Returns what was done, and what is reported now. The latter holds failures of the last day, so it stays small.
    """
    done = Delivery()
    failed = newest_ticks(instance, [dagster_private.TickStatus.FAILURE], after=max(since, now - GIVE_UP_S))
    known: Reported = {}
    for way in by:
        before = reported.get(way.name, {})
        known[way.name] = {
            state.selector_id: before[state.selector_id] for state, _ in failed if state.selector_id in before
        }
        until = time.monotonic() + TICK_S / len(by)
        for state, tick in failed:
            if time.monotonic() > until or not _is_news(instance, state, tick, before.get(state.selector_id), now):
                continue
            try:
                way.send(message_of_tick(state, tick, link))
            except UndeliveredError as error:
                done.faults.append(str(error))
                if not error.refused:
                    break
            else:
                done.sent += 1
                known[way.name][state.selector_id] = tick.timestamp
    return done, known


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
    reason = _reason(tick.tick_data.error)[:LONGEST_REASON]
    place = state.repository_selector
    page = f"locations/{place.repository_name}@{place.location_name}/{kind}s/{state.name}"
    url = link.dagster_page(page if kind != "automation" else "automation")
    return {
        "run_id": "",
        "job": f"{kind} {state.name}",
        "assets": [],
        "failures": [{"step": "", "reason": reason}],
        "started": _time(tick.timestamp),
        "ended": _time(tick.tick_data.end_timestamp or tick.timestamp),
        "url": url,
        "text": f"The {kind} {state.name} failed and started no run.\n{reason}\n{url}",
    }


def _reason(error: SerializableErrorInfo | None) -> str:
    """Find the first error of the chain: Dagster raises one of its own from it."""
    while error is not None and error.cause is not None:
        error = error.cause
    return " ".join(error.message.split()) if error is not None else "no reason given"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
