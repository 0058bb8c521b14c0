"""Logs as JSON, one object a line, for programs that collect the logs of many runs and machines.

`deploy/dagster.yaml` switches them on; in `dagster.yaml` the commented lines below `python_logs` do. The handler then
gets the messages and failures of runs, with `python_log_level: DEBUG` every event, in the process in which they occur.
The terminal stays as it is.
"""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from har_assets import settings
from har_assets.errors import HarError
from har_assets.graph.dagster_private import failure_reason


class JsonLogHandler(logging.Handler):
    """Writes the messages and events of runs as JSON lines: `time`, `level`, `message`, `run_id`, `job`, `step`,
    `assets`, `event`, `error`, each where there is one. Processes may share a file: a line is one write.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line. A full disk is reported on standard error and stops nothing."""
        try:
            line = (json.dumps(line_of(record), ensure_ascii=False, default=str) + "\n").encode(
                errors="backslashreplace"
            )
            if path := settings.read().log_file:
                with open(path, "ab", buffering=0) as file:
                    file.write(line)
            else:
                sys.stdout.buffer.write(line)
                sys.stdout.flush()
        except (OSError, ValueError, AttributeError, HarError):
            self.handleError(record)


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a line; those that do not apply are left out."""
    meta: dict[str, Any] = getattr(record, "dagster_meta", None) or {}
    event: dg.DagsterEvent | None = meta.get("dagster_event")
    line = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "message": meta.get("orig_message") or record.getMessage(),
        "run_id": meta.get("run_id"),
        "job": meta.get("job_name"),
        "step": meta.get("step_key"),
        "assets": _assets(event),
        "event": event.event_type.value.replace("PIPELINE_", "RUN_") if event else None,  # runs were once called so
        "error": failure_reason(event) if event and event.is_step_failure else None,
        "host": os.uname().nodename,
        "process": record.process,
    }
    return {name: value for name, value in line.items() if value not in (None, "", [])}


def _assets(event: dg.DagsterEvent | None) -> list[str]:
    """The asset of an event, else the assets of the step that logs."""
    if event is not None and event.asset_key is not None:
        return [event.asset_key.to_user_string()]
    try:
        return sorted(key.to_user_string() for key in dg.AssetExecutionContext.get().selected_asset_keys)
    except dg.DagsterInvariantViolationError:  # outside a step, or in an op that makes no asset
        return []
