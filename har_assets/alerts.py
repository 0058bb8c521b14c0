"""A message for every run that fails: JSON to a web address, mail, or both. Failed ticks are in tick_alerts.

A plain sensor, because Dagster's `run_failure_sensor` goes past a failure whose message could not be sent. Here a tag
on the run says what has been sent by which way, so a way that is down is tried again at the next tick, and neither the
other way nor the next message waits for it. A process that is killed between sending and noting sends twice, never not.
"""

import json
import os
import smtplib
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any, Protocol
from urllib.parse import urlsplit

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.storage.tags import HIDDEN_TAG_PREFIX

from har_assets.errors import HarError
from har_assets.resources.mlflow import MlflowTracking

WEBHOOK_VARIABLE = "HAR_ALERT_WEBHOOK"
"""Environment variable: address that gets a POST of JSON for every failed run."""
MAIL_VARIABLE = "HAR_ALERT_MAIL"
"""Environment variable: mail addresses, with commas between them."""
SENT_TAG = f"{HIDDEN_TAG_PREFIX}har_alert_"
"""Beginning of the tag of a run that says when its message was sent, by way of sending."""

TIMEOUT_S = 5.0
"""Longest silence of a server."""
TICK_S = 20.0
"""Seconds after which no further message of runs is begun, and none of ticks: Dagster ends a tick after 60."""
GIVE_UP_S = 24 * 3600.0
"""Age of a failure whose message is no longer tried."""
OVERLAP_S = 600.0
"""Runs are looked for from so long before the last tick: clocks of several machines differ."""
LONGEST_REASON = 2000
"""Characters of a reason that are sent."""


class UndeliveredError(Exception):
    """A message that could not be sent now. `refused`: by its content, so that the next one may go through."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class Way(Protocol):
    """A way of sending."""

    @property
    def name(self) -> str:
        """One word."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send what `message_of` says; UndeliveredError where that fails."""


@dataclass(frozen=True)
class Webhook:
    """POST of the message as JSON. Its `text` is what Slack, Mattermost and the like show."""

    url: str
    name: str = "webhook"

    def send(self, message: Mapping[str, Any]) -> None:
        """Any status below 300 is an acceptance."""
        import requests

        host = urlsplit(self.url).hostname  # the whole address is a secret: it is never logged
        try:
            with requests.post(self.url, json=message, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as answer:
                status = answer.status_code
        except requests.RequestException as error:
            raise UndeliveredError(f"the webhook at {host} could not be reached ({type(error).__name__})") from None
        if status >= 300:
            refused = 400 <= status < 500 and status not in (401, 403, 404, 408, 410, 429)
            raise UndeliveredError(f"the webhook at {host} answered {status}", refused=refused)


@dataclass(frozen=True)
class Mail:
    """A mail through an SMTP server."""

    to: tuple[str, ...]
    sender: str
    host: str
    port: int
    security: str
    """`starttls`, `tls` (from the first byte) or `none`."""
    user: str = ""
    password: str = ""
    name: str = "mail"

    def send(self, message: Mapping[str, Any]) -> None:
        """Accepted by the server for at least one of the addresses."""
        mail = EmailMessage()
        mail["From"], mail["To"] = self.sender, ", ".join(self.to)
        about = ", ".join(message["assets"][:3]) or message["run_id"]
        mail["Subject"] = f"{message['job']} failed{f': {about}' if about else ''}"[:200]
        mail.set_content(message["text"] + "\n")
        context = ssl.create_default_context()
        try:
            connection = (
                smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=context)
                if self.security == "tls"
                else smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)
            )
            with connection as server:
                if self.security == "starttls":
                    server.starttls(context=context)
                if self.user:
                    server.login(self.user, self.password)
                server.send_message(mail)
        except (OSError, smtplib.SMTPException) as error:
            refused = isinstance(error, smtplib.SMTPDataError | smtplib.SMTPRecipientsRefused)
            raise UndeliveredError(
                f"the mail server {self.host}:{self.port} did not take it ({type(error).__name__})", refused=refused
            ) from None


SECURITY_PORTS = {"starttls": 587, "tls": 465, "none": 25}


def ways(environment: Mapping[str, str] = os.environ) -> list[Way]:
    """The ways that the environment names; none without any. HarError for settings that say nothing together."""
    found: list[Way] = []
    if url := environment.get(WEBHOOK_VARIABLE, ""):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise HarError(
                f"{WEBHOOK_VARIABLE} is no web address: set it to one that begins with https://, or unset it."
            )
        found.append(Webhook(url))
    if recipients := environment.get(MAIL_VARIABLE, ""):
        host = environment.get("HAR_SMTP_HOST", "")
        if not host:
            raise HarError(f"{MAIL_VARIABLE} names recipients and no mail server is known: set HAR_SMTP_HOST.")
        security = environment.get("HAR_SMTP_SECURITY") or "starttls"
        if security not in SECURITY_PORTS:
            raise HarError(f"HAR_SMTP_SECURITY is {security!r}: choose {', '.join(SECURITY_PORTS)}.")
        port = environment.get("HAR_SMTP_PORT") or str(SECURITY_PORTS[security])
        if not (port.isdecimal() and 0 < int(port) < 65536):
            raise HarError(f"HAR_SMTP_PORT is {port!r}: set it to a number from 1 to 65535.")
        to = tuple(address.strip() for address in recipients.split(",") if address.strip())
        if not to or any("@" not in address or set(address) & set(" \r\n<>") for address in to):
            raise HarError(f"{MAIL_VARIABLE} is {recipients!r}: write addresses with commas between them.")
        found.append(
            Mail(
                to,
                environment.get("HAR_SMTP_FROM") or to[0],
                host,
                int(port),
                security,
                environment.get("HAR_SMTP_USER", ""),
                environment.get("HAR_SMTP_PASSWORD", ""),
            )
        )
    return found


def message_of(instance: DagsterInstance, record: RunRecord, url: str) -> dict[str, Any]:
    """What is sent of a failed run: `run_id`, `job`, `assets`, `failures` (step and reason), times, `url`, `text`."""
    run = record.dagster_run
    failures: list[dict[str, str]] = []
    ended = ""
    for entry in instance.all_logs(run.run_id, of_type={DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}):
        event = entry.dagster_event
        if event is None:
            continue
        if event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data.description if data.user_failure_data else data.error_display_string
            failures.append({"step": event.step_key or "", "reason": (said or "no reason given")[:LONGEST_REASON]})
        else:
            ended = event.message or ""
    if not failures:
        failures = [{"step": "", "reason": (ended or "no reason given")[:LONGEST_REASON]}]
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


@dataclass
class Delivery:
    """What a tick has done."""

    sent: int = 0
    faults: list[str] = field(default_factory=list)
    """Why messages were not sent, one sentence each."""
    look_from: float = 0.0
    """Time of the oldest failure whose message waits, else of the tick; seconds of the epoch."""


def deliver(
    instance: DagsterInstance, records: Sequence[RunRecord], by: Sequence[Way], link: MlflowTracking, now: float
) -> Delivery:
    """Send what was not sent yet, by each way for itself: one that is down is left until the next tick."""
    done = Delivery(look_from=now)
    for way in by:
        until = time.monotonic() + TICK_S / len(by)
        waiting = [record for record in records if SENT_TAG + way.name not in record.dagster_run.tags]
        for number, record in enumerate(waiting):
            run_id = record.dagster_run.run_id
            if now - _failed_at(record) > GIVE_UP_S:
                done.faults.append(f"the {way.name} of run {run_id} was given up after a day")
                instance.add_run_tags(run_id, {SENT_TAG + way.name: "given up"})
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
                instance.add_run_tags(run_id, {SENT_TAG + way.name: _time(now)})
            if time.monotonic() > until and number + 1 < len(waiting):
                done.look_from = min(done.look_from, _failed_at(waiting[number + 1]))
                break
    return done


@dg.sensor(
    minimum_interval_seconds=30,
    # Setting a variable is the switch; it can still be switched off in the web UI.
    default_status=dg.DefaultSensorStatus.RUNNING
    if os.environ.get(WEBHOOK_VARIABLE) or os.environ.get(MAIL_VARIABLE)
    else dg.DefaultSensorStatus.STOPPED,
    description="Every 30 seconds: for each run that has failed, whoever started it, JSON is posted to "
    f"{WEBHOOK_VARIABLE} and mail is sent to {MAIL_VARIABLE} by the server HAR_SMTP_HOST; off while neither is set. "
    "What cannot be delivered is tried again for a day, and holds up nothing else. Costs one query, and a "
    "request or mail a failure. The same for a sensor, a schedule or the automation that raises, once a streak.",
)
def alert_sensor(context: dg.SensorEvaluationContext, mlflow: MlflowTracking) -> dg.SkipReason:
    """Send the messages of failed runs and of failed ticks."""
    from har_assets.tick_alerts import deliver_ticks

    by = ways()
    now = time.time()
    state: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"on_since": now, "look_from": now}
    if not by:
        context.update_cursor("")  # what fails while it is off is not sent later
        return dg.SkipReason(f"neither {WEBHOOK_VARIABLE} nor {MAIL_VARIABLE} is set")
    records = failed_runs(context.instance, max(state["on_since"], state["look_from"] - OVERLAP_S))
    done = deliver(context.instance, records, by, mlflow, now)
    ticks, told = deliver_ticks(context.instance, by, state.get("ticks", {}), mlflow, state["on_since"], now)
    context.update_cursor(json.dumps({**state, "look_from": done.look_from, "ticks": told}))
    faults = list(dict.fromkeys(done.faults + ticks.faults))
    for fault in faults:
        context.log.error(f"An alert was not delivered: {fault}.")
    waiting = f", not delivered: {'; '.join(faults)}" if faults else ""
    return dg.SkipReason(f"{done.sent + ticks.sent} alerts sent{waiting}")
