"""Ways of sending an alert: a POST of JSON to a web address, mail, and any service that apprise knows.

They are chosen by environment variables. apprise sends everything but the JSON, whose body other programs read. It
tells success from failure only, not a message that was refused from a service that is down: each is tried alone.
"""

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from har_assets import settings
from har_assets.errors import HarError

if TYPE_CHECKING:
    from har_assets.settings.fields import Settings

TIMEOUT_S = 5.0
"""Longest silence of a web address or a mail server, seconds."""

MESSAGE_S = 30.0
"""Longest time that apprise may take over a message, seconds. What it still sends later is sent again."""

TICK_S = 15.0
"""Seconds after which a tick starts no further message: Dagster ends it after 60."""

FAILURES = 3
"""Failures after which a way is left until the next tick."""

GIVE_UP_S = 24 * 3600.0
"""Age of a failure, seconds, after which its message is given up."""

LONGEST_REASON = 2000
"""Characters of a reason that are sent."""

SECURITY = {"starttls": ("starttls", 587), "tls": ("ssl", 465), "none": ("insecure", 25)}
"""Security of mail to apprise's word for it and the usual port."""

_SENDING: ContextVar[bool] = ContextVar("sending", default=False)


@dataclass(frozen=True)
class Way:
    """A way of sending."""

    key: str
    """Its name in tags and cursors, the same as long as the address is."""
    send: Callable[[Mapping[str, Any]], str | None]
    """Sends a message; returns why that failed, without anything of an address that may be secret, else None."""

    @property
    def kind(self) -> str:
        """Beginning of the key, and the key of all recipients of mail in older tags and cursors."""
        return self.key.partition("-")[0]


@dataclass(frozen=True)
class Alert:
    """A message about one failure."""

    failed_at: float
    """Seconds of the epoch."""
    message: Callable[[], dict[str, Any]]
    waiting: set[str]
    """Keys of the ways that are still to send it; deliver() removes those that are done."""
    note: Callable[[str, str], None]
    """Records for the key of a way when it was sent, or that it was given up."""


def deliver(alerts: Sequence[Alert], by: Sequence[Way], now: float) -> tuple[int, list[str]]:
    """Try the alerts by each way, all ways at the same time, so that none holds up another.

    Returns how many messages were sent, and why others were not.
    """
    faults = []
    for alert in alerts:
        if alert.waiting and now - alert.failed_at > GIVE_UP_S:
            faults.append(f"a message about {iso(alert.failed_at)} was given up after a day")
            while alert.waiting:
                alert.note(alert.waiting.pop(), "given up")
    for name in ("urllib3.connectionpool", "urllib3.util.retry"):  # at some levels they write whole addresses
        logging.getLogger(name).addFilter(_may_be_logged)
    waiting = sum(len(alert.waiting) for alert in alerts)
    noting = threading.Lock()  # one of two tags that are written to a run at once is lost

    def send_all(way: Way) -> list[str]:
        _SENDING.set(True)
        failures: list[str] = []
        until = time.monotonic() + TICK_S
        left = [alert for alert in alerts if way.key in alert.waiting]
        while left and len(failures) < FAILURES:
            alert = left.pop(0)
            if failure := way.send(alert.message()):
                failures.append(failure)
                random.shuffle(left)  # messages that are refused for good do not always come first
            else:
                with noting:
                    alert.note(way.key, iso(now))
                alert.waiting.remove(way.key)
            if time.monotonic() > until:
                break
        return failures

    with ThreadPoolExecutor(len(by)) as pool:
        faults += [failure for failures in pool.map(send_all, by) for failure in failures]
    return waiting - sum(len(alert.waiting) for alert in alerts), list(dict.fromkeys(faults))


def _may_be_logged(_record: logging.LogRecord) -> bool:
    return not _SENDING.get()


def ways() -> list[Way]:
    """The ways that the settings name; none without any. HarError for an address that apprise does not know."""
    values = settings.read()
    found = [Way("webhook", partial(_post, values.alert_webhook.get_secret_value()))] if values.alert_webhook else []
    found += _mail(values)
    if values.alerts:
        found += _services(values.alerts.get_secret_value())
    return found


def _post(url: str, message: Mapping[str, Any]) -> str | None:
    """Post the message as JSON. Its `text` is what Slack, Mattermost and the like show."""
    import requests

    host = urlsplit(url).hostname  # the whole address is a secret: it is never logged
    try:
        with requests.post(url, json=message, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as answer:
            return f"the webhook at {host} answered {answer.status_code}" if answer.status_code >= 300 else None
    except requests.RequestException as error:
        return f"the webhook at {host} could not be reached ({type(error).__name__})"


def _mail(values: "Settings") -> list[Way]:
    mode, usual_port = SECURITY[values.smtp_security]
    host, port = values.smtp_host, values.smtp_port or usual_port
    password = values.smtp_password.get_secret_value() if values.smtp_password else ""
    login = {"user": quote(values.smtp_user), "password": quote(password)}
    server = {"schema": "mailto", "host": host, "smtp_host": host, "port": port, "secure_mode": mode, "cto": TIMEOUT_S}
    found = []
    for address in dict.fromkeys(values.alert_mail):
        mail = _service({**server, **login, "from_addr": "har@example.org"})
        # Past apprise's parser, which refuses ops@mail and makes brien@example.org of o'brien@example.org.
        mail.from_addr, mail.targets = (False, values.smtp_from or values.alert_mail[0]), [(False, address)]
        mail.request_rate_per_sec = 0  # the pause between two messages is for public services
        found.append(_way("mail", address, mail, f"the mail server {host}:{port}"))
    return found


def _services(addresses: str) -> list[Way]:
    from apprise.utils.parse import parse_urls

    found = []
    for number, address in enumerate(dict.fromkeys(parse_urls(addresses)), 1):  # type: ignore[no-untyped-call]
        title = f"address {number} of {settings.ALERTS}"  # no more, as the host of some addresses is a token
        service = _service(address)
        if service is None:
            raise HarError(f"{title} is none that apprise knows: write it as https://appriseit.com/services/ shows.")
        if len(service) > 1:  # a message that one of them refuses would be sent to the others again
            raise HarError(f"{title} has {len(service)} recipients: write an address for each of them.")
        scheme = address.partition(":")[0].lower()
        found.append(_way(scheme, address, service, f"{title} ({scheme}://)"))
    return found


def _service(address: str | dict[str, Any]) -> Any:
    """Make the sender of an address of apprise; None for one that it does not know."""
    import apprise

    logging.getLogger("apprise").disabled = True  # it writes whole addresses at some levels
    return apprise.Apprise.instantiate(address, apprise.AppriseAsset(app_id="har_assets"))


def _way(kind: str, address: str, service: Any, title: str) -> Way:
    import apprise

    def send(message: Mapping[str, Any]) -> str | None:
        about = ", ".join(message["assets"][:3]) or message["run_id"]
        subject = f"{message['job']} failed{f': {about}' if about else ''}"[:200]
        sender = apprise.Apprise(service)
        done = sender.notify(message["text"], subject, "failure", body_format="text", timeout=MESSAGE_S)
        return None if done else f"{title} did not take it"

    return Way(f"{kind}-{hashlib.sha256(address.encode()).hexdigest()[:8]}", send)


def compose(headline: str, reasons: Sequence[tuple[str, str]], **about: Any) -> dict[str, Any]:
    """Write a message: `run_id`, `job`, `assets`, `failures` (of steps), times, `url` and `text`."""
    failures = [{"step": step, "reason": (said or "no reason given")[:LONGEST_REASON]} for step, said in reasons]
    lines = [": ".join(filter(None, failure.values())) for failure in failures]
    return {**about, "failures": failures, "text": "\n".join([headline, *lines, about["url"]])}


def iso(seconds: float | None) -> str:
    """A time (seconds of the epoch) in UTC, to the second; empty for None."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""
