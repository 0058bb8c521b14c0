"""`python -m har_assets.training request.json`: the process in which a training runs.

Started by the asset trained_checkpoint through Dagster Pipes, or by hand. Where the request asks for several
devices or machines it becomes torchrun, which starts this module once a device. A request that wants its nodes found
on a Ray cluster is for `python -m har_assets.cluster`, which starts this module once a node.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from har_assets.errors import HarError
from har_assets.training.entry import reporting, run_request, started_by_torchrun, write_reason
from har_assets.training.request import ERROR_FILE, STOPPED, TrainingRequest


def main(request_file: Path) -> int:
    """Train as the request says; exit status 0, 1 with the reason in `error.txt`, 130 when it was stopped."""
    return run_request(request_file, partial(_train, request_file))


def _train(request_file: Path, request: TrainingRequest) -> int:
    if request.nodes > 1 and not request.rendezvous:
        raise HarError(
            f"{request_file} asks for {request.nodes} nodes of a Ray cluster: start `python -m har_assets.cluster "
            f"{request_file}` in a job of that cluster, or set rendezvous to host:port of one of your machines."
        )
    if not started_by_torchrun():
        request.begin_again_on_other_processes()
    if not started_by_torchrun() and (request.nodes > 1 or request.devices != 1):
        devices = request.count_devices()
        if request.nodes * devices > 1:
            return _torchrun(request_file, request, devices)
    from har_assets.training.fit import fit

    with reporting() as report:
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
        write_reason(
            error_file,
            f"The training process of device {next(iter(killed or error.failures))} ended with "
            f"{next(iter(killed.values()), 1)} and no word of why (killed? out of memory?): look at its output in the "
            "run's logs; the same command goes on after the last whole epoch.",
        )
        print(f"error: {error_file.read_text()}", file=sys.stderr)
        return 130 if error_file.read_text() == STOPPED else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
