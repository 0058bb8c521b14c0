"""Messages of failed ticks: with made ticks on a real instance, and with a real daemon, to a server on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo

from har_assets.graph.sensors import tick_alerts
from har_assets_tests.graph.sensors.test_alerts import (
    FIELDS,
    Listener,
    MailServer,
    Sensor,
    instance,
    listener,
    mail_server,
    mail_to,
    sensor,
)
from har_assets_tests.project import REPOSITORY

__all__ = ["instance", "listener", "mail_server", "sensor"]  # fixtures

LOCATION = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name="har_assets"), "har_assets")
REPOSITORY_ORIGIN = RemoteRepositoryOrigin(LOCATION, "__repository__")


class Instigator:
    """A sensor or schedule of which ticks are made up, as the daemon notes them."""

    def __init__(self, instance: dg.DagsterInstance, name: str, kind: InstigatorType = InstigatorType.SENSOR) -> None:
        data = SensorInstigatorData() if kind is InstigatorType.SENSOR else ScheduleInstigatorData("0 3 * * 1")
        origin = RemoteInstigatorOrigin(REPOSITORY_ORIGIN, name)
        self.instance = instance
        self.state = InstigatorState(origin, kind, InstigatorStatus.RUNNING, data)
        instance.add_instigator_state(self.state)
        self.now = time.time() + 1

    def tick(self, status: TickStatus, after_s: float = 30) -> None:
        self.now += after_s
        error = None
        if status is TickStatus.FAILURE:
            inner = SerializableErrorInfo("ValueError: the disk\nis full\n", [], "ValueError")
            error = SerializableErrorInfo("SensorExecutionError: Error occurred during it\n", [], "E", inner)
        made = self.instance.create_tick(
            TickData(
                self.state.instigator_origin_id,
                self.state.name,
                self.state.instigator_type,
                TickStatus.STARTED,
                self.now,
                selector_id=self.state.selector_id,
            )
        )
        options = {"error": error} if error else {}
        self.instance.update_tick(made.with_status(status, **options))


def test_a_streak_of_failed_ticks_is_told_once(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Instigator(instance, "new_video_sensor")
    sound = Instigator(instance, "dead_run_sensor")
    broken.tick(TickStatus.SKIPPED)
    sound.tick(TickStatus.SUCCESS)
    assert sensor.tick() == "0 alerts sent"
    broken.tick(TickStatus.FAILURE)
    assert sensor.tick() == "1 alerts sent"
    for _ in range(3):
        broken.tick(TickStatus.FAILURE)
        assert sensor.tick() == "0 alerts sent"
    (message,) = listener.got
    assert message["job"] == "sensor new_video_sensor"
    assert message["failures"] == [{"step": "", "reason": "ValueError: the disk is full"}]
    page = "http://dagster.example/locations/__repository__@har_assets/sensors/new_video_sensor"
    assert message["url"] == page
    assert message["text"] == (
        f"The sensor new_video_sensor failed and started no run.\nValueError: the disk is full\n{page}"
    )
    assert message.keys() == FIELDS
    assert message["run_id"] == ""
    assert message["ended"].endswith("+00:00")

    # It works again, and fails again: another streak, and not sooner than QUIET_S after the last message.
    broken.tick(TickStatus.SKIPPED)
    broken.tick(TickStatus.FAILURE)
    assert sensor.tick() == "0 alerts sent"
    monkeypatch.setattr(tick_alerts, "QUIET_S", -1e6)
    assert sensor.tick() == "1 alerts sent"
    broken.tick(TickStatus.FAILURE)
    assert sensor.tick() == "0 alerts sent", "the streak goes on"
    assert len(listener.got) == 2


def test_one_that_works_again_before_anyone_looked_is_told_too(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener
) -> None:
    schedule = Instigator(instance, "weekly_retraining", InstigatorType.SCHEDULE)
    schedule.tick(TickStatus.FAILURE)
    schedule.tick(TickStatus.SUCCESS)
    assert sensor.tick() == "1 alerts sent"
    assert sensor.tick() == "0 alerts sent"
    assert listener.got[0]["job"] == "schedule weekly_retraining"
    assert listener.got[0]["url"].endswith("/locations/__repository__@har_assets/schedules/weekly_retraining")


def test_each_way_is_told_for_itself_and_tried_again(
    sensor: Sensor,
    instance: dg.DagsterInstance,
    listener: Listener,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail_to(mail_server, monkeypatch)
    Instigator(instance, "new_video_sensor").tick(TickStatus.FAILURE)
    listener.answers = [503]
    assert sensor.tick() == "2 alerts sent, not delivered: the webhook at 127.0.0.1 answered 503"
    mail, second = mail_server.mails
    assert mail["Subject"] == second["Subject"] == "sensor new_video_sensor failed"
    assert "the disk is full" in mail.get_content()
    listener.answers = [200]
    assert sensor.tick() == "1 alerts sent"
    assert (len(mail_server.mails), len(listener.got)) == (2, 1)


def test_a_refused_message_holds_up_no_other_and_old_failures_are_no_news(
    sensor: Sensor, instance: dg.DagsterInstance, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        Instigator(instance, f"sensor_{number}").tick(TickStatus.FAILURE)
    listener.answers = [400, 200]
    assert sensor.tick().startswith("2 alerts sent, not delivered")
    assert sensor.tick() == "1 alerts sent"
    monkeypatch.setattr(tick_alerts, "GIVE_UP_S", -1e6)
    assert sensor.tick() == "0 alerts sent"
    monkeypatch.undo()
    assert '"ticks": {"webhook": {}}' in (sensor.cursor or ""), "what is long over is not kept"


def test_what_was_reported_before_an_upgrade_is_not_reported_again(
    sensor: Sensor,
    instance: dg.DagsterInstance,
    listener: Listener,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail_to(mail_server, monkeypatch)
    broken = Instigator(instance, "new_video_sensor")
    broken.tick(TickStatus.FAILURE)
    reported = {broken.state.selector_id: broken.now}
    assert sensor.cursor is not None
    sensor.cursor = json.dumps({**json.loads(sensor.cursor), "ticks": {"webhook": reported, "mail": reported}})
    broken.tick(TickStatus.FAILURE)
    for _ in range(2):
        assert sensor.tick() == "0 alerts sent"
    assert (mail_server.mails, listener.got) == ([], [])


BROKEN = """
import dagster as dg
from har_assets.graph.sensors.alerts import alert_sensor
from har_assets.graph.resources.mlflow import MlflowTracking

@dg.sensor(minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING, job_name="nothing")
def broken_sensor(context):
    raise ValueError("the disk is full")

@dg.job
def nothing(): ...

defs = dg.Definitions(
    jobs=[nothing], sensors=[broken_sensor, alert_sensor], resources={"mlflow": MlflowTracking(tracking_uri="")}
)
"""


@pytest.fixture
def daemon(tmp_path: Path, listener: Listener) -> Iterator["subprocess.Popen[bytes]"]:
    """A real daemon over a sensor that always raises."""
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "dagster._daemon", "run", "-f", "broken.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "DAGSTER_HOME": str(tmp_path),
            "HAR_ALERT_WEBHOOK": listener.url,
            "HAR_ALERT_MAIL": "",
            "HAR_ALERTS": "",
            "PYTHONPATH": str(REPOSITORY),
        },
        stdout=(tmp_path / "daemon.log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    yield process
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow  # alert_sensor looks every 30 seconds
def test_a_real_daemon_sends_one_message_of_a_sensor_that_always_fails(
    daemon: "subprocess.Popen[bytes]", listener: Listener, tmp_path: Path
) -> None:
    deadline = time.monotonic() + 150
    while not listener.got:
        assert time.monotonic() < deadline and daemon.poll() is None, (tmp_path / "daemon.log").read_text()[-3000:]  # noqa: PT018
        time.sleep(0.5)
    time.sleep(35)  # another look of alert_sensor, after many more failed ticks
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        (state,) = [state for state in instance.all_instigator_state() if state.name == "broken_sensor"]
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, statuses=[TickStatus.FAILURE])
    assert len(ticks) > 2
    (message,) = listener.got
    assert message["job"] == "sensor broken_sensor"
    assert message["failures"] == [{"step": "", "reason": "ValueError: the disk is full"}]
