"""Training in several processes by torchrun: real processes, gloo over loopback, real kills."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from har_assets.model.lightning import load_checkpoint
from har_assets.model.spec import ModelSpec
from har_assets.training.request import ERROR_FILE, SUMMARY_FILE
from har_assets_tests.mlflow_server import only_run, steps_of
from har_assets_tests.project import trainings_in
from har_assets_tests.training.process import TrainingProcess, lines_of
from har_assets_tests.training.test_fit import request_for


def wait_until_gone(folder: Path, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while trainings_in(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert trainings_in(folder) == []


def test_two_processes_learn_what_one_learns_with_the_double_batch(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    # BatchNorm takes its statistics from the batch of one process, so it is frozen here: all else must agree.
    recipe = {"batch_norm": "frozen", "schedule": "constant"}
    for name, fields in {"one": {"batch_size": 6}, "two": {"batch_size": 3, "devices": 2}}.items():
        request = request_for(tmp_path / name, tiny_cache, tiny_spec, **recipe, **fields)
        lines_of(TrainingProcess(request, tmp_path / name))
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 3
    for first, second in zip(one, two, strict=True):
        for figure in ("train_loss", "train_top1", "val_loss", "val_top1"):
            assert second[figure] == pytest.approx(first[figure], rel=1e-4), figure
    weights = [load_checkpoint(tmp_path / name / "model.ckpt").state_dict() for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)
    summary = json.loads((tmp_path / "two" / SUMMARY_FILE).read_text())
    assert summary["device"] == "2 x CPU"


def test_lightning_has_the_agreement_that_orderly_stop_replaces() -> None:
    # Under another name it would wait for the GPU at every step again, and nothing else would tell.
    assert callable(_TrainingEpochLoop._broadcast_sigterm_tensor)


def test_a_signal_stops_all_processes_between_two_batches_and_the_next_call_goes_on(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    database = f"sqlite:///{tmp_path}/mlflow.db"
    fields = {
        "batch_size": 2,
        "devices": 2,
        "mlflow_tracking_uri": database,
        "mlflow_every_steps": 1,
        "mlflow_artifact_root": (tmp_path / "files").as_uri(),
    }
    child = TrainingProcess(request_for(tmp_path, tiny_cache, tiny_spec, epochs=5000, **fields), tmp_path)
    child.wait_for_epochs(2)
    child.send(signal.SIGINT)
    _, errors = child.wait(40)
    assert child.status == 130, errors
    assert "was stopped" in (tmp_path / ERROR_FILE).read_text()
    wait_until_gone(tmp_path)
    assert only_run(database).info.status == "KILLED"
    done = len((tmp_path / "history.jsonl").read_text().splitlines())
    short = request_for(tmp_path, tiny_cache, tiny_spec, epochs=done + 2, **fields)
    lines = lines_of(TrainingProcess(short, tmp_path))
    assert "going on from" in lines[0]
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert epochs == list(range(done + 2))
    run = only_run(database)
    assert run.info.status == "FINISHED"
    assert run.data.tags["resumed_with.epochs"] == str(done + 2)
    steps = steps_of(database, run.info.run_id, "train_loss_step")
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps_of(database, run.info.run_id, "val_top1")) == done + 2


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["torchrun", "first worker", "last worker"])
def test_after_kill_nine_of_any_of_them_nothing_trains_on_and_it_is_said(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, victim: str
) -> None:
    request = request_for(tmp_path, tiny_cache, tiny_spec, epochs=5000, batch_size=2, devices=2)
    child = TrainingProcess(request, tmp_path)
    child.wait_for_epochs(2)
    workers = sorted(set(trainings_in(tmp_path)) - {child.pid})
    assert len(workers) == 2
    os.kill({"torchrun": child.pid, "first worker": workers[0], "last worker": workers[1]}[victim], signal.SIGKILL)
    child.wait(60)
    assert child.status != 0
    wait_until_gone(tmp_path)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    if victim != "torchrun":
        assert "ended with -9 and no word of why" in (tmp_path / ERROR_FILE).read_text()


@pytest.mark.slow
def test_two_machines_find_each_other_at_the_rendezvous(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    request = request_for(
        tmp_path, tiny_cache, tiny_spec, batch_size=3, nodes=2, devices=1, rendezvous=f"127.0.0.1:{port}"
    )
    machines = [TrainingProcess(request, tmp_path) for _ in range(2)]
    outputs = [machine.wait() for machine in machines]
    assert [machine.status for machine in machines] == [0, 0], outputs
    assert json.loads((tmp_path / SUMMARY_FILE).read_text())["device"] == "2 x CPU"


def test_several_machines_without_a_meeting_place_are_told(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    path = request_for(tmp_path, tiny_cache, tiny_spec).write(tmp_path / "request.json")
    path.write_text(path.read_text().replace('"nodes": 1', '"nodes": 2'))
    done = subprocess.run(
        [sys.executable, "-m", "har_assets.training", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "set rendezvous to host:port" in done.stderr
    assert "Traceback" not in done.stderr
