"""alert_sensor: a message for every run that fails, as JSON to a web address, by mail, or by a service of apprise.

It is a plain sensor, because Dagster's `run_failure_sensor` skips a failure whose message could not be sent. Here a tag
of the run records by which way its message was sent. A way that is down is tried again at the next tick, and neither
the other ways nor the next message wait for it. A process that is killed after sending and before the tag is written
sends the message twice; no message is lost. Messages about failed ticks are made in tick_alerts.py; delivery.py sends
both.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter

from har_assets import settings
from har_assets.graph.dagster_private import (
    HIDDEN_TAG_PREFIX,
    add_run_tags,
    failure_reason,
    failures_of,
    is_started_again,
)
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.sensors.delivery import Alert, Way, compose, deliver, iso, ways
from har_assets.graph.sensors.tick_alerts import tick_alerts

SENT_TAG = f"{HIDDEN_TAG_PREFIX}har_alert_"
"""Beginning of the tag that records when the message about a run was sent; the key of the way follows.

A run that repeats another one inherits the tags of that one, so the tag of such a run names it before the way."""

STARTED_AGAIN_S = 120.0
"""Seconds in which the daemon has to start a killed run again; the message about one that it does not is sent then."""

WAYS = (settings.ALERTS, settings.ALERT_WEBHOOK, settings.ALERT_MAIL)
"""Setting any of these switches the sensor on."""

OVERLAP_S = 600.0
"""Seconds before the last tick from which failed runs are searched: the clocks of several machines differ."""


def message_of(instance: DagsterInstance, record: RunRecord, url: str) -> dict[str, Any]:
    """Write the message about a failed run."""
    run = record.dagster_run
    events = failures_of(instance, run.run_id)
    reasons = [(event.step_key or "", failure_reason(event)) for event in events if event.is_step_failure]
    if not reasons:  # the run itself has failed: its process was killed, or it could not start
        reasons = [("", next((event.message or "" for event in reversed(events)), ""))]
    return compose(
        f"Run {run.run_id[:8]} failed.",
        reasons,
        run_id=run.run_id,
        job=run.job_name if not run.job_name.startswith("__") else "materialization",
        assets=sorted(key.to_user_string() for key in run.asset_selection or ()),
        started=iso(record.start_time),
        ended=iso(record.end_time),
        url=url,
    )


def run_alerts(instance: DagsterInstance, by: Sequence[Way], link: MlflowTracking, since: float) -> list[Alert]:
    """Make the alerts about runs that have failed after `since` (seconds of the epoch), the oldest first.

    A killed run that is started again gets none: the last run in its place does, should that fail.
    """
    records = instance.get_run_records(
        RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=datetime.fromtimestamp(since, UTC)),
        order_by="update_timestamp",
        ascending=True,
    )
    found = []
    for record in records:
        run = record.dagster_run

        tag = SENT_TAG + (f"{run.run_id}_" if run.parent_run_id else "")

        def note(key: str, outcome: str, run_id: str = run.run_id, tag: str = tag) -> None:
            add_run_tags(instance, run_id, {tag + key: outcome})

        sent = {name.removeprefix(tag) for name in run.tags}
        waiting = {way.key for way in by if not sent & {way.key, way.kind}}
        message = partial(message_of, instance, record, link.dagster_url(run.run_id))
        failed_at = record.end_time or record.create_timestamp.timestamp()
        if failed_at >= since and not is_started_again(run, failed_at + STARTED_AGAIN_S - time.time()):
            found.append(Alert(failed_at, message, waiting, note))
    return found


@dg.sensor(
    minimum_interval_seconds=30,
    # Setting a variable is the switch; it can still be switched off in the web UI.
    default_status=dg.DefaultSensorStatus.RUNNING
    if any(setting.get() for setting in WAYS)
    else dg.DefaultSensorStatus.STOPPED,
    description="Every 30 seconds: for each run that has failed, whoever started it, and that is not started again by "
    f"itself, JSON is posted to {settings.ALERT_WEBHOOK}, mail is sent to {settings.ALERT_MAIL} by the server "
    f"{settings.SMTP_HOST}, and the services of {settings.ALERTS} are told; off while none is set. What cannot be "
    "delivered is tried again for a day, and holds up nothing else. Costs one query, and a request or mail a failure. "
    "The same for a sensor, a schedule or the automation that raises, once a streak.",
)
def alert_sensor(context: dg.SensorEvaluationContext, mlflow: MlflowTracking) -> dg.SkipReason:
    """Send the messages about failed runs and failed ticks."""
    by = ways()
    now = time.time()
    state: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"on_since": now, "look_from": now}
    if not by:
        context.update_cursor("")  # what fails while it is off is not sent later
        return dg.SkipReason(f"none of {', '.join(WAYS)} is set")
    instance, since = context.instance, state["on_since"]
    runs = run_alerts(instance, by, mlflow, max(since, state["look_from"] - OVERLAP_S))
    ticks, reported = tick_alerts(instance, by, state.get("ticks", {}), mlflow, since, now)
    sent, faults = deliver([*ticks, *runs], by, now)
    look_from = min((alert.failed_at for alert in runs if alert.waiting), default=now)
    context.update_cursor(json.dumps({**state, "look_from": look_from, "ticks": reported}))
    for fault in faults:
        context.log.error(f"An alert was not delivered: {fault}.")
    waiting = f", not delivered: {'; '.join(faults)}" if faults else ""
    return dg.SkipReason(f"{sent} alerts sent{waiting}")
