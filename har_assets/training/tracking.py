"""The MLflow run of a training: opened or reopened, written through an outbox, closed as the training ended."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers.logger import Logger

from har_assets.errors import HarError
from har_assets.system.files import Log, write_text_whole
from har_assets.system.processes import undisturbed
from har_assets.tracking.client import (
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    client_of,
    experiment_of,
    one_line,
    settle_status,
    without_password,
)
from har_assets.tracking.outbox import Address, Outbox, UndeliveredError, opened, report_settled, settle
from har_assets.tracking.tags import DAGSTER_STEP_TAG, LINEAGE_TAG, STEP_TAG
from har_assets.training.request import LINEAGE_FILE, TrainingRequest

STEP = "trained_checkpoint"

SEND_EVERY_S = 5.0
LONGEST_PAUSE_S = 60.0
SYSTEM_EVERY_S = 10.0
SYSTEM_METRIC = "system/cpu_utilization_percentage"
"""One that is read on every machine."""


class TrainingRun:
    """The MLflow run of a training. `TrainingRun()` does nothing: without MLflow, and on ranks above 0.

    A context manager that closes the run: FINISHED, KILLED after an interrupt, else FAILED. Once it is open, nothing
    that MLflow does ends the training: what cannot be sent is kept on disk, said, and sent later.
    """

    def __init__(self, outbox: Outbox | None = None, report: Log = print, *, every_steps: int = 10) -> None:
        self._outbox = outbox
        self._report = report
        self._held = ExitStack()
        self._sender: Sender | None = None
        self._system: SystemMetrics | None = None
        self.run_id = outbox.address.run_id if outbox else ""
        """The MLflow run; empty without one."""
        self.logger: Logger | None = OutboxLogger(outbox, report) if outbox else None
        """For the Trainer."""
        self.callbacks: list[Callback] = [StepMetrics(every_steps)] if outbox else []
        """For the Trainer: training loss and learning rates every few steps."""

    @classmethod
    def open(cls, request: TrainingRequest, work: Path, report: Log) -> TrainingRun:
        """The MLflow run of this work folder, new or reopened; one that does nothing without a tracking address.

        HarError, in one sentence, when the server is absent or does not take what it is given.
        """
        if not request.mlflow_tracking_uri:
            return cls()
        root = Path(request.mlflow_outbox or work / "mlflow_outbox")
        lineage = _lineage(work)
        report_settled(settle(root, but=lineage), report)
        held = ExitStack()
        outbox = None
        try:
            address = Address(
                tracking_uri=request.mlflow_tracking_uri,
                run_id=find_or_create_run(request, lineage),
                step=STEP,
                dagster_run=request.mlflow_tags.get("dagster_url") or request.mlflow_tags.get("dagster_run_id", ""),
                work=str(work),
            )
            outbox = held.enter_context(opened(root / lineage, address))
            if (outbox.address.tracking_uri, outbox.address.run_id) != (address.tracking_uri, address.run_id):
                report(f"The MLflow run {outbox.address.run_id} is not there any more: all of it goes into a new one.")
                outbox.forget_sent()
            outbox.readdress(address)
            outbox.enter_state(RUNNING)
            outbox.tags({name: text for name, text in {**request.mlflow_tags, **machine_tags()}.items() if text})
            for path in write_environment(work / "environment"):
                outbox.file(path, "environment")
            # Now, so that a file store without access is found before the training and not after it.
            outbox.deliver()
        except HarError as error:
            if outbox is None or not isinstance(error, UndeliveredError):
                raise
            outbox.enter_state(FAILED)
            with contextlib.suppress(UndeliveredError):
                outbox.deliver()
            held.close()
            raise _not_usable(request, error.__cause__ or error) from error
        except Exception as error:  # a database or server raises what it likes
            held.close()
            raise _not_usable(request, error) from error
        tracking = cls(outbox, report, every_steps=request.mlflow_every_steps)
        tracking._held = held
        tracking._sender = Sender(outbox, report)
        tracking._sender.start()
        tracking._system = SystemMetrics(outbox, report)
        tracking._system.start()
        return tracking

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters."""
        if self._outbox:
            self._outbox.params(values)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of a step."""
        if self._outbox:
            self._outbox.metrics(values, step)

    def files(self, *paths: Path) -> None:
        """Log files, to the top of the run's files."""
        if self._outbox:
            for path in paths:
                self._outbox.file(path)

    def close(self, state: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; what cannot be sent now is said and kept."""
        with undisturbed():
            self._close(state)

    def _close(self, state: str) -> None:
        outbox = self._outbox
        if outbox is None:
            return
        self._outbox = None
        if self._system:
            self._system.stop()
        outbox.enter_state(state)
        if self._sender:
            self._sender.stop()
        try:
            # Who has cancelled a training waits for its end; who has trained for a day wants it in MLflow.
            outbox.deliver_at_last(pauses_s=(2.0, 5.0) if state == FINISHED else ())
        except UndeliveredError as error:
            self._report(
                f"{error} What it lacks is kept in {outbox.folder}; the next step of this model sends it, or "
                "`har mlflow-sync`."
            )
        for refused in outbox.refused:
            self._report(f"MLflow refused an entry: {refused}")
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit))
        self.close(FINISHED if kind is None else KILLED if interrupted else FAILED)


def _not_usable(request: TrainingRequest, error: BaseException) -> HarError:
    return HarError(
        f"MLflow at {without_password(request.mlflow_tracking_uri)} does not answer as needed ({one_line(error)}): "
        "start it, or correct the resource mlflow's tracking_uri."
    )


def _lineage(work: Path) -> str:
    """The name of this training, made once a work folder, before the run that carries it as a tag."""
    path = work / LINEAGE_FILE
    if not path.is_file():
        write_text_whole(path, uuid.uuid4().hex)
    return path.read_text().strip()


def find_or_create_run(request: TrainingRequest, lineage: str) -> str:
    """Id of the run that has the tag of this lineage, else of a new one. Raises what MLflow raises."""
    client = client_of(request.mlflow_tracking_uri)
    from mlflow.tracking.context.registry import resolve_tags

    experiment_id = experiment_of(client, request.mlflow_experiment, request.mlflow_artifact_root)
    found = client.search_runs([experiment_id], f"tags.`{LINEAGE_TAG}` = '{lineage}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    _close_lost_runs(client, experiment_id, request.mlflow_tags.get(DAGSTER_STEP_TAG, ""))
    spec, provenance = json.loads(request.spec), json.loads(request.provenance)
    tags = resolve_tags(
        {
            **request.mlflow_tags,
            LINEAGE_TAG: lineage,
            "mlflow.runName": f"{spec['network']} on {provenance['dataset'] or 'videos'}, split {provenance['split']}",
            "mlflow.source.name": "har_assets.training",
            "mlflow.source.git.commit": provenance["git_commit"].removesuffix("-dirty"),
        }
    )
    run_id = str(
        client.create_run(experiment_id, tags={key: value for key, value in tags.items() if value}).info.run_id
    )
    if provenance["data_version"]:
        from mlflow.entities import Dataset, DatasetInput

        data = Dataset(
            provenance["dataset"] or "videos", provenance["data_version"][:36], "dvc", '{"path": "data.dvc"}'
        )
        client.log_inputs(run_id, [DatasetInput(data)])
    return run_id


def _close_lost_runs(client: Any, experiment_id: str, step: str) -> None:
    """Say KILLED of trainings of this Dagster step that seem to run: their machine is gone, and their work folder."""
    if not step:
        return
    running = f"tags.`{DAGSTER_STEP_TAG}` = '{step}' AND attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], running):
        state, _, where = run.data.tags.get(STEP_TAG + STEP, "").partition(" ")
        if state == RUNNING:
            client.set_tag(run.info.run_id, STEP_TAG + STEP, f"{KILLED} {where}".strip())
            settle_status(client, run.info.run_id)


def write_environment(folder: Path) -> tuple[Path, Path]:
    """Write and return `packages.txt` (what is installed, as pip freeze writes it) and `machine.json`."""
    folder.mkdir(exist_ok=True)
    versions = {
        distribution.metadata["Name"]: distribution.version
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    }
    packages = sorted((f"{name}=={version}\n" for name, version in versions.items()), key=str.lower)
    packages_file, machine_file = folder / "packages.txt", folder / "machine.json"
    packages_file.write_text("".join(packages))
    machine = {
        **machine_tags(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    machine_file.write_text(json.dumps(machine, indent=2) + "\n")
    return packages_file, machine_file


def machine_tags() -> dict[str, str]:
    """Name of this machine and of its GPUs (`none` without)."""
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"machine": platform.node(), "gpu": ", ".join(names) or "none"}


class Sender(threading.Thread):
    """Sends what is entered every few seconds; says once that the server is away, and that it is back."""

    def __init__(self, outbox: Outbox, report: Log) -> None:
        super().__init__(name="mlflow sender", daemon=True)
        self._outbox = outbox
        self._report = report
        self._ended = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        failures = 0
        while not self._ended.wait(min(LONGEST_PAUSE_S, SEND_EVERY_S * 2**failures)):
            try:
                self._outbox.deliver()
            except (UndeliveredError, OSError) as error:
                if not failures:
                    self._report(f"{error} The training goes on; what it logs is kept in {self._outbox.folder}.")
                failures += 1
            else:
                if failures:
                    self._report(
                        f"MLflow at {without_password(self._outbox.address.tracking_uri)} has all that was kept."
                    )
                failures = 0

    def stop(self) -> None:
        """Return when no request is under way any more."""
        self._ended.set()
        self.join()


class SystemMetrics(threading.Thread):
    """Enters how busy this machine is, by MLflow's monitors: `system/cpu_utilization_percentage` and so on.

    Processors, memory, disk, network and GPUs, whoever uses them. MLflow's own thread would send the figures itself
    and end with the first request that fails. Its variables hold: MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false turns
    this off, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is the pause in seconds (10).
    """

    def __init__(self, outbox: Outbox, report: Log) -> None:
        super().__init__(name="system metrics", daemon=True)
        self._outbox = outbox
        self._logger = OutboxLogger(outbox, report)
        self._report = report
        self._ended = threading.Event()

    def run(self) -> None:
        """Until `stop`; the last look is then."""
        from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING as WANTED
        from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL as INTERVAL

        if WANTED.is_set() and not WANTED.get():
            return
        try:
            monitors = _monitors()
            _look(monitors)  # use is counted from one look to the next
            step = self._outbox.next_step(SYSTEM_METRIC)
            ended = False
            while not ended:
                ended = self._ended.wait(INTERVAL.get() or SYSTEM_EVERY_S)
                self._logger.log_metrics({f"system/{name}": value for name, value in _look(monitors).items()}, step)
                step += 1
        except Exception as error:  # noqa: BLE001 - no reading of a machine ends a training
            self._report(f"How busy this machine is cannot be read ({one_line(error)}): it is not logged.")

    def stop(self) -> None:
        """Return when nothing is entered any more."""
        self._ended.set()
        self.join()


def _monitors() -> list[Any]:
    """MLflow's monitors of this machine, and of its NVIDIA GPUs where it has any."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(ImportError, RuntimeError):  # without nvidia-ml-py, a driver or a GPU
        monitors.append(GPUMonitor())
    return monitors


def _look(monitors: list[Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        figures |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    return figures


class OutboxLogger(Logger):
    """Lightning's logger of a run; metrics only. Its `finalize` closes nothing: TrainingRun does."""

    def __init__(self, outbox: Outbox, report: Log) -> None:
        super().__init__()
        self._outbox = outbox
        self._report = report
        self._lost = False

    @property
    def name(self) -> str:
        """`mlflow`."""
        return "mlflow"

    @property
    def version(self) -> str:
        """Id of the run."""
        return self._outbox.address.run_id

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `TrainingRun.params` names them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Enter figures of a step."""
        # Lightning adds the epoch to all figures: a diagonal, among curves that say something.
        figures = {name: value for name, value in metrics.items() if name != "epoch"}
        try:
            self._outbox.metrics(figures, step or 0)
        except OSError as error:
            if not self._lost:
                self._report(f"Metrics cannot be kept in {self._outbox.folder} ({error.strerror}): free some space.")
            self._lost = True


class StepMetrics(Callback):
    """`train_loss_step` and `learning_rate` (`learning_rate_1` and so on for further groups) every few steps.

    The loss is copied while the GPU goes on, and entered one logged step later, when the copy is long there.
    """

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps
        self.rates: list[float] = []
        self.copied: tuple[int, torch.Tensor, torch.cuda.Event | None, list[float]] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note the rates of this step: its end finds those of the next."""
        self.rates = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Note the step that has just been made, where it is one of those."""
        if trainer.global_step % self.every_steps == 0:
            self._enter(trainer)
            loss = outputs["loss"].detach()
            kept = torch.empty_like(loss, device="cpu", pin_memory=loss.is_cuda)
            kept.copy_(loss, non_blocking=True)
            event = torch.cuda.Event() if loss.is_cuda else None  # type: ignore[no-untyped-call]
            if event:
                event.record()
            self.copied = (trainer.global_step, kept, event, self.rates)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Enter the last step before the checkpoint of the epoch is written."""
        self._enter(trainer)

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        """Enter the last step."""
        self._enter(trainer)

    def _enter(self, trainer: pl.Trainer) -> None:
        if self.copied is None or trainer.logger is None:
            return
        step, loss, event, rates = self.copied
        self.copied = None
        if event:
            event.synchronize()
        names = ["learning_rate", *(f"learning_rate_{number}" for number in range(1, len(rates)))]
        trainer.logger.log_metrics({"train_loss_step": float(loss), **dict(zip(names, rates, strict=True))}, step)
