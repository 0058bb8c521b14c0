"""`python -m har_assets.training request.json`: the process in which a training runs.

Started by the asset trained_checkpoint through Dagster Pipes, or by hand. It ends with the process
that started it, stops in order on SIGINT and SIGTERM (the last whole epoch is kept), and says its
failure in one sentence in `error.txt` of the work folder.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

from har_assets.errors import HarError
from har_assets.training.lifeline import die_with_parent
from har_assets.training.request import ERROR_FILE, TrainingRequest


def main(request_file: Path) -> int:
    """Train as the request says; exit status 0, 1 with the reason in `error.txt`, 130 when it was stopped."""
    if parent := os.environ.get("HAR_PARENT_PID"):
        die_with_parent(int(parent))
    signal.signal(signal.SIGTERM, _interrupt)
    request = TrainingRequest.read(request_file)
    error_file = Path(request.work) / ERROR_FILE
    error_file.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        report: Callable[[str], None] = print
        if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ:
            report = stack.enter_context(open_dagster_pipes()).log.info
        try:
            from har_assets.training.fit import fit  # noqa: PLC0415 seconds of imports, after the lifeline

            fit(request, report)
        except HarError as error:
            error_file.write_text(str(error))
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            error_file.write_text("The training was stopped; the same command goes on after its last whole epoch.")
            return 130
        except Exception as error:
            error_file.write_text(f"Training failed with {type(error).__name__}: {error}")
            raise
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
