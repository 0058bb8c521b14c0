"""Callbacks of a training: a stop between two batches, and a line an epoch."""

from __future__ import annotations

import json
import resource
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from har_assets.system.files import Log
from har_assets.training.request import TrainingRequest


def _nothing() -> None:
    pass


class OrderlyStop(Callback):
    """SIGINT and SIGTERM end the training between two batches, not in the middle of writing a checkpoint.

    Several processes agree on it: one that stopped alone would leave the others waiting for its gradients.
    """

    AGREE_EVERY = 5
    """Batches between two agreements: a number of one bit each, over CPU memory, so that no GPU is waited for."""

    def __init__(self) -> None:
        self.requested = False
        self.previous: dict[signal.Signals, Any] = {}
        self.group: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take both signals over, from Lightning too; only the main thread may."""
        if trainer.world_size > 1:
            self.group = torch.distributed.new_group(backend="gloo")
            # Lightning's own agreement, on a signal that this class has taken over, waits for the GPU at every step.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._request)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if asked to."""
        self._stop_if_requested(batch_idx)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Stop here if asked to."""
        self._stop_if_requested(batch_idx)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def _stop_if_requested(self, batch_idx: int) -> None:
        requested = self.requested
        if self.group is not None:
            if batch_idx % self.AGREE_EVERY:
                return
            vote = torch.tensor([requested], dtype=torch.int32)
            torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX, group=self.group)
            requested = bool(vote)
        if requested:
            raise KeyboardInterrupt


class EpochHistory(Callback):
    """One report line and one JSON line an epoch; seeds what is random inside the network (dropout)."""

    def __init__(self, path: Path, request: TrainingRequest, report: Log) -> None:
        self.path = path
        self.request = request
        self.report = report
        self.started = 0.0
        self.trained_seconds = 0.0
        self.clips = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget epochs that were reported but not checkpointed before a kill."""
        if trainer.is_global_zero:
            kept = self.epochs()[: trainer.current_epoch]
            self.path.write_text("".join(json.dumps(epoch) + "\n" for epoch in kept))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Make the draws of each batch depend on the seed and its number alone, whatever this process did before."""
        # Not in on_train_epoch_start, which Lightning skips in the first epoch after a resume.
        if batch_idx == 0:
            self.started, self.trained_seconds, self.clips = time.monotonic(), 0.0, 0
        step = trainer.global_step * trainer.world_size + trainer.global_rank
        torch.manual_seed(1_000_003 * self.request.seed + step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count clips for the throughput."""
        self.clips += len(batch[1]) * trainer.world_size

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training of this epoch has ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.trained_seconds = time.monotonic() - self.started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report and record the epoch (Lightning has validated by now)."""
        # Reading the metrics waits for the GPU, so the time that follows is that of the work.
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = time.monotonic() - self.started
        training = self.trained_seconds or seconds
        loader = trainer.datamodule.loaders["train"]  # type: ignore[attr-defined]
        speed = {
            "seconds": seconds,
            "clips_per_second": self.clips / training,
            "data_seconds": loader.seconds_waited,
            "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }
        if torch.cuda.is_available():
            speed["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        if not trainer.is_global_zero:
            return
        if trainer.logger:
            trainer.logger.log_metrics(speed, trainer.global_step - 1)
        with self.path.open("a") as file:
            file.write(json.dumps({"epoch": trainer.current_epoch, **speed, **values}) + "\n")
        number, total = trainer.current_epoch + 1, self.request.epochs
        line = f"epoch {number}/{total}: loss {values['train_loss']:.3f}, top-1 {values['train_top1']:.3f}"
        if "val_top1" in values:
            line += f", val loss {values['val_loss']:.3f}, val top-1 {values['val_top1']:.3f}"
        line += f", {speed['clips_per_second']:.1f} clips/s, {speed['data_seconds'] / training:.0%} waiting for data"
        if "gpu_memory_gb" in speed:
            line += f", {speed['gpu_memory_gb']:.1f} GB of GPU memory"
        self.report(f"{line}, {seconds * (total - number):.0f} s left")

    def epochs(self) -> list[dict[str, Any]]:
        """The epochs recorded so far, a dictionary of epoch, seconds and metrics each."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text().split("\n")[:-1]  # a torn last line has no newline
        return [json.loads(line) for line in lines]
