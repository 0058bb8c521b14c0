"""The MLflow run of a training: real trainings, a real server that is killed, stores read back."""

import http.server
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from har_assets.errors import DatasetError, HarError
from har_assets.model.spec import ModelSpec
from har_assets.tracking.client import KILLED, client_of
from har_assets.tracking.outbox import Address, opened
from har_assets.tracking.tags import DAGSTER_STEP_TAG, TRAINING_ENDED_TAG
from har_assets.training.fit import fit
from har_assets.training.request import CONFUSION_FILE, SUMMARY_FILE
from har_assets.training.tracking import SYSTEM_METRIC, SystemMetrics, TrainingRun
from har_assets_tests.mlflow_server import MlflowServer, files_of, only_run, steps_of
from har_assets_tests.training.process import TrainingProcess
from har_assets_tests.training.test_fit import request_for

TAGS = {
    "dagster_run_id": "0c1d",
    "dagster_url": "http://127.0.0.1:3000/runs/0c1d",
    "mlflow.note.content": "[Dagster run 0c1d](http://127.0.0.1:3000/runs/0c1d)",
    "data_version": "8a7f00000000000000000000000000aa.dir",
    "dvc_md5": "8a7f00000000000000000000000000aa.dir",
    "git_commit": "f3b1c0",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a database; each test takes an experiment of its own name."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client_of(uri).search_experiments()
    return uri


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path / "server")
    made.start()
    yield made
    made.kill()


def test_a_run_holds_what_a_stranger_needs(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, database: str
) -> None:
    work = tmp_path / "work"
    request = request_for(
        work,
        tiny_cache,
        tiny_spec,
        epochs=3,
        mlflow_tracking_uri=database,
        mlflow_experiment="complete",
        mlflow_artifact_root=(tmp_path / "files").as_uri(),
        mlflow_tags=TAGS,
        mlflow_every_steps=2,
        learning_rate=0.01,
        mlflow_outbox=str(tmp_path / "outbox"),
    )
    summary = fit(request, lambda line: None)
    run = only_run(database, "complete")
    run_id = run.info.run_id
    assert summary["mlflow_run_id"] == run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "cnn3d on tiny, split 1"
    assert run.data.tags.items() >= TAGS.items()
    assert run.data.tags["step.trained_checkpoint"] == f"FINISHED {TAGS['dagster_url']}"
    assert run.data.tags["machine"]
    assert (
        run.data.params.items() >= {"epochs": "3", "seed": "0", "spec.num_frames": "4", "learning_rate": "0.01"}.items()
    )

    epoch_steps = steps_of(database, run_id, "val_top1")
    assert len(epoch_steps) == 3
    assert steps_of(database, run_id, "train_loss") == epoch_steps
    loss_steps = steps_of(database, run_id, "train_loss_step")
    total = 3 * (18 // 4)
    assert loss_steps == list(range(2, total + 1, 2))
    assert steps_of(database, run_id, "learning_rate") == loss_steps
    rates = [entry.value for entry in client_of(database).get_metric_history(run_id, "learning_rate")]
    assert 0 < min(rates) < max(rates) <= 0.01, "one cycle goes up and down"
    assert steps_of(database, run_id, SYSTEM_METRIC)[0] == 0
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 100
    assert int(run.data.tags[TRAINING_ENDED_TAG]) == run.info.end_time

    assert files_of(database, run_id) == {
        "model.ckpt",
        "curves.png",
        CONFUSION_FILE,
        "environment/packages.txt",
        "environment/machine.json",
    }
    packages = Path(client_of(database).download_artifacts(run_id, "environment/packages.txt", str(tmp_path)))
    import torch

    assert f"torch=={torch.__version__.split('+')[0]}" in packages.read_text()
    machine = json.loads((work / "environment/machine.json").read_text())
    assert machine.keys() >= {"machine", "gpu", "python", "cpu_cores", "torch"}
    assert (work / CONFUSION_FILE).read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "outbox").iterdir()) == []


@pytest.mark.parametrize("wanted", [True, False])
def test_how_busy_the_machine_is_goes_through_the_outbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    if not wanted:
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    away = Address("http://127.0.0.1:9", "0" * 32, "trained_checkpoint", work=str(tmp_path))
    for _ in range(2):  # a training, and the same one going on after a kill
        with opened(tmp_path / "box", away) as outbox:
            looks = SystemMetrics(outbox, pytest.fail)
            looks.start()
            time.sleep(0.5)
            looks.stop()
    entries = [json.loads(line) for line in (tmp_path / "box/journal.jsonl").read_text().splitlines()] if wanted else []
    assert [entry["step"] for entry in entries] == list(range(len(entries)))
    assert len(entries) > 4 or not wanted
    assert wanted or not (tmp_path / "box/journal.jsonl").exists()
    for entry in entries:
        assert 0 <= entry["metrics"][SYSTEM_METRIC] <= 100


def test_a_machine_that_cannot_be_read_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)  # as on a machine without a network
    said: list[str] = []
    with opened(tmp_path / "box", Address("http://127.0.0.1:9", "0" * 32, "trained_checkpoint")) as outbox:
        looks = SystemMetrics(outbox, said.append)
        looks.start()
        looks.stop()
    (sentence,) = said
    assert sentence.startswith("How busy this machine is cannot be read (")


def test_the_confusion_matrix_agrees_with_the_accuracy_of_the_chosen_epoch(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    import har_assets.training.fit as module

    seen = []
    plot = module.plot_confusion
    monkeypatch.setattr(
        module,
        "plot_confusion",
        lambda confusion_KK, *rest, **named: (seen.append(confusion_KK), plot(confusion_KK, *rest, **named)),
    )
    summary = fit(request_for(tmp_path, tiny_cache, tiny_spec, epochs=4), lambda line: None)
    assert seen[0].sum() == summary["val_clips"]
    assert np.trace(seen[0]) / seen[0].sum() == pytest.approx(summary["val_top1"])


def test_a_training_that_fails_leaves_a_failed_run(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, database: str
) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text((tiny_cache / "train.csv").read_text().splitlines()[0] + "\n")
    request = request_for(
        tmp_path / "work",
        tiny_cache,
        tiny_spec,
        manifests={"train": str(empty), "val": str(empty)},
        mlflow_tracking_uri=database,
        mlflow_experiment="failed",
    )
    with pytest.raises(DatasetError):
        fit(request, lambda line: None)
    assert only_run(database, "failed").info.status == "FAILED"


def test_a_run_whose_machine_is_lost_is_closed_by_the_repetition_elsewhere(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, database: str
) -> None:
    def begin(name: str, step: str) -> TrainingRun:
        request = request_for(
            tmp_path / name,
            tiny_cache,
            tiny_spec,
            mlflow_tracking_uri=database,
            mlflow_experiment="lost",
            mlflow_tags={**TAGS, DAGSTER_STEP_TAG: step},
        )
        (tmp_path / name).mkdir()
        return TrainingRun.open(request, tmp_path / name, print)

    client = client_of(database)
    lost, other = begin("lost", "0c1d trained_checkpoint"), begin("other", "0c1d split_evaluation")
    shutil.rmtree(tmp_path / "lost")
    with begin("repetition", "0c1d trained_checkpoint") as repetition:
        states = {each.run_id: client.get_run(each.run_id).info.status for each in (lost, other, repetition)}
        assert states == {lost.run_id: "KILLED", other.run_id: "RUNNING", repetition.run_id: "RUNNING"}
    assert client.get_run(repetition.run_id).info.status == "FINISHED"
    assert client.get_run(lost.run_id).data.tags["step.trained_checkpoint"] == f"KILLED {TAGS['dagster_url']}"
    other.close(KILLED)


def test_a_training_interrupted_again_and_again_still_says_that_it_was_killed(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, database: str
) -> None:
    work = tmp_path / "work"
    request = request_for(
        work, tiny_cache, tiny_spec, epochs=20_000, mlflow_tracking_uri=database, mlflow_experiment="impatient"
    )
    child = TrainingProcess(request, work)
    child.wait_for_epochs(2)
    deadline = time.monotonic() + 60
    while child.status is None and time.monotonic() < deadline:
        child.send(signal.SIGINT)
        time.sleep(0.05)
    child.wait()
    assert only_run(database, "impatient").info.status == "KILLED"


def test_a_run_that_was_deleted_is_made_again_with_all_of_its_history(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, database: str
) -> None:
    fields = {"mlflow_tracking_uri": database, "mlflow_experiment": "deleted", "mlflow_every_steps": 1}
    request = request_for(tmp_path / "work", tiny_cache, tiny_spec, **fields)
    (tmp_path / "work").mkdir()
    tracking = TrainingRun.open(request, tmp_path / "work", print)
    tracking.metrics({"train_loss_step": 1.0}, 1)
    tracking.close(KILLED)
    first = only_run(database, "deleted")
    assert first.info.status == "KILLED"
    client_of(database).delete_run(first.info.run_id)

    said: list[str] = []
    with TrainingRun.open(request, tmp_path / "work", said.append) as tracking:
        tracking.metrics({"train_loss_step": 0.9}, 1)
        tracking.metrics({"train_loss_step": 0.5}, 2)
    second = only_run(database, "deleted")
    assert second.info.run_id != first.info.run_id
    assert second.info.status == "FINISHED"
    assert "is not there any more" in said[0]
    assert steps_of(database, second.info.run_id, "train_loss_step") == [1, 2]


def test_without_an_address_or_on_another_rank_nothing_is_tracked(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    tracking = TrainingRun.open(request_for(tmp_path, tiny_cache, tiny_spec), tmp_path, print)
    with tracking:
        tracking.params({"a": 1})
        tracking.metrics({"a": 1.0}, 1)
        tracking.files(tmp_path / "absent")
    assert (tracking.run_id, tracking.logger, tracking.callbacks) == ("", None, [])
    assert list(tmp_path.iterdir()) == []


class SomeOtherServer(http.server.BaseHTTPRequestHandler):
    """Answers every request, as the web UI of Dagster does, with a page."""

    def do_GET(self) -> None:
        body = b"<html>hello</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def other_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SomeOtherServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9",
        "OTHER",
        "sqlite:////proc/mlflow.db",
        "file:///tmp/mlruns",
        "gopher://x",
        "htp:/x",
    ],
)
def test_a_wrong_address_is_one_sentence_before_the_training(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, uri: str, other_server: str
) -> None:
    uri = other_server if uri == "OTHER" else uri
    request = request_for(tmp_path / "work", tiny_cache, tiny_spec, mlflow_tracking_uri=uri)
    started = time.monotonic()
    with pytest.raises(HarError) as caught:
        fit(request, pytest.fail)
    assert time.monotonic() - started < 30
    message = str(caught.value)
    assert message.startswith(f"MLflow at {uri} does not answer as needed (")
    assert message.endswith("start it, or correct the resource mlflow's tracking_uri.")
    assert "\n" not in message
    assert len(message) < 400


def test_a_file_store_without_access_is_found_before_the_training(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, database: str
) -> None:
    (tmp_path / "in_the_way").write_text("")
    request = request_for(
        tmp_path / "work",
        tiny_cache,
        tiny_spec,
        mlflow_tracking_uri=database,
        mlflow_experiment="no_files",
        mlflow_artifact_root=(tmp_path / "in_the_way/files").as_uri(),
    )
    with pytest.raises(HarError, match=r"does not answer as needed .*in_the_way"):
        fit(request, pytest.fail)
    assert only_run(database, "no_files").info.status == "FAILED"


def run_until_server_is_missed(server: MlflowServer, child: TrainingProcess) -> None:
    child.wait_for_epochs(3)
    server.kill()
    kept = len((child.folder / "history.jsonl").read_text().splitlines())
    child.wait_for_epochs(kept + 3)


def test_a_training_outlives_its_server_and_a_command_sends_the_rest(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, server: MlflowServer
) -> None:
    work = tmp_path / "work"
    request = request_for(
        work,
        tiny_cache,
        tiny_spec,
        epochs=60,
        mlflow_tracking_uri=server.uri,
        mlflow_every_steps=1,
        mlflow_outbox=str(tmp_path / "mlflow_outbox"),
    )
    child = TrainingProcess(request, work)
    run_until_server_is_missed(server, child)
    output, errors = child.wait(300)
    assert child.status == 0, errors
    assert (work / SUMMARY_FILE).is_file()
    assert "Connection refused" in output
    assert "`har mlflow-sync`" in output
    assert "Traceback" not in errors

    command = [sys.executable, "-m", "har_assets.cli", "mlflow-sync"]
    early = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert early.returncode == 1
    assert "not sent yet" in early.stdout

    server.start()
    late = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert late.returncode == 0, late.stdout + late.stderr
    assert "sent what had been kept" in late.stdout
    run = only_run(server.store)
    assert run.info.status == "FINISHED"
    assert steps_of(server.store, run.info.run_id, "train_loss_step") == list(range(1, 60 * 4 + 1))
    assert files_of(server.uri, run.info.run_id) >= {"model.ckpt", "curves.png", CONFUSION_FILE}
    assert steps_of(server.store, run.info.run_id, SYSTEM_METRIC)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, "Nothing is kept in mlflow_outbox: MLflow has everything.\n")


@pytest.mark.slow
def test_a_server_that_comes_back_during_the_training_gets_everything(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, server: MlflowServer
) -> None:
    work = tmp_path / "work"
    request = request_for(
        work,
        tiny_cache,
        tiny_spec,
        epochs=20_000,
        mlflow_tracking_uri=server.uri,
        mlflow_every_steps=1,
        mlflow_outbox=str(tmp_path / "mlflow_outbox"),
    )
    child = TrainingProcess(request, work)
    run_until_server_is_missed(server, child)
    time.sleep(8)  # so that the absence is noticed
    server.start()
    kept = len((work / "history.jsonl").read_text().splitlines())
    run_id = only_run(server.store).info.run_id
    deadline = time.monotonic() + 90
    while len(steps_of(server.store, run_id, "val_top1")) < kept:
        assert time.monotonic() < deadline, "what was kept does not arrive while the training goes on"
        time.sleep(1)
    child.send(signal.SIGTERM)
    output, errors = child.wait(60)
    assert child.status == 130, errors
    assert "The training goes on" in output
    assert "has all that was kept" in output
    run = only_run(server.store)
    assert run.info.status == "KILLED"
    steps = steps_of(server.store, run.info.run_id, "train_loss_step")
    assert steps == list(range(1, len(steps) + 1))
