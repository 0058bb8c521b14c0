"""The training process: real processes, a real MLflow database, real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from benchmarks import compare_recipes, finetune_sample
from har_assets.errors import HarError
from har_assets.model.data import ClipDataModule
from har_assets.model.lightning import VideoActionModel, load_checkpoint
from har_assets.model.spec import ModelSpec, Provenance, to_metadata
from har_assets.system.locks import exclusive
from har_assets.tracking.outbox import settle
from har_assets.training.averaging import AveragedWeights
from har_assets.training.fit import choose_precision, fit
from har_assets.training.request import ERROR_FILE, SUMMARY_FILE, TrainingRequest
from har_assets_tests.mlflow_server import files_of, only_run, steps_of
from har_assets_tests.training.process import TrainingProcess, lines_of


def request_for(work: Path, cache: Path, spec: ModelSpec, **fields: object) -> TrainingRequest:
    return TrainingRequest(
        work=str(work),
        spec=spec.to_json(),
        provenance=Provenance(dataset="tiny", data_version="v1", split=1).to_json(),
        frame_cache=str(cache / "cache"),
        **{  # type: ignore[arg-type]
            "manifests": {role: str(cache / f"{role}.csv") for role in ("train", "val")},
            "epochs": 3,
            "batch_size": 4,
            **fields,
        },
    )


def test_a_training_leaves_a_checkpoint_curves_history_and_summary(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    lines: list[str] = []
    summary = fit(request_for(tmp_path, tiny_cache, tiny_spec), lines.append)
    assert summary == json.loads((tmp_path / SUMMARY_FILE).read_text())
    assert summary["epochs_run"] == 3
    assert summary["validated"]
    assert [line.split(":")[0] for line in lines[1:]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    epochs = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert summary["seconds"] == round(sum(epoch["seconds"] for epoch in epochs), 1)
    assert summary["val_loss"] == epochs[summary["best_epoch"]]["val_loss"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    model = load_checkpoint(tmp_path / "model.ckpt")
    assert model.spec == tiny_spec
    assert model.provenance.data_version == "v1"
    assert "optimizer_states" not in torch.load(tmp_path / "model.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_compiled_training_learns_what_an_eager_one_does(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    lines: list[str] = []
    for compiled in ("off", "on"):
        fit(request_for(tmp_path / compiled, tiny_cache, tiny_spec, compile=compiled), lines.append)
    if "not compiled: torch.compile does not work here" in " ".join(lines):
        pytest.skip("needs a C++ compiler")
    eager, compiled_too = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("off", "on")
    )
    assert len(eager) == len(compiled_too) == 3
    for first, second in zip(eager, compiled_too, strict=True):
        for figure in ("train_loss", "train_top1", "train_top5", "val_loss", "val_top1"):
            assert second[figure] == pytest.approx(first[figure], rel=1e-3), figure


def test_the_best_epoch_is_kept(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    summary = fit(request_for(tmp_path, tiny_cache, tiny_spec, epochs=5), lambda line: None)
    epochs = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    best = max(epochs, key=lambda epoch: (epoch["val_top1"], -round(epoch["val_loss"], 3)))
    assert summary["best_epoch"] == best["epoch"]
    assert summary["val_top1"] == best["val_top1"]


RANKS = (0.5, 0.9, 0.7, 0.6)
"""Validation figures of the epochs of a training that is stopped: the second is the best."""


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs have the ranks RANKS."""
    log = VideoActionModel.log_dict

    def log_dict(self: VideoActionModel, values: dict[str, object], **more: object) -> None:
        if "val_rank" in values:
            values = {**values, "val_rank": torch.tensor(RANKS[self.current_epoch])}
        log(self, values, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoActionModel, "log_dict", log_dict)


def test_a_training_that_was_stopped_anywhere_publishes_the_same_epoch(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, ranked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = pl.Trainer.save_checkpoint
    saves = 0

    def saving(self: pl.Trainer, *arguments: object, **more: object) -> None:
        nonlocal saves
        saves += 1
        if saves == stop_at:
            raise KeyboardInterrupt
        save(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", saving)
    stop_at = 0
    expected = fit(request_for(tmp_path / "0", tiny_cache, tiny_spec, epochs=4), lambda line: None)
    assert expected["best_epoch"] == 1
    weights = load_checkpoint(tmp_path / "0" / "model.ckpt").state_dict()
    for stop_at in range(1, saves + 1):
        saves = 0
        request = request_for(tmp_path / str(stop_at), tiny_cache, tiny_spec, epochs=4)
        with pytest.raises(KeyboardInterrupt):
            fit(request, lambda line: None)
        found = fit(request, lambda line: None)
        assert (found["best_epoch"], found["val_rank"]) == (1, pytest.approx(0.9)), stop_at
        for name, value in load_checkpoint(tmp_path / str(stop_at) / "model.ckpt").state_dict().items():
            assert torch.equal(value, weights[name]), (stop_at, name)


def test_among_equals_the_lower_loss_is_kept(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = VideoActionModel.log_dict
    ranks: list[tuple[float, float, float]] = []

    def log_dict(self: VideoActionModel, values: dict[str, torch.Tensor], **more: object) -> None:
        if "val_rank" in values:
            ranks.append((float(values["val_top1"]), float(values["val_loss"]), float(values["val_rank"])))
        log(self, values, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoActionModel, "log_dict", log_dict)
    fit(request_for(tmp_path, tiny_cache, tiny_spec, epochs=6, learning_rate=1e-5), lambda line: None)
    alike = [(loss, rank) for top1, loss, rank in ranks if top1 == ranks[0][0]]
    assert len({loss for loss, _ in alike}) > 1, "the accuracy does not move at this rate, the loss does"
    assert [rank for _, rank in sorted(alike)] == sorted((rank for _, rank in alike), reverse=True)


def test_gradients_are_clipped(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    weights = {}
    for clip in (0.0, 1e-12):  # so far below the epsilon of Adam that nothing moves
        request = request_for(tmp_path / str(clip), tiny_cache, tiny_spec, epochs=1, gradient_clip=clip)
        fit(request, lambda line: None)
        weights[clip] = load_checkpoint(tmp_path / str(clip) / "model.ckpt").network.head.weight
    pl.seed_everything(request.seed, workers=True, verbose=False)
    untrained = VideoActionModel(to_metadata(tiny_spec, Provenance()), **request.recipe).network.head.weight
    assert (weights[1e-12] - untrained).abs().max() < 1e-6
    assert (weights[0.0] - untrained).abs().max() > 1e-4


def test_dropout_of_a_step_depends_on_its_number_alone(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = VideoActionModel.validation_step

    def drawing(self: VideoActionModel, *arguments: object) -> None:
        torch.rand(7)
        step(self, *arguments)  # type: ignore[arg-type]

    weights = []
    for number in range(2):
        if number:  # whatever else is drawn in the process
            monkeypatch.setattr(VideoActionModel, "validation_step", drawing)
        fit(request_for(tmp_path / str(number), tiny_cache, tiny_spec, epochs=3, dropout=0.5), lambda line: None)
        weights.append(load_checkpoint(tmp_path / str(number) / "checkpoints" / "last.ckpt").network.head.weight)
    assert torch.equal(weights[0], weights[1])


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        fit(request_for(tmp_path / str(number), tiny_cache, tiny_spec, seed=seed, epochs=2), lambda line: None)
        weights.append(load_checkpoint(tmp_path / str(number) / "model.ckpt").network.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_without_validation_clips_the_last_epoch_is_kept_and_it_is_said(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    empty = tmp_path / "val.csv"
    empty.write_text((tiny_cache / "val.csv").read_text().splitlines()[0] + "\n")
    manifests = {"train": str(tiny_cache / "train.csv"), "val": str(empty)}
    lines: list[str] = []
    request = request_for(tmp_path / "work", tiny_cache, tiny_spec, manifests=manifests, early_stopping=1)
    summary = fit(request, lines.append)
    assert "last epoch is kept instead of the best" in lines[0]
    assert summary["best_epoch"] == 2
    assert not summary["validated"]


def test_early_stopping_ends_before_the_last_epoch(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    request = request_for(
        tmp_path,
        tiny_cache,
        tiny_spec,
        epochs=40,
        early_stopping=2,
        learning_rate=0.0,
        schedule="constant",
    )
    assert fit(request, lambda line: None)["epochs_run"] < 10


def test_the_moving_average_is_kept_also_after_a_stop(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    plain, averaged, stopped = (
        request_for(tmp_path / name, tiny_cache, tiny_spec, epochs=4, ema=ema)
        for name, ema in (("plain", 0.0), ("averaged", 0.9), ("stopped", 0.9))
    )
    for request in (plain, averaged):
        fit(request, lambda line: None)

    def stop(line: str) -> None:
        if line.startswith("epoch 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, stop)
    lines: list[str] = []
    fit(stopped, lines.append)
    assert "going on from" in lines[0]
    last, kept, resumed = (
        torch.load(Path(request.work) / "checkpoints" / "last.ckpt", weights_only=True)
        for request in (plain, averaged, stopped)
    )
    # The weights themselves are trained as without an average, which is what is kept in their place.
    for name, value in last["state_dict"].items():
        torch.testing.assert_close(kept["current_model_state"][name], value)
        torch.testing.assert_close(resumed["state_dict"][name], kept["state_dict"][name])
    assert not torch.equal(kept["state_dict"]["network.head.weight"], last["state_dict"]["network.head.weight"])


def test_the_average_is_that_of_all_steps(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    expected: dict[str, torch.Tensor] = {}

    class Recorder(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
            for name, value in pl_module.named_parameters():
                now = value.detach().clone()
                expected[name] = 0.8 * expected[name] + 0.2 * now if name in expected else now

    manifests = {role: tiny_cache / f"{role}.csv" for role in ("train", "val")}
    data = ClipDataModule(manifests, tiny_cache / "cache", tiny_spec, batch_size=4)
    model = VideoActionModel.from_spec(tiny_spec)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=[Recorder(), AveragedWeights(0.8)],
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data)
    assert trainer.global_step > 4
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name])


def test_a_killed_training_goes_on_and_ends_as_an_undisturbed_one(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    database, work, outbox = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "killed", tmp_path / "outbox"
    tracked = {
        "mlflow_tracking_uri": database,
        "mlflow_artifact_root": (tmp_path / "files").as_uri(),
        "mlflow_every_steps": 1,
        "mlflow_outbox": str(outbox),
    }
    request = request_for(work, tiny_cache, tiny_spec, epochs=12, **tracked)
    child = TrainingProcess(request, work)
    child.wait_for_epochs(4)
    child.send(signal.SIGKILL)
    child.wait()
    assert not (work / SUMMARY_FILE).exists()
    assert only_run(database).info.status == "RUNNING"
    # As `har doctor --fix`, the sensor and the start of every later run do it.
    settle(outbox)
    killed = only_run(database)
    assert killed.info.status == "KILLED"
    logged = steps_of(database, killed.info.run_id, "train_loss_step")
    assert logged == list(range(1, len(logged) + 1))

    child = TrainingProcess(request, work)
    child.wait_for_epochs(5)
    assert only_run(database).info.status == "RUNNING"
    lines = lines_of(child)
    assert "going on from" in lines[0]
    assert int(lines[1].split("/")[0].removeprefix("epoch ")) >= 4
    run = only_run(database)
    assert run.info.run_id == killed.info.run_id == json.loads((work / SUMMARY_FILE).read_text())["mlflow_run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "12"
    assert steps_of(database, run.info.run_id, "train_loss_step") == list(range(1, 12 * 4 + 1))
    assert len(steps_of(database, run.info.run_id, "val_top1")) == 12
    assert files_of(database, run.info.run_id) >= {"model.ckpt", "curves.png"}
    assert list(outbox.iterdir()) == []

    whole = tmp_path / "whole"
    lines_of(TrainingProcess(request_for(whole, tiny_cache, tiny_spec, epochs=12), whole))
    for name, value in load_checkpoint(whole / "model.ckpt").state_dict().items():
        torch.testing.assert_close(load_checkpoint(work / "model.ckpt").state_dict()[name], value)
    assert len((work / "history.jsonl").read_text().splitlines()) == 12


def test_another_number_of_processes_begins_again(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    alone = request_for(tmp_path / "work", tiny_cache, tiny_spec, epochs=30)
    child = TrainingProcess(alone, tmp_path / "work")
    child.wait_for_epochs(2)
    child.send(signal.SIGKILL)
    child.wait()
    two = request_for(tmp_path / "work", tiny_cache, tiny_spec, epochs=2, devices=2)
    out, err = TrainingProcess(two, tmp_path / "work").wait()
    assert "A training by 1 processes cannot go on with 2: it begins again." in out, err
    history = (tmp_path / "work" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == [0, 1]
    assert json.loads((tmp_path / "work" / SUMMARY_FILE).read_text())["epochs_run"] == 2


def test_an_interrupt_stops_in_order_and_mlflow_says_killed(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    database = f"sqlite:///{tmp_path}/mlflow.db"
    work = tmp_path / "work"
    child = TrainingProcess(request_for(work, tiny_cache, tiny_spec, epochs=2000, mlflow_tracking_uri=database), work)
    child.wait_for_epochs(2)
    child.send(signal.SIGTERM)
    _, errors = child.wait(30)
    assert child.status == 130, errors
    assert (work / "checkpoints" / "last.ckpt").is_file()
    assert only_run(database).info.status == "KILLED"


def test_the_child_dies_with_its_parent(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    work = tmp_path / "work"
    work.mkdir()
    path = request_for(work, tiny_cache, tiny_spec, epochs=5000).write(work / "request.json")
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'har_assets.training', sys.argv[1]],"
        " env={**os.environ, 'HAR_PARENT_PID': str(os.getpid()), 'OMP_NUM_THREADS': '1'}, stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    history, deadline = work / "history.jsonl", time.monotonic() + 120
    while not history.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


def test_a_child_that_reads_no_signal_dies_with_its_parent_too() -> None:
    child_code = (
        "import os, signal, sys, time\n"
        "from har_assets.system import processes\n"
        "processes.PARENT_LOOK_S = 0.05\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "processes.die_with_parent(int(sys.argv[1]), grace_s=0.2)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent_code = (
        "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())], check=False)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code, child_code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path, "this training"):
        code = (
            "import sys; from pathlib import Path; from har_assets.system.locks import exclusive\n"
            "with exclusive(Path(sys.argv[1]), 'this training', wait_s=0.5): pass"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"Process {os.getpid()} is already at work on this training" in done.stderr


def test_a_fault_is_said_in_one_sentence(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    request = request_for(tmp_path, tiny_cache, tiny_spec, mlflow_tracking_uri="http://127.0.0.1:9")
    child = TrainingProcess(request, tmp_path)
    _, errors = child.wait()
    assert child.status == 1
    assert (tmp_path / ERROR_FILE).read_text().startswith("MLflow at http://127.0.0.1:9 does not answer")
    assert "Traceback" not in errors


def test_a_network_that_cannot_be_compiled_is_said_with_what_to_do(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(model: torch.nn.Module, inputs: object) -> None:
        raise RuntimeError("no kernel for this")

    def compile_model(model: VideoActionModel, *, nodes: int) -> None:
        model.losses = torch.compile(model.losses, backend=cannot)  # type: ignore[arg-type]

    monkeypatch.setattr("har_assets.training.fit.choose_compile", lambda wanted: (True, "compiled"))
    monkeypatch.setattr("har_assets.training.fit.compile_model", compile_model)
    with pytest.raises(HarError, match=r"no kernel for this.*compile: off"):
        fit(request_for(tmp_path, tiny_cache, tiny_spec), lambda line: None)


def test_a_foreign_request_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"epochs": 3}')
    with pytest.raises(HarError, match=r"is not a training request \(work \(Field required\), ") as caught:
        TrainingRequest.read(tmp_path / "request.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [*compare_recipes.CHANGES.values(), *({"learning_rate": 1e-3, **way} for way in finetune_sample.WAYS.values())],
)
def test_the_recipes_that_benchmarks_compare_are_requests(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec, fields: dict[str, object]
) -> None:
    request = request_for(tmp_path, tiny_cache, tiny_spec, **{**compare_recipes.DEFAULTS, **fields})
    assert request.model_dump().items() >= fields.items()


def test_precision_is_what_the_device_computes() -> None:
    assert choose_precision("16-mixed") == ("16-mixed", "as configured")
    precision, why = choose_precision("auto")
    if not torch.cuda.is_available():
        amx = "amx_tile" in Path("/proc/cpuinfo").read_text()
        assert (precision, why) == (("bf16-mixed", "this CPU has AMX") if amx else ("32-true", "this CPU has no AMX"))
