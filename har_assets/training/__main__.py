"""`python -m har_assets.training request.json`: the process in which a training runs.

Started by the asset trained_checkpoint through Dagster Pipes, or by hand. Where the request asks for several
devices or machines it becomes torchrun, which starts this module once a device; where the machines are to be found on
a Ray cluster it first becomes har_assets.cluster.training, which starts this module once a node. It ends with the
process that started it, stops in order on SIGINT and SIGTERM (the last whole epoch is kept), and says its
failure in one sentence in `error.txt` of the work folder.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

from har_assets import settings
from har_assets.errors import HarError
from har_assets.system.processes import die_with_parent
from har_assets.training.request import ERROR_FILE, STOPPED, TrainingRequest


def main(request_file: Path) -> int:
    """Train as the request says; exit status 0, 1 with the reason in `error.txt`, 130 when it was stopped."""
    worker = "TORCHELASTIC_RUN_ID" in os.environ
    parent = settings.PARENT_PID.get()
    if worker:
        die_with_parent()
    elif parent:
        die_with_parent(int(parent))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        request = TrainingRequest.read(request_file)
    except HarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    error_file = Path(request.work) / ERROR_FILE
    if not worker:
        error_file.unlink(missing_ok=True)
    try:
        if request.nodes > 1 and not request.rendezvous:
            from har_assets.cluster.training import train_on_nodes

            with _reporting() as report:
                return train_on_nodes(request, report)
        if not worker and (request.nodes > 1 or request.devices != 1):
            from har_assets.training.fit import count_devices

            devices = count_devices(request)
            if request.nodes * devices > 1:
                return _torchrun(request_file, request, devices)
        return _train(request)
    except HarError as error:
        _say(error_file, str(error))
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say(error_file, STOPPED)
        return 130
    except Exception as error:
        _say(error_file, f"Training failed with {type(error).__name__}: {error}")
        raise


@contextlib.contextmanager
def _reporting() -> Iterator[Callable[[str], None]]:
    """Where lines for people go: to the step that started this process, else to standard output."""
    if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ and os.environ.get("RANK", "0") == "0":
        with open_dagster_pipes() as pipes:
            yield pipes.log.info
    else:
        yield print


def _train(request: TrainingRequest) -> int:
    with _reporting() as report:
        from har_assets.training.fit import fit

        fit(request, report)
    return 0


def _torchrun(request_file: Path, request: TrainingRequest, devices: int) -> int:
    """Run this module once a device; the exit status is that of the first process to fail."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from har_assets.video.workers import available_cores

    where = ["--standalone"]
    if request.nodes > 1:
        # `static` keeps to the given numbers; c10d numbers the machines by their names.
        numbered = request.node_rank >= 0
        where = [
            "--nnodes",
            str(request.nodes),
            "--rdzv-endpoint",
            request.rendezvous,
            *(
                ["--rdzv-backend", "static", "--node-rank", str(request.node_rank), "--rdzv-id", "har_assets"]
                if numbered
                else ["--rdzv-backend", "c10d", "--rdzv-id", Path(request.work).name]
            ),
        ]
    # torchrun would give each process one thread, which is right for GPUs and slow for CPU processes.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // devices)))
    try:
        run.main([*where, "--nproc-per-node", str(devices), "-m", "har_assets.training", str(request_file)])
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        error_file = Path(request.work) / ERROR_FILE
        killed = {
            rank: f.exitcode for rank, f in error.failures.items() if f.exitcode < 0 and -f.exitcode != signal.SIGTERM
        }
        if killed:
            # The others then fail for want of it, which is not the cause.
            error_file.unlink(missing_ok=True)
        _say(
            error_file,
            f"The training process of device {next(iter(killed or error.failures))} ended with "
            f"{next(iter(killed.values()), 1)} and no word of why (killed? out of memory?): look at its output in the "
            "run's logs; the same command goes on after the last whole epoch.",
        )
        print(f"error: {error_file.read_text()}", file=sys.stderr)
        return 130 if error_file.read_text() == STOPPED else 1
    return 0


def _say(error_file: Path, sentence: str) -> None:
    """Write why a training ended, unless a process before this one has: the first failure is the cause."""
    with contextlib.suppress(FileExistsError), error_file.open("x") as file:
        file.write(sentence)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
