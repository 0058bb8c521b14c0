"""How a training process begins and ends, on one machine or as the first of several (`python -m har_assets.cluster`).

It ends with the process that started it, stops in order on SIGINT and SIGTERM (the last whole epoch is kept), and says
its failure in one sentence in `error.txt` of the work folder.
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
from har_assets.system.files import Log
from har_assets.system.processes import die_with_parent
from har_assets.training.request import ERROR_FILE, STOPPED, TrainingRequest


def started_by_torchrun() -> bool:
    """Whether this process is one of those that torchrun has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def run_request(request_file: Path, train: Callable[[TrainingRequest], int]) -> int:
    """Train as a request says.

    Args:
        request_file: written by `TrainingRequest.write`.
        train: trains and returns the exit status; what it raises becomes the reason in `error.txt`.

    Returns:
        Exit status: that of `train`, 1 with the reason in `error.txt`, 130 when it was stopped.
    """
    worker = started_by_torchrun()
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
        if worker:
            die_with_parent()
        elif parent := settings.read().parent_pid:
            die_with_parent(parent)
        return train(request)
    except HarError as error:
        write_reason(error_file, str(error))
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        write_reason(error_file, STOPPED)
        return 130
    except Exception as error:
        write_reason(error_file, f"Training failed with {type(error).__name__}: {error}")
        raise


@contextlib.contextmanager
def reporting() -> Iterator[Log]:
    """Where lines for people go: to the step that started this process, else to standard output."""
    if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ and os.environ.get("RANK", "0") == "0":
        with open_dagster_pipes() as pipes:
            yield pipes.log.info
    else:
        yield print


def write_reason(error_file: Path, sentence: str) -> None:
    """Write why a training ended, unless a process before this one has: the first failure is the cause."""
    with contextlib.suppress(FileExistsError), error_file.open("x") as file:
        file.write(sentence)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
