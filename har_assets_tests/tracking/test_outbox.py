"""Outboxes against a real MLflow database."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from har_assets.errors import HarError
from har_assets.tracking.client import FAILED, FINISHED, KILLED, RUNNING, client_of, status_of
from har_assets.tracking.outbox import Address, Outbox, UndeliveredError, opened, settle, unsettled
from har_assets_tests.mlflow_server import files_of, status_in, steps_of


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], FINISHED),
        (["FINISHED http://x/runs/1"], FINISHED),
        (["FINISHED", "RUNNING http://x/runs/1"], RUNNING),
        (["FAILED", "FINISHED"], FAILED),
        (["FAILED", "RUNNING"], RUNNING),
        (["KILLED 123", "FINISHED"], KILLED),
    ],
)
def test_the_status_of_a_run_follows_from_its_steps(steps: list[str], expected: str) -> None:
    assert status_of({f"step.{number}": step for number, step in enumerate(steps)}) == expected


def test_a_step_that_is_repeated_after_a_kill_is_entered_once_and_a_torn_line_is_forgotten(tmp_path: Path) -> None:
    address = Address("sqlite://", "run", "trained_checkpoint", work=str(tmp_path))
    with opened(tmp_path / "box", address) as outbox:
        outbox.enter_state(RUNNING)
        for step in (10, 20, 30):
            outbox.metrics({"loss": 1 / step}, step)
        outbox.params({"epochs": 3, "seed": 0})
    with (tmp_path / "box/journal.jsonl").open("a") as journal:
        journal.write('{"metrics": {"loss": 0.0')  # killed while writing
    with opened(tmp_path / "box") as outbox:
        assert outbox.state == RUNNING
        for step in (20, 30, 40):
            outbox.metrics({"loss": 2 / step}, step)
        outbox.params({"epochs": 4, "seed": 0})
    entries = [json.loads(line) for line in (tmp_path / "box/journal.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["metrics"]["loss"]) for entry in entries if "metrics" in entry] == [
        (10, 0.1),
        (20, 0.05),
        (30, 1 / 30),
        (40, 0.05),
    ]
    assert [entry["tags"] for entry in entries if "tags" in entry] == [{"resumed_with.epochs": "4"}]


def test_everything_arrives_once_even_if_it_is_sent_twice(tmp_path: Path, database: str, run_id: str) -> None:
    file = tmp_path / "curves.png"
    file.write_bytes(b"picture")
    with opened(tmp_path / "box", Address(database, run_id, "onnx_model", "http://x/runs/7")) as outbox:
        outbox.enter_state(RUNNING)
        for step in range(2500):  # more than one request takes
            outbox.metrics({"loss": step / 7, "rate": float("nan") if step == 3 else 1.0}, step)
        outbox.params({f"p{number}": number for number in range(150)})
        outbox.file(file, "pictures")
        file.write_bytes(b"another")  # what was entered is what is sent
        file.unlink()
        outbox.deliver()
        assert status_in(database, run_id) == RUNNING
        outbox.forget_sent()  # as if killed before it was noted that they had arrived
        outbox.enter_state(FINISHED)
        outbox.deliver()
        assert outbox.pending == 0
        assert outbox.refused == []
    assert not (tmp_path / "box").exists()
    run = client_of(database).get_run(run_id)
    assert run.info.status == FINISHED
    assert run.data.tags["step.onnx_model"] == "FINISHED http://x/runs/7"
    assert steps_of(database, run_id, "loss") == list(range(2500))
    assert steps_of(database, run_id, "rate") == list(range(2500))
    assert len(run.data.params) == 150
    assert files_of(database, run_id) == {"pictures/curves.png"}
    sent = client_of(database).download_artifacts(run_id, "pictures/curves.png", str(tmp_path))
    assert Path(sent).read_bytes() == b"picture"


def test_an_entry_that_mlflow_refuses_is_noted_and_holds_nothing_up(tmp_path: Path, database: str, run_id: str) -> None:
    client_of(database).log_param(run_id, "seed", "1")
    with opened(tmp_path / "box", Address(database, run_id, "trained_checkpoint")) as outbox:
        outbox.params({"seed": 2})
        outbox.metrics({"loss": 1.0}, 1)
        outbox.enter_state(FINISHED)
        outbox.deliver()
        assert len(outbox.refused) == 1
        assert "seed" in outbox.refused[0]
    assert steps_of(database, run_id, "loss") == [1]


def test_a_file_store_that_is_away_does_not_hold_up_the_status(tmp_path: Path, database: str, run_id: str) -> None:
    from urllib.parse import urlparse

    client = client_of(database)
    place = Path(urlparse(client.get_run(run_id).info.artifact_uri).path)
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    place.parent.write_text("in the way")  # the run's folder cannot be made
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"weights")
    try:
        with opened(tmp_path / "box", Address(database, run_id, "trained_checkpoint")) as outbox:
            outbox.enter_state(RUNNING)
            outbox.file(file)
            outbox.enter_state(FINISHED)
            with pytest.raises(UndeliveredError):
                outbox.deliver()
            assert status_in(database, run_id) == FINISHED
    finally:
        place.parent.unlink()
    assert [result.left for result in settle(tmp_path)] == [""]
    assert files_of(database, run_id) == {"model.ckpt"}
    assert not (tmp_path / "box").exists()


def test_a_deleted_run_is_told_apart_from_an_absent_server(tmp_path: Path, database: str, run_id: str) -> None:
    client_of(database).delete_run(run_id)
    with opened(tmp_path / "box", Address(database, run_id, "trained_checkpoint")) as outbox:
        outbox.metrics({"loss": 1.0}, 1)
        with pytest.raises(UndeliveredError, match="restore it") as caught:
            outbox.deliver()
        assert caught.value.run_is_gone
    away = Address("http://127.0.0.1:9", run_id, "trained_checkpoint")
    with opened(tmp_path / "other", away) as outbox:
        outbox.metrics({"loss": 1.0}, 1)
        with pytest.raises(UndeliveredError, match="Connection refused") as caught:
            outbox.deliver()
        assert not caught.value.run_is_gone


WRITER = """
import sys, time
from pathlib import Path
from har_assets.tracking.outbox import Address, RUNNING, opened
with opened(Path(sys.argv[1]), Address(sys.argv[2], sys.argv[3], "trained_checkpoint")) as outbox:
    outbox.enter_state(RUNNING)
    outbox.metrics({"loss": 1.0}, 1)
    outbox.deliver()
    outbox.metrics({"loss": 0.5}, 2)
    print("ready", flush=True)
    time.sleep(60)
"""


def abandoned(folder: Path, database: str, run_id: str) -> "subprocess.Popen[str]":
    """A writer in a process of its own, at work."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), database, run_id], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_what_a_killed_writer_left_is_sent_and_its_run_is_killed(tmp_path: Path, database: str, run_id: str) -> None:
    child = abandoned(tmp_path / "box", database, run_id)
    try:
        assert settle(tmp_path) == [], "its writer lives"
        assert unsettled(tmp_path) == []
        assert status_in(database, run_id) == RUNNING
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert unsettled(tmp_path) == [tmp_path / "box"]
    assert [result.left for result in settle(tmp_path)] == [""]
    assert status_in(database, run_id) == KILLED
    assert steps_of(database, run_id, "loss") == [1, 2]
    assert list(tmp_path.iterdir()) == []
    assert settle(tmp_path) == []


def test_an_outbox_of_another_process_is_not_taken(tmp_path: Path) -> None:
    with opened(tmp_path / "box", Address("sqlite://", "run", "onnx_model")):
        code = (
            "import sys; from pathlib import Path; from har_assets.tracking.outbox import opened\n"
            "with opened(Path(sys.argv[1]), wait_s=0): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "box")], capture_output=True, text=True, check=False
        )
    assert f"Process {os.getpid()} is already at work" in done.stderr


def test_thousand_entries_cost_a_training_little(tmp_path: Path) -> None:
    with opened(tmp_path / "box", Address("sqlite://", "run", "trained_checkpoint", work=str(tmp_path))) as outbox:
        started = time.perf_counter()
        for step in range(1000):
            outbox.metrics({"train_loss_step": 0.1, "learning_rate": 0.1}, step)
        assert time.perf_counter() - started < 2.0
        assert isinstance(Outbox(outbox.folder, outbox.address), Outbox)


def test_no_outbox_is_said_and_none_is_made(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    for name, words in (("absent", "There is no outbox"), ("foreign", "is no outbox")):
        with pytest.raises(HarError, match=words), opened(tmp_path / name):
            pytest.fail("the block is not to be entered")
    assert [path.name for path in tmp_path.rglob("*")] == ["foreign"]
