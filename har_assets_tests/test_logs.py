"""Logs as JSON lines."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from har_assets.errors import HarError
from har_assets.graph.failures import failures_in_words
from har_assets.logs import JsonLogHandler
from har_assets_tests.project import REPOSITORY


@dg.asset
def talkative(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Says something, with what JSON and terminals find hard."""
    context.log.info('epoch 1/2: "loss"\n\t0.5 \udce9 walk → run')
    return dg.MaterializeResult()


@dg.multi_asset(specs=[dg.AssetSpec("left"), dg.AssetSpec("right")], name="both")
def two(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Two assets in a step, of which nothing comes."""
    context.log.info("about two")
    with failures_in_words():
        raise HarError("There is no clip: materialize video_clips.")


def settings() -> dict[str, Any]:
    """python_logs of dagster.yaml with its comment taken away."""
    text = (REPOSITORY / "dagster.yaml").read_text()
    section = text.split("python_logs:")[1].split("\n\n")[0]
    lines = [
        line for line in section.splitlines() if line.startswith("  # ") and (":" in line and not line[4:5].isupper())
    ]
    made = yaml.safe_load("\n".join(line.replace("  # ", "  ", 1) for line in lines))
    assert made["dagster_handler_config"]["handlers"]["json"]["class"] == "har_assets.logs.JsonLogHandler"
    return {"python_log_level": "INFO", **made}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_every_line_is_an_object_with_run_and_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster import instance_for_test

    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("HAR_LOG_FILE", str(log))
    with instance_for_test(overrides={"python_logs": settings()}, temp_dir=str(tmp_path)) as instance:
        result = dg.materialize([talkative, two], instance=instance, raise_on_error=False)
    lines = lines_of(log)
    assert {line["run_id"] for line in lines} == {result.run_id}
    (said,) = [line for line in lines if "epoch" in line["message"]]
    assert said["message"].startswith('epoch 1/2: "loss"\n\t0.5')
    assert "walk → run" in said["message"]
    assert (said["level"], said["step"], said["assets"]) == ("INFO", "talkative", ["talkative"])
    (about,) = [line for line in lines if line["message"] == "about two"]
    assert (about["step"], about["assets"]) == ("both", ["left", "right"])
    (failed,) = [line for line in lines if line.get("event") == "STEP_FAILURE"]
    assert failed["error"] == "There is no clip: materialize video_clips."
    assert any(line.get("event") == "RUN_FAILURE" for line in lines)


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_without_a_file_lines_go_to_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from dagster import instance_for_test

    monkeypatch.delenv("HAR_LOG_FILE", raising=False)
    with instance_for_test(overrides={"python_logs": settings()}, temp_dir=str(tmp_path)) as instance:
        assert dg.materialize([talkative], instance=instance).success
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert any("epoch" in line["message"] for line in lines)


def test_lines_of_many_writers_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("HAR_LOG_FILE", str(log))

    def write(number: int) -> None:  # opens the file for each line, as each process does
        message = f"{number % 10}" * 100_000
        JsonLogHandler().emit(logging.LogRecord("har", logging.INFO, "", 0, message, None, None))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    messages = [line["message"] for line in lines_of(log)]
    assert len(messages) == 200
    assert all(len(message) == 100_000 and len(set(message)) == 1 for message in messages)


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_a_log_that_cannot_be_written_stops_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from dagster import instance_for_test

    monkeypatch.setenv("HAR_LOG_FILE", "/dev/full")
    with instance_for_test(overrides={"python_logs": settings()}, temp_dir=str(tmp_path)) as instance:
        assert dg.materialize([talkative], instance=instance).success
    assert "No space left on device" in capfd.readouterr().err
