"""MLflow as a client sees it: addresses, experiments, and the status of a run that several steps write into."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from har_assets.tracking.tags import SHA256_TAG, STEP_TAG, TEST_FIGURES, TESTED_TAG, TRAINING_ENDED_TAG

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Beginnings of the tracking addresses that MLflow opens by SQLAlchemy."""


def settle_status(client: Any, run_id: str) -> None:
    """Set the status of a run to what the states of its steps say, whoever else does so at the same moment.

    The loop ends when a reading after the last writing shows both in agreement, so a writer that was overtaken
    corrects itself. The end of a run is that of its training; without one it is now.
    """
    while True:
        run = client.get_run(run_id)
        tags = run.data.tags
        wanted = status_of({key: value for key, value in tags.items() if key.startswith(STEP_TAG)})
        ended = tags.get(TRAINING_ENDED_TAG, "")
        end_ms = int(ended) if ended.isdecimal() else None
        if run.info.status == wanted and (wanted == RUNNING or end_ms in (None, run.info.end_time)):
            return
        if wanted == RUNNING:
            client.update_run(run_id, status=RUNNING)
        else:
            client.set_terminated(run_id, wanted, end_ms)


def tie_test_figures(client: Any, run_id: str) -> None:
    """Give the test figures of a run to its models of the ONNX file that was tested.

    They become metrics of logged models and, as MLflow's page of a registered version shows no metrics, tags of
    versions. Model and figures may come in any order: every step does this as it ends, and writes what is lacking.
    """
    from mlflow.entities import Metric

    run = client.get_run(run_id)
    tested = run.data.tags.get(TESTED_TAG)
    if not tested:
        return
    figures = {name: run.data.metrics[name] for name in TEST_FIGURES if name in run.data.metrics}
    of_this_run = f"source_run_id = '{run_id}' AND tags.`{SHA256_TAG}` = '{tested}'"
    for model in client.search_logged_models([run.info.experiment_id], of_this_run):
        known = {metric.key: metric.value for metric in model.metrics or ()}
        lacks = [name for name, value in figures.items() if known.get(name) != value]
        newest = [max(client.get_metric_history(run_id, name), key=lambda each: each.timestamp) for name in lacks]
        # With its own time, as another would be a second point of the run's.
        metrics = [Metric(each.key, each.value, each.timestamp, each.step, model.model_id) for each in newest]
        if metrics:
            client.log_batch(run_id, metrics=metrics)
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        for name, text in ((name, f"{value:.4f}") for name, value in figures.items()):
            if version.tags.get(SHA256_TAG) == tested and version.tags.get(name) != text:
                client.set_model_version_tag(version.name, version.version, name, text)


def status_of(steps: Mapping[str, str]) -> str:
    """The status of a run from its tags `step.*`, whose first words are states; FINISHED without any."""
    states = {value.split()[0] for value in steps.values() if value}
    return next((state for state in (RUNNING, FAILED, KILLED) if state in states), FINISHED)


def client_of(tracking_uri: str) -> Any:
    """A client of MLflow that gives an absent server up within seconds: what is not sent is kept and sent again.

    Raises what SQLAlchemy raises for a database that cannot be opened.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # twice at each end of a step
    # It warns of each repetition; an absent server is told once, in words.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    if tracking_uri.startswith(DATABASES):
        import sqlalchemy

        # MLflow would try a database that cannot be opened for 100 s.
        engine = sqlalchemy.create_engine(tracking_uri)
        engine.connect().close()
        engine.dispose()
    return MlflowClient(tracking_uri)


def experiment_of(client: Any, name: str, artifact_location: str) -> str:
    """Id of the experiment of that name, made where it is missing. Raises what MLflow raises."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location or None))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # made by another process just now
            if found is None:
                raise
    return str(found.experiment_id)


def without_password(text: str) -> str:
    """`text` with the password of each address in it as ***, for logs and pages."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", r"\1:***@", text)


def one_line(error: BaseException, limit: int = 200) -> str:
    """The reason in an exception, short enough for a sentence.

    A connection error of urllib3 is a nest of four messages: the innermost says what happened.
    """
    innermost = error
    while (cause := innermost.__cause__ or innermost.__context__) is not None:
        innermost = cause
    text = str(innermost) if isinstance(innermost, OSError) and innermost.strerror else str(error)
    words = without_password(" ".join(text.split("(Background on this error")[0].split())) or type(error).__name__
    return words if len(words) <= limit else words[: limit - 1] + "…"
