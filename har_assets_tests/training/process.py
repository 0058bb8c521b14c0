"""A training in a process of its own, to be waited for, signalled and killed."""

import multiprocessing
import os
import sys
import time
from multiprocessing.forkserver import set_forkserver_preload
from pathlib import Path

from har_assets.training.request import TrainingRequest

FORKS = multiprocessing.get_context("forkserver")
# Importing PyTorch and Lightning takes longer than these trainings: it is done once, and each process is a fork.
set_forkserver_preload(["har_assets.training.fit"])


def _main(request_file: Path, output: Path, errors: Path) -> None:
    for path, stream in ((output, sys.stdout), (errors, sys.stderr)):
        with path.open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    from har_assets.training.__main__ import main

    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main(request_file))


class TrainingProcess:
    """What `python -m har_assets.training` does with a request, begun at once."""

    def __init__(self, request: TrainingRequest, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = f"process-{time.monotonic_ns()}"
        self._process = FORKS.Process(
            target=_main,
            args=(
                request.write(folder / "request.json"),
                folder / f"{self.name}.out",
                folder / f"{self.name}.err",
            ),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, minus the signal that ended it, None while it runs."""
        return self._process.exitcode

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 200) -> tuple[str, str]:
        """Its standard output and errors, once it has ended."""
        self._process.join(seconds)
        assert self.status is not None, "the training has not ended"
        return (self.folder / f"{self.name}.out").read_text(), (self.folder / f"{self.name}.err").read_text()

    def wait_for_epochs(self, count: int) -> None:
        """Wait until the history has that many whole epochs."""
        history = self.folder / "history.jsonl"
        deadline = time.monotonic() + 120
        while not history.is_file() or len(history.read_text().splitlines()) < count:
            assert self.status is None, self.wait()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)


def lines_of(child: TrainingProcess) -> list[str]:
    """The report of a training that succeeds."""
    output, errors = child.wait()
    assert child.status == 0, errors
    return [line for line in output.splitlines() if line.startswith(("Training", "epoch"))]
