"""Messages of failed runs, delivered to real servers on this machine."""

import asyncio
import email
import email.policy
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from har_assets import defs
from har_assets.errors import HarError
from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.sensors import alerts, delivery
from har_assets.graph.sensors.alerts import alert_sensor
from har_assets.graph.sensors.delivery import Mail, UndeliveredError, Webhook, ways


class Listener(ThreadingHTTPServer):
    """Keeps what is posted to it; `answers` are the statuses of the next requests, the last one of all others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict[str, Any]] = []
        self.answers = [200]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/s3cret"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Listener)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
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
    reason = "The clip list is empty: materialize test_manifest."
    assert message["failures"] == [{"step": "broken_asset", "reason": reason}]
    assert message["url"] == f"http://dagster.example/runs/{run_id}"
    assert reason in message["text"]
    assert message["ended"].endswith("+00:00")


def test_a_run_that_ended_without_a_step_is_reported_with_what_dagster_says(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener
) -> None:
    run = instance.create_run_for_job(defs.resolve_job_def("index_to_class"), status=dg.DagsterRunStatus.STARTED)
    instance.report_run_failed(run, "Its process 17@4 ended without a word (killed?).")
    assert sensor.tick() == "1 alerts sent"
    assert "killed?" in listener.got[0]["text"]
    assert listener.got[0]["assets"] == []


def test_mails_go_to_all_recipients(
    sensor: Sensor, instance: dg.DagsterInstance, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail_to(mail_server, monkeypatch)
    (run_id,) = fail(instance)
    assert sensor.tick() == "2 alerts sent"  # one by each way
    (mail,) = mail_server.mails
    assert mail_server.envelopes == [("har@example.org", ["ops@example.org", "night@example.org"])]
    assert mail["To"] == "ops@example.org, night@example.org"
    assert "The clip list is empty" in mail.get_content()
    assert f"http://dagster.example/runs/{run_id}" in mail.get_content()
    assert len(mail_server.logins) == 1


def test_a_webhook_that_fails_is_asked_again_by_the_next_tick_and_holds_up_no_mail(
    sensor: Sensor,
    instance: dg.DagsterInstance,
    listener: Listener,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail_to(mail_server, monkeypatch)
    runs = fail(instance, 3)
    listener.answers = [503]
    assert sensor.tick() == "3 alerts sent, not delivered: the webhook at 127.0.0.1 answered 503"
    assert (len(mail_server.mails), len(listener.got)) == (3, 0)
    listener.answers = [200, 500, 200]  # goes away again in the middle
    assert sensor.tick().startswith("1 alerts sent, not delivered")
    assert sensor.tick() == "2 alerts sent"
    assert sensor.tick() == "0 alerts sent"
    assert [message["run_id"] for message in listener.got] == runs
    assert len(mail_server.mails) == 3, "mails were repeated"


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
    fail(instance)
    mail_server.refuse = True
    assert "SMTPDataError" in sensor.tick()
    mail_server.refuse = False
    monkeypatch.setenv("HAR_SMTP_PORT", "9")
    assert "127.0.0.1:9 did not take it (ConnectionRefusedError)" in sensor.tick()
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


def test_a_silent_webhook_is_left_after_some_seconds(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_S", 0.2)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UndeliveredError, match="ReadTimeout"):
            Webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/").send({})
        with pytest.raises(UndeliveredError, match="did not take it"):
            Mail(("a@b",), "a@b", "127.0.0.1", silent.getsockname()[1], "none").send(
                {"job": "j", "assets": [], "run_id": "r", "text": "t"}
            )


def test_a_message_that_nobody_takes_is_given_up_after_a_day(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(instance)
    listener.answers = [500]
    sensor.tick()
    monkeypatch.setattr(alerts, "GIVE_UP_S", -1.0)
    assert "given up after a day" in sensor.tick()
    assert sensor.tick() == "0 alerts sent"


def test_a_tick_ends_in_time_however_many_runs_have_failed(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = fail(instance, 3)
    monkeypatch.setattr(alerts, "TICK_S", 0.0)
    assert [sensor.tick() for _ in runs] == ["1 alerts sent"] * 3
    assert sensor.tick() == "0 alerts sent"


def test_it_is_off_while_no_way_is_set(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAR_ALERT_WEBHOOK")
    fail(instance)
    assert sensor.tick() == "neither HAR_ALERT_WEBHOOK nor HAR_ALERT_MAIL is set"
    monkeypatch.setenv("HAR_ALERT_WEBHOOK", listener.url)
    assert sensor.tick() == "0 alerts sent"  # what failed in between is not sent
    fail(instance)
    assert sensor.tick() == "1 alerts sent"


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"HAR_ALERT_WEBHOOK": "file:///etc/passwd"}, "is no web address"),
        ({"HAR_ALERT_MAIL": "ops@example.org"}, "set HAR_SMTP_HOST"),
        ({"HAR_ALERT_MAIL": "ops@example.org", "HAR_SMTP_HOST": "h", "HAR_SMTP_SECURITY": "ssl"}, "choose starttls"),
        ({"HAR_ALERT_MAIL": "ops@example.org", "HAR_SMTP_HOST": "h", "HAR_SMTP_PORT": "x"}, "from 1 to 65535"),
        ({"HAR_ALERT_MAIL": "ops\nBcc: all@example.org", "HAR_SMTP_HOST": "h"}, "commas between"),
    ],
)
def test_settings_that_say_nothing_are_refused(environment: Mapping[str, str], sentence: str) -> None:
    with pytest.raises(HarError, match=sentence):
        ways(environment)


def test_mail_is_encrypted_unless_it_says_otherwise() -> None:
    (way,) = ways({"HAR_ALERT_MAIL": "ops@example.org", "HAR_SMTP_HOST": "mail.example.org"})
    assert isinstance(way, Mail)
    assert (way.security, way.port, way.sender) == ("starttls", 587, "ops@example.org")


def test_a_server_without_encryption_gets_no_password() -> None:
    with MailServer() as server:
        way = Mail(("a@b.org",), "a@b.org", "127.0.0.1", server.port, "starttls", "user", "pass")
        with pytest.raises(UndeliveredError, match="SMTPNotSupportedError"):
            way.send({"job": "j", "assets": [], "run_id": "r", "text": "t"})
        assert server.logins == []
