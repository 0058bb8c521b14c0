"""The run of a lineage, continued by steps against a real MLflow database."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError
from har_assets.tracking.client import FAILED, FINISHED, KILLED, RUNNING, client_of
from har_assets.tracking.outbox import Address, opened, settle
from har_assets.tracking.run import Tracking
from har_assets.tracking.tags import SHA256_TAG, TEST_FIGURES, TRAINING_ENDED_TAG
from har_assets_tests.mlflow_server import status_in


def in_threads(*functions: Callable[[], None]) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("fails", [False, True])
def test_two_steps_that_continue_a_run_at_once_leave_its_true_status(
    tmp_path: Path, database: str, run_id: str, fails: bool
) -> None:
    mlflow = Tracking(tracking_uri=database)
    seen: list[str] = []
    for _ in range(5):
        both_in, one_out = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)

        def engine(both_in: Any = both_in, one_out: Any = one_out) -> None:
            with mlflow.continued_run(tmp_path, run_id, step="trt_engine") as run:
                run.metrics({"a": 1.0})
                both_in.wait()
                one_out.wait()
                seen.append(status_in(database, run_id))

        def predictions(both_in: Any = both_in, one_out: Any = one_out) -> None:
            try:
                with mlflow.continued_run(tmp_path, run_id, step="test_predictions") as run:
                    run.metrics({"b": 1.0})
                    both_in.wait()
                    if fails:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            one_out.wait()

        in_threads(engine, predictions)
        assert seen[-1] == RUNNING, "one is done, the other is not"
        assert status_in(database, run_id) == (FAILED if fails else FINISHED)
    if fails:  # repeated with success, the failure is no longer what the run says
        with mlflow.continued_run(tmp_path, run_id, step="test_predictions"):
            pass
        assert status_in(database, run_id) == FINISHED


def test_steps_that_end_in_the_same_moment_leave_the_run_finished(tmp_path: Path, database: str, run_id: str) -> None:
    mlflow = Tracking(tracking_uri=database)

    def step(name: str) -> None:
        for _ in range(8):
            with mlflow.continued_run(tmp_path, run_id, step=name):
                pass

    in_threads(*(lambda name=name: step(name) for name in ("onnx_model", "trt_engine", "test_predictions")))
    assert status_in(database, run_id) == FINISHED
    assert list((tmp_path / "mlflow_outbox").iterdir()) == []


def test_a_step_downstream_says_how_it_ended(tmp_path: Path, database: str, run_id: str) -> None:
    mlflow = Tracking(tracking_uri=database, dagster_ui="http://dagster.example/")
    with (
        pytest.raises(KeyboardInterrupt),
        mlflow.continued_run(tmp_path, run_id, step="onnx_model", dagster_run_id="abc"),
    ):
        raise KeyboardInterrupt
    run = client_of(database).get_run(run_id)
    assert run.info.status == KILLED
    assert run.data.tags["step.onnx_model"] == "KILLED http://dagster.example/runs/abc"


def test_a_step_downstream_outlives_the_server_and_refuses_a_wrong_one(tmp_path: Path, database: str) -> None:
    said: list[str] = []
    away = Tracking(tracking_uri="http://har:s3cret@127.0.0.1:9")
    with away.continued_run(tmp_path, "0" * 32, step="onnx_model", report=said.append) as run:
        run.metrics({"onnx_top1_agreement": 1.0})
    assert len(said) == 2
    assert "MLflow at http://har:***@127.0.0.1:9" in said[0]
    assert "s3cret" not in " ".join(said)
    assert "Connection refused" in said[0]
    assert "`har mlflow-sync`" in said[1]
    kept = [folder.name.split("-")[0] for folder in (tmp_path / "mlflow_outbox").iterdir()]
    assert kept == ["onnx_model"]

    assert "s3cret" not in away.link("0" * 32)
    wrong = Tracking(tracking_uri=database)
    with (
        pytest.raises(HarError, match=r"has no run .* in which this model was trained"),
        wrong.continued_run(tmp_path / "other", "0" * 32, step="onnx_model"),
    ):
        pytest.fail("the block is not to be entered")
    assert list((tmp_path / "other/mlflow_outbox").iterdir()) == []


def test_without_mlflow_a_step_downstream_logs_nowhere(tmp_path: Path) -> None:
    with Tracking(tracking_uri="").continued_run(tmp_path, "0" * 32) as run:
        run.metrics({"a": 1.0})
        run.file(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_links() -> None:
    assert Tracking(tracking_uri="http://mlflow:5000/").link("abc") == "http://mlflow:5000/#/runs/abc"
    assert Tracking().link("abc") == "abc, shown by `mlflow ui --backend-store-uri sqlite:///mlflow.db`"
    assert Tracking().link("") == ""


def test_the_web_ui_of_dagster_is_named_by_config_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HAR_DAGSTER_UI", raising=False)
    assert Tracking().dagster_url("7") == "http://127.0.0.1:3000/runs/7"
    monkeypatch.setenv("HAR_DAGSTER_UI", "https://dagster.example")
    assert Tracking().dagster_url("7") == "https://dagster.example/runs/7"
    assert Tracking(dagster_ui="http://here:1").dagster_url("7") == "http://here:1/runs/7"


def test_the_duration_of_a_run_stays_that_of_its_training(tmp_path: Path, database: str, run_id: str) -> None:
    client = client_of(database)

    def train(seconds: float) -> int:
        with opened(tmp_path / "training", Address(database, run_id, "trained_checkpoint", work=str(tmp_path))) as box:
            box.enter_state(RUNNING)
            box.deliver()
            time.sleep(seconds)
            box.enter_state(FINISHED)
            box.deliver()
        ended = int(client.get_run(run_id).data.tags[TRAINING_ENDED_TAG])
        assert abs(ended - time.time() * 1000) < 10_000
        return ended

    ended = train(0.2)
    assert client.get_run(run_id).info.end_time == ended
    for fails in (False, True):
        time.sleep(0.2)
        with contextlib.suppress(ZeroDivisionError), Tracking(tracking_uri=database).continued_run(tmp_path, run_id):
            assert status_in(database, run_id) == RUNNING
            if fails:
                raise ZeroDivisionError
        run = client.get_run(run_id)
        assert (run.info.status, run.info.end_time) == (FAILED if fails else FINISHED, ended)
    # A training that goes on ends later, even while a step downstream is at work.
    with Tracking(tracking_uri=database).continued_run(tmp_path, run_id):
        later = train(0.2)
    assert later > ended
    assert client.get_run(run_id).info.end_time == later


def test_a_training_that_was_killed_ended_when_it_wrote_last(tmp_path: Path, database: str, run_id: str) -> None:
    folder = tmp_path / "outbox" / "training"
    with opened(folder, Address(database, run_id, "trained_checkpoint", work=str(tmp_path))) as box:
        box.enter_state(RUNNING)
    written = time.time() - 3600
    os.utime(folder / "journal.jsonl", (written, written))
    settle(folder.parent)
    run = client_of(database).get_run(run_id)
    assert (run.info.status, run.info.end_time) == (KILLED, int(written * 1000))


def test_test_figures_are_shown_at_the_logged_model_that_was_tested(tmp_path: Path, database: str, run_id: str) -> None:
    client = client_of(database)
    experiment = client.get_run(run_id).info.experiment_id

    def log_model(sha256: str) -> str:
        model: str = client.create_logged_model(
            experiment, "har", source_run_id=run_id, tags={SHA256_TAG: sha256}
        ).model_id
        client.finalize_logged_model(model, "READY")
        return model

    def shown(model: str) -> dict[str, float]:
        return {metric.key: metric.value for metric in client.get_logged_model(model).metrics or ()}

    def test(top1: float, sha256: str) -> dict[str, float]:
        figures = dict.fromkeys(TEST_FIGURES, top1)
        with Tracking(tracking_uri=database).continued_run(tmp_path, run_id, step="test_predictions") as run:
            run.test_figures(figures, sha256)
        return figures

    earlier, other = log_model("a"), log_model("b")
    first = test(0.5, "a")
    assert (shown(earlier), shown(other)) == (first, {})
    later = log_model("a")
    for _ in range(2):  # logged after the test; the second time nothing is left to do
        with Tracking(tracking_uri=database).continued_run(tmp_path, run_id, step="serving_model"):
            pass
    assert shown(later) == first
    second = test(0.7, "b")
    assert (shown(earlier), shown(other)) == (first, second)
    test(0.6, "")  # of the checkpoint
    assert (shown(earlier), shown(later), shown(other)) == (first, first, second)
    values = [each.value for each in client.get_metric_history(run_id, TEST_FIGURES[0])]
    assert values == [0.5, 0.7, 0.6], "the run has each of them once"
