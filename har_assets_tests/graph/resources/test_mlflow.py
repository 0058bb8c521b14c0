"""The resource `mlflow`: what Dagster adds to har_assets.tracking.run."""

from pathlib import Path

import dagster as dg
import pytest

from har_assets import defs
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.tracking.client import FAILED, KILLED, client_of
from har_assets_tests.mlflow_server import status_in


@pytest.mark.parametrize(
    ("error", "state"), [(dg.DagsterExecutionInterruptedError, KILLED), (KeyboardInterrupt, KILLED), (OSError, FAILED)]
)
def test_a_step_that_dagster_stops_is_killed_and_one_that_raises_has_failed(
    tmp_path: Path, error: type[BaseException], state: str
) -> None:
    mlflow = MlflowTracking(tracking_uri="sqlite:///mlflow.db")
    mlflow.create_database(tmp_path)
    client = client_of(mlflow.uri(tmp_path))
    run_id = client.create_run(client.get_experiment_by_name("har_assets").experiment_id).info.run_id
    with pytest.raises(error), mlflow.continued_run(tmp_path, run_id, step="onnx_model"):
        raise error
    assert status_in(mlflow.uri(tmp_path), run_id) == state


def test_its_configuration_keeps_its_names_and_is_described_in_the_launchpad() -> None:
    schema = defs.resolve_job_def("export_onnx").run_config_schema.config_type
    fields = schema.fields["resources"].config_type.fields["mlflow"].config_type.fields["config"].config_type.fields
    of_dagster_mlflow = {"experiment_name", "mlflow_tracking_uri", "parent_run_id", "mlflow_run_id", "env"}
    of_dagster_mlflow |= {"env_to_tag", "extra_tags"}
    assert set(fields) == {"artifact_root", "dagster_ui", "experiment", "outbox", "tracking_uri"} | of_dagster_mlflow
    assert [name for name, field in fields.items() if not field.description] == []
