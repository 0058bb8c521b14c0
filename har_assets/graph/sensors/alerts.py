"""alert_sensor: a message for every run that fails, as JSON to a web address, by mail, or both.

It is a plain sensor, because Dagster's `run_failure_sensor` skips a failure whose message could not be sent. Here a tag
of the run records by which way its message was sent. A way that is down is tried again at the next tick, and neither
the other way nor the next message waits for it. A process that is killed after sending and before the tag is written
sends the message twice; no message is lost. Messages about failed ticks are made in tick_alerts.py; delivery.py sends
both.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter

from har_assets import settings
from har_assets.graph.dagster_private import HIDDEN_TAG_PREFIX, add_run_tags, failure_reason, failures_of
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.sensors.delivery import (
    GIVE_UP_S,
    LONGEST_REASON,
    TICK_S,
    Delivery,
    UndeliveredError,
    Way,
    ways,
)
from har_assets.graph.sensors.tick_alerts import deliver_ticks

SENT_TAG = f"{HIDDEN_TAG_PREFIX}har_alert_"
"""Beginning of the tag that records when the message about a run was sent; the name of the way follows."""

OVERLAP_S = 600.0
"""Seconds before the last tick from which failed runs are searched: the clocks of several machines differ."""


def message_of(instance: DagsterInstance, record: RunRecord, url: str) -> dict[str, Any]:
    """Write the message about a failed run: `run_id`, `job`, `assets`, `failures`, times, `url` and `text`."""
    run = record.dagster_run
    events = failures_of(instance, run.run_id)
    reasons = [(event.step_key or "", failure_reason(event)) for event in events if event.is_step_failure]
    if not reasons:  # the run itself has failed: its process was killed, or it could not start
        reasons = [("", next((event.message or "" for event in reversed(events)), ""))]
    failures = [{"step": step, "reason": (said or "no reason given")[:LONGEST_REASON]} for step, said in reasons]
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    lines = [": ".join(filter(None, (entry["step"], entry["reason"]))) for entry in failures]
    return {
        "run_id": run.run_id,
        "job": run.job_name if not run.job_name.startswith("__") else "materialization",
        "assets": assets,
        "failures": failures,
        "started": _time(record.start_time),
        "ended": _time(record.end_time),
        "url": url,
        "text": "\n".join([f"Run {run.run_id[:8]} failed.", *lines, url]),
    }


def _time(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""


def failed_runs(instance: DagsterInstance, since: float) -> list[RunRecord]:
    """Runs that have failed after `since` (seconds of the epoch), the oldest first."""
    records = instance.get_run_records(
        RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=datetime.fromtimestamp(since, UTC)),
        order_by="update_timestamp",
        ascending=True,
    )
    return [record for record in records if _failed_at(record) >= since]


def _failed_at(record: RunRecord) -> float:
    return record.end_time or record.create_timestamp.timestamp()


def deliver(
    instance: DagsterInstance, records: Sequence[RunRecord], by: Sequence[Way], link: MlflowTracking, now: float
) -> Delivery:
    """Send each message that a way has not sent yet. A way that is down is left until the next tick."""
    done = Delivery(look_from=now)
    for way in by:
        until = time.monotonic() + TICK_S / len(by)
        waiting = [record for record in records if SENT_TAG + way.name not in record.dagster_run.tags]
        for number, record in enumerate(waiting):
            run_id = record.dagster_run.run_id
            if now - _failed_at(record) > GIVE_UP_S:
                done.faults.append(f"the {way.name} of run {run_id} was given up after a day")
                add_run_tags(instance, run_id, {SENT_TAG + way.name: "given up"})
                continue
            try:
                way.send(message_of(instance, record, link.dagster_url(run_id)))
            except UndeliveredError as error:
                done.faults.append(str(error))
                done.look_from = min(done.look_from, _failed_at(record))
                if not error.refused:
                    break
            else:
                done.sent += 1
                add_run_tags(instance, run_id, {SENT_TAG + way.name: _time(now)})
            if time.monotonic() > until and number + 1 < len(waiting):
                done.look_from = min(done.look_from, _failed_at(waiting[number + 1]))
                break
    return done


@dg.sensor(
    minimum_interval_seconds=30,
    # Setting a variable is the switch; it can still be switched off in the web UI.
    default_status=dg.DefaultSensorStatus.RUNNING
    if settings.ALERT_WEBHOOK.get() or settings.ALERT_MAIL.get()
    else dg.DefaultSensorStatus.STOPPED,
    description="Every 30 seconds: for each run that has failed, whoever started it, JSON is posted to "
    f"{settings.ALERT_WEBHOOK} and mail is sent to {settings.ALERT_MAIL} by the server {settings.SMTP_HOST}; off while "
    "neither is set. What cannot be delivered is tried again for a day, and holds up nothing else. Costs one query, "
    "and a request or mail a failure. The same for a sensor, a schedule or the automation that raises, once a streak.",
)
def alert_sensor(context: dg.SensorEvaluationContext, mlflow: MlflowTracking) -> dg.SkipReason:
    """Send the messages about failed runs and failed ticks."""
    by = ways()
    now = time.time()
    state: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"on_since": now, "look_from": now}
    if not by:
        context.update_cursor("")  # what fails while it is off is not sent later
        return dg.SkipReason(f"neither {settings.ALERT_WEBHOOK} nor {settings.ALERT_MAIL} is set")
    records = failed_runs(context.instance, max(state["on_since"], state["look_from"] - OVERLAP_S))
    done = deliver(context.instance, records, by, mlflow, now)
    ticks, reported = deliver_ticks(context.instance, by, state.get("ticks", {}), mlflow, state["on_since"], now)
    context.update_cursor(json.dumps({**state, "look_from": done.look_from, "ticks": reported}))
    faults = list(dict.fromkeys(done.faults + ticks.faults))
    for fault in faults:
        context.log.error(f"An alert was not delivered: {fault}.")
    waiting = f", not delivered: {'; '.join(faults)}" if faults else ""
    return dg.SkipReason(f"{done.sent + ticks.sent} alerts sent{waiting}")
