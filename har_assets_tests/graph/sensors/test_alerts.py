"""Messages of failed runs, delivered to real servers on this machine."""

import asyncio
import email
import email.policy
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests

from har_assets import defs
from har_assets.errors import HarError
from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.sensors import alerts, delivery
from har_assets.graph.sensors.alerts import alert_sensor
from har_assets.graph.sensors.delivery import Way, ways
from har_assets.settings import fields


class Listener(ThreadingHTTPServer):
    """Keeps what is posted to it; `answers` are the statuses of the next requests, the last one of all others.

    Bodies in which the pattern `refused` is found are answered with 400.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict[str, Any]] = []
        self.answers = [200]
        self.refused = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/s3cret"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Listener)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        if server.refused and re.search(server.refused, body.decode()):
            status = 400
        if status < 300:
            assert self.headers["Content-Type"] == "application/json"
            server.got.append(json.loads(body))
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


class MailServer:
    """As much of SMTP as a client needs; keeps mails, or refuses them."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.logins: list[str] = []
        self.refuse = False
        self.unknown = ""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        sender, recipients = "", list[str]()
        say("220 test")
        while line := (await reader.readline()).decode().strip():
            command = line.split(":")[0].upper()
            if command.startswith("EHLO"):
                writer.write(b"250-test\r\n250 AUTH PLAIN\r\n")
            elif command.startswith("AUTH"):
                self.logins.append(line)
                say("235 ok")
            elif command == "MAIL FROM":
                sender = line.split("<")[1].split(">")[0]
                say("250 ok")
            elif command == "RCPT TO" and self.unknown and self.unknown in line:
                say("550 no such user")
            elif command == "RCPT TO":
                recipients.append(line.split("<")[1].split(">")[0])
                say("250 ok")
            elif command == "DATA":
                say("354 go on")
                body = await reader.readuntil(b"\r\n.\r\n")
                if self.refuse:
                    say("554 no")
                else:
                    parsed = email.message_from_bytes(body[:-5], policy=email.policy.default)
                    assert isinstance(parsed, email.message.EmailMessage)
                    self.mails.append(parsed)
                    self.envelopes.append((sender, recipients))
                    say("250 ok")
                sender, recipients = "", []
            elif command == "QUIT":
                say("221 bye")
                break
            else:
                say("250 ok")
        writer.close()

    def __enter__(self) -> "MailServer":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:  # one in memory keeps no ticks
        yield made


@dg.asset
def broken_asset() -> dg.MaterializeResult:
    """Fails as the assets here do."""
    with failures_in_words():
        raise HarError("The clip list is empty: materialize test_manifest.")


@dg.asset
def sound_asset() -> dg.MaterializeResult:
    """Does not fail."""
    return dg.MaterializeResult()


def fail(instance: dg.DagsterInstance, count: int = 1) -> list[str]:
    """Runs that have failed, by id."""
    done = [dg.materialize([broken_asset], instance=instance, raise_on_error=False) for _ in range(count)]
    return [result.run_id for result in done]


class Sensor:
    """alert_sensor, tick after tick."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> str:
        """What it says of a tick."""
        with dg.build_sensor_context(
            self.instance,
            self.cursor,
            repository_def=defs.get_repository_def(),
            resources={"mlflow": MlflowTracking(dagster_ui="http://dagster.example")},
        ) as context:
            said = alert_sensor.evaluate_tick(context)
        self.cursor = said.cursor
        return said.skip_message or ""


@pytest.fixture
def sensor(instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Sensor:
    """Switched on, with the listener as webhook and no mail."""
    monkeypatch.setenv("HAR_ALERT_WEBHOOK", listener.url)
    monkeypatch.delenv("HAR_ALERT_MAIL", raising=False)
    monkeypatch.delenv("HAR_ALERTS", raising=False)
    fail(instance)  # before it was switched on
    made = Sensor(instance)
    assert made.tick() == "0 alerts sent"
    return made


def mail_to(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch mail on."""
    for name, value in {
        "HAR_ALERT_MAIL": "ops@example.org, night@example.org",
        "HAR_SMTP_HOST": "127.0.0.1",
        "HAR_SMTP_PORT": str(server.port),
        "HAR_SMTP_SECURITY": "none",
        "HAR_SMTP_FROM": "har@example.org",
        "HAR_SMTP_USER": "har",
        "HAR_SMTP_PASSWORD": "pass",
    }.items():
        monkeypatch.setenv(name, value)


def test_a_failed_run_is_posted_once_with_its_reason_and_a_link(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener
) -> None:
    (run_id,) = fail(instance)
    dg.materialize([sound_asset], instance=instance)
    assert sensor.tick() == "1 alerts sent"
    assert sensor.tick() == "0 alerts sent"
    (message,) = listener.got
    assert message["run_id"] == run_id
    assert message.keys() == FIELDS
    reason = "The clip list is empty: materialize test_manifest."
    assert message["failures"] == [{"step": "broken_asset", "reason": reason}]
    assert message["url"] == f"http://dagster.example/runs/{run_id}"
    assert reason in message["text"]
    assert message["ended"].endswith("+00:00")


def killed(instance: dg.DagsterInstance, parent: dg.DagsterRun | None = None) -> dg.DagsterRun:
    """A run whose worker was killed, in place of `parent`, whose tags it inherits as Dagster hands them on."""
    run = instance.create_run_for_job(
        defs.resolve_job_def("index_to_class"),
        status=dg.DagsterRunStatus.STARTED,
        tags=parent.tags if parent else {},
        parent_run_id=parent.run_id if parent else None,
        root_run_id=parent.root_run_id or parent.run_id if parent else None,
    )
    instance.report_run_failed(run, "Its process 17@4 ended without a word (killed?).")
    return read(instance, run.run_id)


def read(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run
    return run


def test_a_run_that_is_started_again_is_reported_by_its_last_failure(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = killed(instance)
    instance.add_run_tags(first.run_id, {"dagster/will_retry": "true"})
    assert sensor.tick() == "0 alerts sent"
    second = killed(instance, first)
    instance.add_run_tags(first.run_id, {"dagster/auto_retry_run_id": second.run_id})
    instance.add_run_tags(second.run_id, {"dagster/will_retry": "false"})
    assert sensor.tick() == "1 alerts sent"
    assert [message["run_id"] for message in listener.got] == [second.run_id]

    left = killed(instance)  # the daemon wanted to start it again, and has not
    instance.add_run_tags(left.run_id, {"dagster/will_retry": "true"})
    assert sensor.tick() == "0 alerts sent"
    monkeypatch.setattr(alerts, "STARTED_AGAIN_S", 0)
    assert sensor.tick() == "1 alerts sent"
    assert sensor.tick() == "0 alerts sent"
    assert [message["run_id"] for message in listener.got] == [second.run_id, left.run_id]


def test_a_reported_run_that_is_repeated_by_a_click_and_fails_again_is_reported_again(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener
) -> None:
    runs = [killed(instance)]
    for number in range(3):
        assert sensor.tick() == "1 alerts sent", number
        assert sensor.tick() == "0 alerts sent", number
        runs.append(killed(instance, read(instance, runs[-1].run_id)))
    assert [message["run_id"] for message in listener.got] == [run.run_id for run in runs[:3]]


def test_a_run_that_ended_without_a_step_is_reported_with_what_dagster_says(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener
) -> None:
    run = instance.create_run_for_job(defs.resolve_job_def("index_to_class"), status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run, "Its process 17@4 ended without a word (killed?).")
    assert sensor.tick() == "1 alerts sent"
    assert "killed?" in listener.got[0]["text"]
    assert listener.got[0]["assets"] == []


def test_each_recipient_gets_a_mail(
    sensor: Sensor, instance: dg.DagsterInstance, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail_to(mail_server, monkeypatch)
    (run_id,) = fail(instance)
    assert sensor.tick() == "3 alerts sent"  # one by the webhook
    assert sensor.tick() == "0 alerts sent"
    assert sorted(mail_server.envelopes) == [
        ("har@example.org", ["night@example.org"]),
        ("har@example.org", ["ops@example.org"]),
    ]
    assert {mail["To"] for mail in mail_server.mails} == {"ops@example.org", "night@example.org"}
    for mail in mail_server.mails:
        assert mail["From"] == "har@example.org"
        assert mail["Subject"].startswith("materialization failed")
        assert mail.get_content_type() == "text/plain"
        assert "The clip list is empty" in mail.get_content()
        assert f"http://dagster.example/runs/{run_id}" in mail.get_content()
    assert len(mail_server.logins) == 2


def test_a_recipient_that_is_refused_costs_no_other_a_second_mail(
    sensor: Sensor, instance: dg.DagsterInstance, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail_to(mail_server, monkeypatch)
    mail_server.unknown = "ops@example.org"
    fail(instance)
    for _ in range(3):
        assert "the mail server 127.0.0.1" in sensor.tick()
    assert mail_server.envelopes == [("har@example.org", ["night@example.org"])]
    mail_server.unknown = ""
    assert sensor.tick() == "1 alerts sent"
    assert mail_server.envelopes[1:] == [("har@example.org", ["ops@example.org"])]


def test_addresses_that_apprise_does_not_take_get_their_mail(
    sensor: Sensor, instance: dg.DagsterInstance, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail_to(mail_server, monkeypatch)
    monkeypatch.setenv("HAR_ALERT_MAIL", "o'brien@example.org,ops@gpu1")
    monkeypatch.setenv("HAR_SMTP_FROM", "Lab <har@gpu1>")
    monkeypatch.setenv("HAR_SMTP_USER", "har%41")
    monkeypatch.setenv("HAR_SMTP_PASSWORD", "p%41:@/ss")
    fail(instance)
    assert sensor.tick() == "3 alerts sent"
    assert sorted(mail_server.envelopes) == [("har@gpu1", ["o'brien@example.org"]), ("har@gpu1", ["ops@gpu1"])]
    assert {mail["From"] for mail in mail_server.mails} == {"Lab <har@gpu1>"}
    assert b64decode(mail_server.logins[0].split()[-1]) == b"\0har%41\0p%41:@/ss"


def test_a_webhook_that_fails_is_asked_again_by_the_next_tick_and_holds_up_no_mail(
    sensor: Sensor,
    instance: dg.DagsterInstance,
    listener: Listener,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail_to(mail_server, monkeypatch)
    monkeypatch.setenv("HAR_ALERT_MAIL", "ops@example.org")
    runs = fail(instance, 3)
    listener.answers = [503]
    assert sensor.tick() == "3 alerts sent, not delivered: the webhook at 127.0.0.1 answered 503"
    assert (len(mail_server.mails), len(listener.got)) == (3, 0)
    listener.answers = [200, 500, 200]  # goes away again in the middle
    assert sensor.tick().startswith("2 alerts sent, not delivered")
    assert sensor.tick() == "1 alerts sent"
    assert sensor.tick() == "0 alerts sent"
    assert listener.got[0]["run_id"] == runs[0], "the oldest comes first"
    assert sorted(message["run_id"] for message in listener.got) == sorted(runs)
    assert len(mail_server.mails) == 3, "mails were repeated"


def test_messages_that_are_always_refused_hold_up_no_other(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener
) -> None:
    refused = fail(instance, delivery.FAILURES + 1)
    (accepted,) = fail(instance)
    listener.refused = "materialization"
    assert sensor.tick() == "0 alerts sent, not delivered: the webhook at 127.0.0.1 answered 400"
    listener.refused = f'"run_id": "(?!{accepted})'
    for _ in range(40):  # each reaches it with a probability of 1/2
        if not listener.got:
            sensor.tick()
    assert [message["run_id"] for message in listener.got] == [accepted]
    listener.refused = ""
    assert sensor.tick() == f"{len(refused)} alerts sent"
    assert sorted(message["run_id"] for message in listener.got) == sorted([*refused, accepted])


def test_a_message_that_is_refused_does_not_hold_up_the_next(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener
) -> None:
    runs = fail(instance, 2)
    listener.answers = [400, 200]
    assert sensor.tick() == "1 alerts sent, not delivered: the webhook at 127.0.0.1 answered 400"
    assert sensor.tick() == "1 alerts sent"
    assert {message["run_id"] for message in listener.got} == set(runs)


def test_a_mail_server_that_refuses_or_is_away_is_asked_again(
    sensor: Sensor, instance: dg.DagsterInstance, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail_to(mail_server, monkeypatch)
    monkeypatch.setenv("HAR_ALERT_MAIL", "ops@example.org")
    fail(instance)
    mail_server.refuse = True
    assert f"the mail server 127.0.0.1:{mail_server.port} did not take it" in sensor.tick()
    mail_server.refuse = False
    monkeypatch.setenv("HAR_SMTP_PORT", "9")
    assert "the mail server 127.0.0.1:9 did not take it" in sensor.tick()
    monkeypatch.setenv("HAR_SMTP_PORT", str(mail_server.port))
    assert sensor.tick() == "1 alerts sent"
    assert len(mail_server.mails) == 1


def test_the_address_of_the_webhook_is_a_secret(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(instance)
    listener.answers = [302]  # and is not followed
    assert "s3cret" not in sensor.tick()
    monkeypatch.setenv("HAR_ALERT_WEBHOOK", "http://127.0.0.1:9/hooks/s3cret")
    said = sensor.tick()
    assert "could not be reached (ConnectionError)" in said
    assert "s3cret" not in said


def test_addresses_that_are_silent_hold_up_no_other_and_end_the_tick_in_time(
    sensor: Sensor,
    instance: dg.DagsterInstance,
    listener: Listener,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(delivery, "MESSAGE_S", 1.5)
    monkeypatch.setattr(delivery, "TICK_S", 2.0)
    mail_to(mail_server, monkeypatch)
    fail(instance, 3)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HAR_ALERT_WEBHOOK", f"http://{host}/")
        monkeypatch.setenv("HAR_ALERTS", f"json://{host}/?rto=60 json://{host}/b?rto=60, {json_address(listener)}")
        started = time.monotonic()
        said = sensor.tick()
        took = time.monotonic() - started
        assert said.startswith("9 alerts sent, not delivered")  # 3 runs, 2 recipients and the listener
        assert "the webhook at 127.0.0.1 could not be reached (ReadTimeout)" in said
        assert "address 1 of HAR_ALERTS (json://) did not take it" in said
        assert "address 2 of HAR_ALERTS (json://) did not take it" in said
        assert (len(mail_server.mails), len(listener.got)) == (6, 3)
        assert took < 8
        monkeypatch.setenv("HAR_SMTP_PORT", str(silent.getsockname()[1]))
        fail(instance)
        assert f"the mail server {host} did not take it" in sensor.tick()


def test_the_limits_end_a_tick_within_the_minute_of_dagster() -> None:
    assert delivery.TICK_S + max(delivery.MESSAGE_S, 2 * delivery.TIMEOUT_S) <= 45


def test_a_message_that_nobody_takes_is_given_up_after_a_day(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(instance)
    listener.answers = [500]
    sensor.tick()
    monkeypatch.setattr(delivery, "GIVE_UP_S", -1.0)
    assert "given up after a day" in sensor.tick()
    assert sensor.tick() == "0 alerts sent"


def test_a_tick_ends_in_time_however_many_runs_have_failed(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = fail(instance, 3)
    monkeypatch.setattr(delivery, "TICK_S", 0.0)
    assert [sensor.tick() for _ in runs] == ["1 alerts sent"] * 3
    assert sensor.tick() == "0 alerts sent"


def test_it_is_off_while_no_way_is_set(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAR_ALERT_WEBHOOK")
    fail(instance)
    assert sensor.tick() == "none of HAR_ALERTS, HAR_ALERT_WEBHOOK, HAR_ALERT_MAIL is set"
    monkeypatch.setenv("HAR_ALERT_WEBHOOK", listener.url)
    assert sensor.tick() == "0 alerts sent"  # what failed in between is not sent
    fail(instance)
    assert sensor.tick() == "1 alerts sent"


def ways_of(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> list[Way]:
    """The ways of an environment with these settings and no other."""
    for name in fields.NAMES.values():
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return ways()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"HAR_ALERT_WEBHOOK": "file:///s3cret"}, "set it to an address such as https"),
        ({"HAR_ALERT_MAIL": "ops@example.org"}, "set HAR_SMTP_HOST"),
        ({"HAR_ALERT_MAIL": "ops@example.org", "HAR_SMTP_HOST": "h", "HAR_SMTP_SECURITY": "ssl"}, "'starttls', 'tls'"),
        ({"HAR_ALERT_MAIL": "ops@example.org", "HAR_SMTP_HOST": "h", "HAR_SMTP_PORT": "0"}, "HAR_SMTP_PORT is '0'"),
        ({"HAR_ALERT_MAIL": "ops\nBcc: all@example.org", "HAR_SMTP_HOST": "h"}, "commas between"),
        ({"HAR_ALERTS": "json://a.example, slack://s3cret"}, "address 2 of HAR_ALERTS is none that apprise knows"),
        ({"HAR_ALERTS": "nosuch://s3cret@s3cret.example/s3cret"}, r"address 1 .*is none that apprise knows"),
        ({"HAR_ALERTS": "https://s3cret.example/s3cret"}, r"address 1 .*is none that apprise knows"),
        ({"HAR_ALERTS": "s3cret"}, r"address 1 .*is none that apprise knows"),
        ({"HAR_ALERTS": "tgram://123456789:s3cret_s3cret_s3cret_s3cret_s3cre/1/2"}, "2 recipients: write an address"),
        ({"HAR_ALERTS": "mailto://u:s3cret@example.org?to=a@example.org,b@example.org"}, "2 recipients: write an"),
    ],
)
def test_settings_that_say_nothing_are_refused(
    environment: Mapping[str, str], sentence: str, everything_logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HarError, match=sentence) as refused:
        ways_of(environment, monkeypatch)
    assert "s3cre" not in "".join([str(refused.value), *everything_logged])


def test_mail_is_encrypted_unless_it_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    instantiate = delivery._service

    def note(address: dict[str, Any]) -> Any:
        made.append({**address, "service": instantiate(address)})
        return made[-1]["service"]

    monkeypatch.setattr(delivery, "_service", note)
    named = {"HAR_ALERT_MAIL": "ops@example.org", "HAR_SMTP_HOST": "mail.example.org"}
    ways_of(named, monkeypatch)
    ways_of({**named, "HAR_SMTP_SECURITY": "tls"}, monkeypatch)
    seen = [(mail["service"].secure_mode, mail["service"].port, mail["service"].verify_certificate) for mail in made]
    assert seen == [("starttls", 587, True), ("ssl", 465, True)]
    assert made[0]["service"].from_addr == (False, "ops@example.org")


def test_a_server_without_encryption_gets_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with MailServer() as server:
        named = {
            "HAR_ALERT_MAIL": "a@b.org",
            "HAR_SMTP_HOST": "127.0.0.1",
            "HAR_SMTP_PORT": str(server.port),
            "HAR_SMTP_USER": "user",
            "HAR_SMTP_PASSWORD": "pass",
        }
        (way,) = ways_of(named, monkeypatch)
        assert way.send(MESSAGE) == f"the mail server 127.0.0.1:{server.port} did not take it"
        assert server.logins == []
        address = f"mailtos://user:pass@127.0.0.1:{server.port}/a@b.org?from=a@b.org"
        (way,) = ways_of({"HAR_ALERTS": address}, monkeypatch)
        assert way.send(MESSAGE) == "address 1 of HAR_ALERTS (mailtos://) did not take it"
        assert server.logins == []


FIELDS = {"run_id", "job", "assets", "failures", "started", "ended", "url", "text"}
"""Fields of the JSON that programs of other people read."""

MESSAGE = {"job": "j", "assets": [], "run_id": "r", "text": "t"}


def json_address(listener: Listener, path: str = "hook") -> str:
    """An address of apprise, which posts JSON of its own."""
    return f"json://127.0.0.1:{listener.server_port}/{path}"


@pytest.fixture
def everything_logged() -> Iterator[list[str]]:
    """All that any logger says at any level, as text."""
    said: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(f"{record.name}: {record.getMessage()} {record.exc_text or ''}")

    recorder, root = Recorder(1), logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("apprise", "urllib3", "urllib3.connectionpool"))]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    root.addHandler(recorder)
    yield said
    root.removeHandler(recorder)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_each_address_of_apprise_gets_one_message(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAR_ALERT_WEBHOOK")
    addresses = [json_address(listener, path) for path in "abc"]
    monkeypatch.setenv("HAR_ALERTS", f" {addresses[0]}  {addresses[1]},{addresses[2]}, {addresses[0]}")
    (run_id,) = fail(instance)
    assert sensor.tick() == "3 alerts sent"
    assert sensor.tick() == "0 alerts sent"
    for message in listener.got:
        assert message["title"] == f"materialization failed: {run_id}"
        assert message["message"].startswith(f"Run {run_id[:8]} failed.\nbroken_asset: The clip list is empty")
        assert message["message"].endswith(f"/runs/{run_id}")
        assert message["type"] == "failure"
    monkeypatch.setenv("HAR_ALERTS", " ".join(reversed(addresses)))
    assert sensor.tick() == "0 alerts sent", "an address keeps its key in another place of the list"
    (run,) = instance.get_runs(dg.RunsFilter(run_ids=[run_id]))
    tags = [tag for tag in run.tags if "har_alert" in tag]
    assert len(tags) == 3
    assert all(re.fullmatch(r"\.dagster/har_alert_json-[0-9a-f]{8}", tag) for tag in tags)


def test_no_secret_of_an_address_is_written_anywhere(
    sensor: Sensor,
    instance: dg.DagsterInstance,
    listener: Listener,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
    everything_logged: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    mail_to(mail_server, monkeypatch)
    monkeypatch.setenv("HAR_SMTP_PASSWORD", "s3cret")
    monkeypatch.setattr(delivery, "FAILURES", 1)  # apprise waits 5.5 s between two mails to a public server
    query = "?+X-Key=s3cret&-token=s3cret&:note=s3cret"
    host = f"127.0.0.1:{listener.server_port}"
    for address in (f"json://s3cret:s3cret@{host}/s3cret{query}", f"json://s3cret@127.0.0.1:9/s3cret{query}"):
        monkeypatch.setenv("HAR_ALERTS", f"{address} mailto://u:s3cret@127.0.0.1:9/a@b.org?from=a@b.org&smtp=127.0.0.1")
        for status in (200, 302, 500):
            listener.answers = [status]
            (run_id,) = fail(instance)
            assert "not delivered" in sensor.tick()
    (run,) = instance.get_runs(dg.RunsFilter(run_ids=[run_id]))
    captured = capfd.readouterr()
    written = [sensor.cursor, str(run.tags), sensor.tick(), captured.out, captured.err, *everything_logged]
    assert "alert was not delivered" in captured.err
    assert "s3cret" not in "".join(map(str, written))
    requests.post(listener.url, json={}, timeout=5)  # whoever else posts is logged as ever
    assert "s3cret" in "".join(everything_logged)


def test_messages_that_were_sent_before_an_upgrade_are_not_sent_again(
    sensor: Sensor,
    instance: dg.DagsterInstance,
    listener: Listener,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail_to(mail_server, monkeypatch)
    first, second, third = fail(instance, 3)
    instance.add_run_tags(first, {".dagster/har_alert_webhook": "2026-11-20T10:00:00+00:00"})
    instance.add_run_tags(second, {".dagster/har_alert_mail": "2026-11-20T10:00:00+00:00"})
    assert sensor.tick() == "6 alerts sent"
    assert {message["run_id"] for message in listener.got} == {second, third}
    texts = "".join(mail.get_content() for mail in mail_server.mails)
    assert (texts.count(first), texts.count(second), texts.count(third)) == (2, 0, 2)
    assert sensor.tick() == "0 alerts sent"


def test_apprise_is_imported_for_its_own_addresses_only() -> None:
    code = (
        "import os, sys, har_assets.graph.sensors.alerts\n"
        "from har_assets.graph.sensors.delivery import ways\n"
        "os.environ['HAR_ALERT_WEBHOOK'] = 'https://chat.example/'; ways(); print('apprise' in sys.modules)\n"
        "os.environ['HAR_ALERTS'] = 'json://chat.example'; ways(); print('apprise' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
