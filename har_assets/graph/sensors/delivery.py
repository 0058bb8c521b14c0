"""Ways of sending an alert: a POST of JSON to a web address, and mail. They are chosen by environment variables."""

import os
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Protocol
from urllib.parse import urlsplit

from har_assets.errors import HarError

WEBHOOK_VARIABLE = "HAR_ALERT_WEBHOOK"
"""Environment variable: address that gets a POST of JSON for every failed run."""

MAIL_VARIABLE = "HAR_ALERT_MAIL"
"""Environment variable: mail addresses, with commas between them."""

TIMEOUT_S = 5.0
"""Longest silence of a server, seconds."""

TICK_S = 20.0
"""Seconds after which a tick starts no further message about runs, and none about ticks: Dagster ends it after 60."""

GIVE_UP_S = 24 * 3600.0
"""Age of a failure, seconds, after which its message is given up."""

LONGEST_REASON = 2000
"""Characters of a reason that are sent."""


class UndeliveredError(Exception):
    """A message that could not be sent now. `refused`: its content was refused, so the next message may be accepted."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class Way(Protocol):
    """A way of sending."""

    @property
    def name(self) -> str:
        """One word."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message of alerts.py or tick_alerts.py; UndeliveredError where that fails."""


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
    """The ways that the environment names; none without any. HarError for settings that contradict each other."""
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


@dataclass
class Delivery:
    """The result of one tick of alert_sensor."""

    sent: int = 0
    faults: list[str] = field(default_factory=list)
    """Why messages were not sent, one sentence each."""
    look_from: float = 0.0
    """Time of the oldest failure whose message is still to be sent, else of the tick; seconds of the epoch."""
