"""One training, from a request to a published-ready checkpoint; resumable, logged to MLflow."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from torch._dynamo.exc import TorchDynamoException

from har_assets.errors import HarError
from har_assets.model.data import ClipDataModule
from har_assets.model.files import CURVES
from har_assets.model.lightning import VideoActionModel, load_checkpoint, training_losses
from har_assets.model.networks import check_clip_size, find_network, order_weights
from har_assets.model.pretrained import apply_state
from har_assets.model.spec import ModelSpec, Provenance, to_metadata
from har_assets.report.plots import plot_confusion, plot_curves
from har_assets.system.files import Log, remove_partials, silent, write_text_whole, written_whole
from har_assets.system.locks import exclusive
from har_assets.training.averaging import AveragedWeights
from har_assets.training.callbacks import EpochHistory, OrderlyStop
from har_assets.training.confusion import validation_confusion
from har_assets.training.request import (
    CHECKPOINT_FILE,
    CONFUSION_FILE,
    HISTORY_FILE,
    NOTICE_FILE,
    SUMMARY_FILE,
    TrainingRequest,
)
from har_assets.training.tracking import TrainingRun


def fit(request: TrainingRequest, report: Log = print) -> dict[str, Any]:
    """Train as requested and return the summary that `summary.json` holds.

    The work folder then has `model.ckpt` (weights of the best epoch, without optimiser state),
    `curves.png`, `validation_confusion.png` where there are validation clips, `history.jsonl` (one line an epoch)
    and `summary.json`. Called again after any kind of end it goes on after the last whole epoch; after a complete
    one it returns at once.
    Under torchrun it is called in every process; the first one reports and writes.

    Raises:
        HarError: another process trains in the folder, or the request cannot be met.
        KeyboardInterrupt: SIGINT or SIGTERM came; the last whole epoch is kept.
    """
    work = Path(request.work)
    summary_file = work / SUMMARY_FILE
    first = process_rank() == 0
    with exclusive(work, "this training") if first else contextlib.nullcontext():
        if not summary_file.is_file():
            spec = _spec(request)
            if first and (notice := work / NOTICE_FILE).is_file():
                report(notice.read_text())
                notice.unlink()
            with TrainingRun.open(request, work, report) if first else TrainingRun() as tracking:
                found = _fit(request, spec, work, report if first else silent, tracking)
            if first:
                write_text_whole(summary_file, json.dumps(found, indent=2) + "\n")
        # Only the first process has written it, and the others leave when it has.
        summary: dict[str, Any] = json.loads(summary_file.read_text()) if first else {}
        return summary


def process_rank() -> int:
    """Number of this process among those that torchrun has started on all nodes; 0 without it."""
    return int(os.environ.get("RANK", "0"))


def _fit(request: TrainingRequest, spec: ModelSpec, work: Path, report: Log, tracking: TrainingRun) -> dict[str, Any]:
    first = process_rank() == 0
    pl.seed_everything(request.seed, workers=True, verbose=False)
    devices = _devices(request)
    provenance = dataclasses.replace(Provenance.from_json(request.provenance), mlflow_run_id=tracking.run_id)
    data = _data(request, spec)
    model = VideoActionModel(to_metadata(spec, provenance), **request.recipe)
    validated = len(data.clips["val"]) > 0
    if not validated:
        report("No validation clips: the last epoch is kept instead of the best, early stopping is off.")

    last = work / "checkpoints" / "last.ckpt"
    if request.pretrained and not last.exists():
        _load_weights(Path(request.pretrained), model)
    history = EpochHistory(work / HISTORY_FILE, request, report)
    every_epoch = ModelCheckpoint(last.parent, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    best = ModelCheckpoint(
        last.parent, "best", monitor="val_rank", mode="max", save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks: list[Callback] = [
        OrderlyStop(),
        *([AveragedWeights(request.ema)] if request.ema else []),
        history,
        # The best first: what a training goes on from must know of it, or a worse epoch is the best after a stop.
        *([best] if validated else []),
        every_epoch,
        *tracking.callbacks,
    ]
    if validated and request.early_stopping:
        callbacks.append(EarlyStopping(monitor="val_top1", mode="max", patience=request.early_stopping))

    precision, why = choose_precision(request.precision)
    compiled, why_compiled = choose_compile(request.compile)
    where = f"{devices * request.nodes} x {device_name()}" if devices * request.nodes > 1 else device_name()
    report(
        f"Training {spec.network}{' from ' + provenance.pretrained if provenance.pretrained else ''} on "
        f"{len(data.clips['train'])} clips of {spec.num_frames}x{spec.frame_height}x{spec.frame_width}, "
        f"{len(data.clips['val'])} for validation, on {where} in {precision} ({why}), {why_compiled}"
        + (f", going on from {last}." if last.exists() else ".")
    )
    tracking.params(
        {
            **request.recipe,
            "epochs": request.epochs,
            "batch_size": request.batch_size,
            "seed": request.seed,
            "precision": precision,
            "devices": devices * request.nodes,
            "compiled": compiled,
            **{f"spec.{k}": v for k, v in dataclasses.asdict(spec).items() if k != "labels"},
        }
    )
    with _ending_in_words(request, spec), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*number of training batches.*")
        # Lightning looks at PyTorch's own loaders for these; ClipLoader has threads and its own order.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # DDP makes these nodes before the step is compiled; the streams wait for each other, as the message says.
        warnings.filterwarnings("ignore", message=".*AccumulateGrad node's stream does not match.*")
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # frozen BatchNorm
        trainer = _trainer(request, precision, devices, tracking.logger, callbacks, len(data.clips["train"]))
        order_weights(model.network)
        if compiled:
            compile_model(model, nodes=request.nodes)
        trainer.fit(model, data, ckpt_path=last if last.exists() else None, weights_only=True)
    if not first:
        return {}
    best_epoch = write_deployable(Path(best.best_model_path) if validated else last, work / CHECKPOINT_FILE)
    epochs = history.epochs()
    synthetic = " (synthetic)" if provenance.synthetic else ""
    plot_curves(epochs, work / CURVES, title=f"{spec.network} on {provenance.dataset or 'videos'}{synthetic}")
    if validated:
        # Data of its own: that of the trainer is one process's share.
        chosen = load_checkpoint(work / CHECKPOINT_FILE, device=str(trainer.strategy.root_device))
        with trainer.precision_plugin.forward_context():
            confusion_KK = validation_confusion(chosen, _data(request, spec))
        top1 = confusion_KK.trace() / confusion_KK.sum()
        title = f"top-1 {top1:.3f} on {confusion_KK.sum()} validation clips,\nepoch {best_epoch + 1}{synthetic}"
        plot_confusion(confusion_KK, spec.labels, work / CONFUSION_FILE, title=title)
        tracking.files(work / CONFUSION_FILE)
    tracking.files(work / CHECKPOINT_FILE, work / CURVES)
    return {
        "epochs_run": len(epochs),
        "best_epoch": best_epoch,
        "validated": validated,
        "precision": precision,
        "device": where,
        "compiled": compiled,
        "pretrained": provenance.pretrained,
        "train_clips": len(data.clips["train"]),
        "val_clips": len(data.clips["val"]),
        "mlflow_run_id": provenance.mlflow_run_id,
        "spec": json.loads(spec.to_json()),
        **{name: value for name, value in epochs[best_epoch].items() if isinstance(value, float)},
        # Of all epochs, also of those before a stop; the figures above are of the chosen one.
        **{name: round(sum(epoch[name] for epoch in epochs), 1) for name in ("seconds", "data_seconds")},
    }


@contextlib.contextmanager
def _ending_in_words(request: TrainingRequest, spec: ModelSpec) -> Iterator[None]:
    """KeyboardInterrupt where the training was stopped; a sentence when memory ran out or torch.compile fails."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        # Lightning turns an interrupt into an orderly stop and then exits, after SIGTERM with status 0.
        raise KeyboardInterrupt from None
    except torch.OutOfMemoryError:
        raise HarError(
            f"A batch of {request.batch_size} clips of {spec.num_frames}x{spec.frame_height}x{spec.frame_width} does "
            f"not fit {device_name()} ({torch.cuda.mem_get_info()[1] / 1e9:.0f} GB): choose a smaller batch_size, "
            f"{max(1, request.batch_size // 2)} for instance, or more devices."
        ) from None
    except TorchDynamoException as error:
        reason = " ".join(str(error).split("\n\n")[0].split())  # the backend's name and what it raised
        raise HarError(
            f"torch.compile cannot compile {spec.network} here ({reason[:200]}): set compile: off, which is slower."
        ) from error


def _trainer(
    request: TrainingRequest,
    precision: str,
    devices: int,
    logger: Logger | None,
    callbacks: list[Callback],
    train_clips: int,
) -> pl.Trainer:
    cuda = torch.cuda.is_available()
    world_size = devices * request.nodes
    return pl.Trainer(
        accelerator="cuda" if cuda else "cpu",
        devices=devices,
        num_nodes=request.nodes,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if world_size > 1 else "auto",
        use_distributed_sampler=False,
        sync_batchnorm=request.batch_norm == "sync" and world_size > 1,
        max_epochs=request.epochs,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=request.gradient_clip or None,
        deterministic="warn" if request.deterministic else None,
        logger=logger or False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, train_clips // (request.batch_size * world_size)),
        default_root_dir=request.work,
    )


def _spec(request: TrainingRequest) -> ModelSpec:
    """The requested spec with the normalisation of its network; HarError for a clip size that does not fit it."""
    spec = ModelSpec.from_json(request.spec)
    check_clip_size(spec.network, spec.num_frames, spec.frame_height, spec.frame_width)
    row = find_network(spec.network)
    return dataclasses.replace(spec, mean=row.mean, std=row.std)


def _devices(request: TrainingRequest) -> int:
    """Processes of this node, one a device; HarError where there are not so many GPUs."""
    devices = request.count_devices()
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise HarError(
            f"This machine has {torch.cuda.device_count()} GPUs, not {devices}: choose devices 0 for all of them."
        )
    return devices


def device_name() -> str:
    """`NVIDIA H100 80GB HBM3` or `CPU`."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def _load_weights(path: Path, model: VideoActionModel) -> None:
    """Weights that the asset pretrained_weights published, all but the head."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise HarError(
            f"{path} cannot be read ({type(error).__name__}): materialize pretrained_weights with force: true."
        ) from error
    apply_state(model.spec.network, model.network, state)


def _data(request: TrainingRequest, spec: ModelSpec) -> ClipDataModule:
    return ClipDataModule(
        {role: Path(path) for role, path in request.manifests.items()},
        Path(request.frame_cache),
        spec,
        batch_size=request.batch_size,
        seed=request.seed,
        windows=request.val_windows,
        max_stride=request.max_stride,
        balanced=request.balanced,
        threads=request.threads,
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


def choose_compile(wanted: str) -> tuple[bool, str]:
    """Whether to use torch.compile, and why: `auto` does on a GPU, where compiling for a minute pays within epochs.

    Where compiling fails, for want of a C compiler most of the time, training goes on without.
    """
    if wanted == "off" or (wanted == "auto" and not torch.cuda.is_available()):
        return False, "not compiled"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(64, device=device))
    except Exception as error:  # noqa: BLE001 whatever the compilers below say, it is reported and done without
        reason = str(error).strip().splitlines()[0][:160]
        return False, f"not compiled: torch.compile does not work here ({reason}), install gcc for more speed"
    return True, "compiled"


def compile_model(model: VideoActionModel, *, nodes: int = 1) -> None:
    """Compile a training step and the network in place (the parameters keep their names in checkpoints).

    On a GPU the kernels of a training step are recorded as CUDA graphs and started together: i3d has about a
    thousand of them, and a CPU that starts them one by one takes longer than an H100 that computes them.
    """
    # Cut in pieces, gradients travel while others are computed, which between the GPUs of a machine saves nothing.
    torch._dynamo.config.optimize_ddp = nodes > 1
    model.losses = torch.compile(training_losses, mode="reduce-overhead" if torch.cuda.is_available() else "default")
    model.network.compile()  # for validation


def write_deployable(checkpoint: Path, target: Path) -> int:
    """Copy a Lightning checkpoint without optimiser and loop state; return its epoch, counted from 0.

    The result loads with `VideoActionModel.load_from_checkpoint` and `load_checkpoint`.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    kept = ("state_dict", "hyper_parameters", "pytorch-lightning_version", "epoch", "global_step")
    remove_partials(target)
    with written_whole(target) as partial:
        torch.save({name: content[name] for name in kept}, partial)
    return int(content["epoch"])
