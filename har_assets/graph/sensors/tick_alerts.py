"""Messages of failed ticks: a sensor, a schedule or the automation that raises makes no run, so nobody hears of it.

One message a streak: after it, the next comes when the same sensor or schedule has worked in between, and QUIET_S after
the last one at the earliest. What has been sent by which way is in the cursor of alert_sensor, as ticks take no tags.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dagster import DagsterInstance

from har_assets.graph.dagster_private import (
    InstigatorState,
    InstigatorTick,
    InstigatorType,
    SerializableErrorInfo,
    TickStatus,
    newest_tick,
    newest_ticks,
)
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.sensors.delivery import GIVE_UP_S, LONGEST_REASON, TICK_S, Delivery, UndeliveredError, Way

QUIET_S = 3600.0
"""Shortest time between two messages of one sensor or schedule by one way: one that fails at every other tick has many
streaks."""

KINDS = {
    InstigatorType.SENSOR: "sensor",
    InstigatorType.SCHEDULE: "schedule",
    InstigatorType.AUTO_MATERIALIZE: "automation",
}

Told = dict[str, dict[str, float]]
"""Way of sending, then sensor or schedule, to the time of the failed tick of which it has told; JSON-ready."""


def deliver_ticks(
    instance: DagsterInstance, by: Sequence[Way], told: Told, link: MlflowTracking, since: float, now: float
) -> tuple[Delivery, Told]:
    """Send a message of each streak of failed ticks after `since` of which a way has not told.

    Returns what was done, and what is told now: only of what has failed within the last day, so it stays small.
    """
    done = Delivery()
    failed = newest_ticks(instance, [TickStatus.FAILURE], after=max(since, now - GIVE_UP_S))
    known: Told = {}
    for way in by:
        before = told.get(way.name, {})
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
    instance: DagsterInstance, state: InstigatorState, tick: InstigatorTick, told: float | None, now: float
) -> bool:
    if told is None:
        return True
    if tick.timestamp <= told or now - told < QUIET_S:
        return False
    good = [TickStatus.SUCCESS, TickStatus.SKIPPED]
    return newest_tick(instance, state, good, after=told, before=tick.timestamp) is not None


def message_of_tick(state: InstigatorState, tick: InstigatorTick, link: MlflowTracking) -> dict[str, Any]:
    """What is sent of a failed tick: the fields of a failed run, with `run_id` empty and `job` the sensor's name."""
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
    """What was raised first: Dagster puts a frame of its own around it."""
    while error is not None and error.cause is not None:
        error = error.cause
    return " ".join(error.message.split()) if error is not None else "no reason given"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
