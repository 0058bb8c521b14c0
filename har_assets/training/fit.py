"""One training, from a request to a published-ready checkpoint; resumable, logged to MLflow."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

from har_assets.model.data import ClipDataModule
from har_assets.model.lightning import VideoActionModel, load_checkpoint
from har_assets.model.networks import check_clip_size, find_network
from har_assets.model.spec import ModelSpec, Provenance, to_metadata
from har_assets.report.plots import plot_confusion, plot_curves
from har_assets.training.confusion import validation_confusion
from har_assets.training.lifeline import exclusive
from har_assets.training.request import CONFUSION_FILE, SUMMARY_FILE, TrainingRequest
from har_assets.training.tracking import Tracking

HISTORY_FILE = "history.jsonl"
CHECKPOINT_FILE = "model.ckpt"
CURVES_FILE = "curves.png"


def fit(request: TrainingRequest, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Train as requested and return the summary that `summary.json` holds.

    The work folder then has `model.ckpt` (weights of the best epoch, without optimiser state),
    `curves.png`, `validation_confusion.png` where there are validation clips, `history.jsonl` (one line an epoch)
    and `summary.json`. Called again after any kind of end it goes on after the last whole epoch; after a complete one
    it returns at once.

    Raises:
        HarError: another process trains in the folder, or the request cannot be met.
        KeyboardInterrupt: SIGINT or SIGTERM came; the last whole epoch is kept.
    """
    work = Path(request.work)
    with exclusive(work, "this training"):
        summary_file = work / SUMMARY_FILE
        if summary_file.is_file():
            summary: dict[str, Any] = json.loads(summary_file.read_text())
            return summary
        spec = _spec(request)
        with Tracking.open(request, work, report) as tracking:
            summary = _fit(request, spec, work, report, tracking)
        partial = work / (SUMMARY_FILE + ".partial")
        partial.write_text(json.dumps(summary, indent=2) + "\n")
        os.replace(partial, work / SUMMARY_FILE)
        return summary


def _fit(
    request: TrainingRequest, spec: ModelSpec, work: Path, report: Callable[[str], None], tracking: Tracking
) -> dict[str, Any]:
    pl.seed_everything(request.seed, workers=True, verbose=False)
    provenance = dataclasses.replace(Provenance.from_json(request.provenance), mlflow_run_id=tracking.run_id)
    data = _data(request, spec)
    model = VideoActionModel(to_metadata(spec, provenance), **request.recipe)
    validated = len(data.clips["val"]) > 0
    if not validated:
        report("No validation clips: the last epoch is kept instead of the best, early stopping is off.")

    history = EpochHistory(work / HISTORY_FILE, request, report)
    folder = work / "checkpoints"
    every_epoch = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks: list[Callback] = [OrderlyStop(), history, every_epoch, *tracking.callbacks]
    if validated:
        best = ModelCheckpoint(
            folder, "best", monitor="val_rank", mode="max", save_on_train_epoch_end=True, enable_version_counter=False
        )
        callbacks.append(best)
    if validated and request.early_stopping:
        callbacks.append(EarlyStopping(monitor="val_top1", mode="max", patience=request.early_stopping))

    precision, why = choose_precision(request.precision)
    last = folder / "last.ckpt"
    report(
        f"Training {spec.network} on {len(data.clips['train'])} clips of {spec.num_frames}x{spec.frame_height}x"
        f"{spec.frame_width} in {precision} ({why}), {len(data.clips['val'])} for validation"
        + (f", going on from {last}." if last.exists() else ".")
    )
    tracking.params(
        {**request.recipe, "epochs": request.epochs, "batch_size": request.batch_size, "seed": request.seed,
         "precision": precision, **{f"spec.{k}": v for k, v in dataclasses.asdict(spec).items() if k != "labels"}}
    )  # fmt: skip
    started = time.monotonic()
    try:
        with warnings.catch_warnings():
            # Loading in the training process is meant: a batch is one copy out of a memory map.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*number of training batches.*")
            trainer = pl.Trainer(
                max_epochs=request.epochs,
                precision=precision,  # type: ignore[arg-type]
                logger=tracking.logger or False,
                callbacks=callbacks,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=max(1, len(data.train_dataloader())),
                default_root_dir=work,
            )
            model.network.to(memory_format=torch.channels_last_3d)
            trainer.fit(model, data, ckpt_path=last if last.exists() else None, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        # Lightning turns an interrupt into an orderly stop and then exits, after SIGTERM with status 0.
        raise KeyboardInterrupt from None

    best_epoch = write_deployable(Path(best.best_model_path) if validated else last, work / CHECKPOINT_FILE)
    epochs = history.epochs()
    synthetic = " (synthetic)" if provenance.synthetic else ""
    plot_curves(epochs, work / CURVES_FILE, title=f"{spec.network} on {provenance.dataset or 'videos'}{synthetic}")
    if validated:
        chosen = load_checkpoint(work / CHECKPOINT_FILE, device=str(trainer.strategy.root_device))
        confusion_KK = validation_confusion(chosen, data, trainer.precision_plugin.forward_context())
        top1 = confusion_KK.trace() / confusion_KK.sum()
        title = f"top-1 {top1:.3f} on {confusion_KK.sum()} validation clips,\nepoch {best_epoch + 1}{synthetic}"
        plot_confusion(confusion_KK, spec.labels, work / CONFUSION_FILE, title=title)
        tracking.files(work / CONFUSION_FILE)
    summary = {
        "epochs_run": len(epochs),
        "best_epoch": best_epoch,
        "validated": validated,
        "precision": precision,
        "train_clips": len(data.clips["train"]),
        "val_clips": len(data.clips["val"]),
        "seconds": round(time.monotonic() - started, 1),
        "mlflow_run_id": provenance.mlflow_run_id,
        "spec": json.loads(spec.to_json()),
        **{name: value for name, value in epochs[best_epoch].items() if isinstance(value, float)},
    }
    tracking.files(work / CHECKPOINT_FILE, work / CURVES_FILE)
    return summary


def _spec(request: TrainingRequest) -> ModelSpec:
    """The requested spec with the normalisation of its network; HarError for a clip size that does not fit it."""
    spec = ModelSpec.from_json(request.spec)
    check_clip_size(spec.network, spec.num_frames, spec.frame_height, spec.frame_width)
    row = find_network(spec.network)
    return dataclasses.replace(spec, mean=row.mean, std=row.std)


def _data(request: TrainingRequest, spec: ModelSpec) -> ClipDataModule:
    return ClipDataModule(
        {role: Path(path) for role, path in request.manifests.items()},
        Path(request.frame_cache),
        spec,
        batch_size=request.batch_size,
        seed=request.seed,
        workers=request.workers,
        still_frames=request.still_frames,
    )


def choose_precision(wanted: str) -> tuple[str, str]:
    """Lightning's name of the precision and why: `auto` takes the fastest that this device computes in hardware."""
    if wanted != "auto":
        return wanted, "as configured"
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU computes bfloat16"
        return "32-true", "this GPU has no bfloat16"
    if torch.cpu._is_amx_tile_supported():
        return "bf16-mixed", "this CPU has AMX"
    # Without AMX bfloat16 is emulated: measured 70 times slower than float32 on an AVX2 machine.
    return "32-true", "this CPU has no AMX"


def write_deployable(checkpoint: Path, target: Path) -> int:
    """Copy a Lightning checkpoint without optimiser and loop state; return its epoch, counted from 0.

    The result loads with `VideoActionModel.load_from_checkpoint` and `load_checkpoint`.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    kept = ("state_dict", "hyper_parameters", "pytorch-lightning_version", "epoch", "global_step")
    partial = target.with_name(target.name + ".partial")
    torch.save({name: content[name] for name in kept}, partial)
    os.replace(partial, target)
    return int(content["epoch"])


class OrderlyStop(Callback):
    """SIGINT and SIGTERM end the training between two batches, not in the middle of writing a checkpoint."""

    def __init__(self) -> None:
        self.requested = False
        self.previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take both signals over, from Lightning too; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._request)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop here if asked to."""
        self._stop_if_requested()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Stop here if asked to."""
        self._stop_if_requested()

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def _stop_if_requested(self) -> None:
        if self.requested:
            raise KeyboardInterrupt


class EpochHistory(Callback):
    """One report line and one JSON line an epoch; seeds the augmentation of each epoch."""

    def __init__(self, path: Path, request: TrainingRequest, report: Callable[[str], None]) -> None:
        self.path = path
        self.request = request
        self.report = report
        self.started = 0.0
        self.clips = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget epochs that were reported but not checkpointed before a kill."""
        kept = self.epochs()[: trainer.current_epoch]
        self.path.write_text("".join(json.dumps(epoch) + "\n" for epoch in kept))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Make the draws of each batch depend on the seed and its number alone, whatever this process did before."""
        # Not in on_train_epoch_start, which Lightning skips in the first epoch after a resume.
        if batch_idx == 0:
            self.started, self.clips = time.monotonic(), 0
        torch.manual_seed(1_000_003 * self.request.seed + trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count clips for the throughput."""
        self.clips += len(batch[1])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report and record the epoch (Lightning has validated by now)."""
        seconds = time.monotonic() - self.started
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = {"epoch": trainer.current_epoch, "seconds": seconds, **values}
        with self.path.open("a") as file:
            file.write(json.dumps(epoch) + "\n")
        number, total = trainer.current_epoch + 1, self.request.epochs
        line = f"epoch {number}/{total}: loss {values['train_loss']:.3f}, top-1 {values['train_top1']:.3f}"
        if "val_top1" in values:
            line += f", val loss {values['val_loss']:.3f}, val top-1 {values['val_top1']:.3f}"
        self.report(f"{line}, {self.clips / seconds:.1f} clips/s, {seconds * (total - number):.0f} s left")

    def epochs(self) -> list[dict[str, Any]]:
        """The epochs recorded so far, a dictionary of epoch, seconds and metrics each."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text().split("\n")[:-1]  # a torn last line has no newline
        return [json.loads(line) for line in lines]
