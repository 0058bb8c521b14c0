"""MLflow as a Dagster resource: one run a model lineage, opened by the training, continued downstream.

dagster-mlflow's own resource opens an unrelated run for each materialization and leaves it RUNNING under
`dagster asset materialize`; this one holds no run by itself. MLflow is imported when a run is continued.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from har_assets.errors import HarError


class MlflowTracking(dg.ConfigurableResource):
    """Where runs are tracked. Relative sqlite addresses and folders are below the project folder."""

    tracking_uri: str = "sqlite:///mlflow.db"
    """Server (`http://...`) or database; empty trains without MLflow."""
    experiment: str = "har_assets"
    """Experiment that runs are filed under."""
    artifact_root: str = "mlartifacts"
    """Folder of run files for a new experiment in a local database; a server decides for itself."""

    def uri(self, project: Path) -> str:
        """The tracking address with an absolute path."""
        prefix = "sqlite:///"
        if self.tracking_uri.startswith(prefix) and not self.tracking_uri.startswith(prefix + "/"):
            return f"{prefix}{project / self.tracking_uri.removeprefix(prefix)}"
        return self.tracking_uri

    def artifact_location(self, project: Path) -> str:
        """Address of run files for a new experiment; empty for a server."""
        if not self.tracking_uri.startswith("sqlite:"):
            return ""
        return (project / self.artifact_root).as_uri()

    def create_database(self, project: Path) -> None:
        """Make the local database and the experiment where they are missing; nothing for a server."""
        if not self.tracking_uri.startswith("sqlite:"):
            return
        from mlflow import MlflowClient  # noqa: PLC0415

        client = MlflowClient(self.uri(project))
        if client.get_experiment_by_name(self.experiment) is None:
            client.create_experiment(self.experiment, artifact_location=self.artifact_location(project))

    @contextlib.contextmanager
    def continued_run(self, project: Path, run_id: str) -> Iterator["RunLog | None"]:
        """Reopen a lineage's run, and close it FINISHED, or FAILED when the block raises.

        Gives None where the lineage has no run (it was trained without MLflow).
        """
        if not run_id or not self.tracking_uri:
            yield None
            return
        from mlflow import MlflowClient  # noqa: PLC0415
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        client = MlflowClient(self.uri(project))
        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            raise HarError(
                f"The MLflow run {run_id} of this model cannot be opened at {self.uri(project)} "
                f"({str(error).splitlines()[0][:160]}): start that server, or correct the tracking_uri of `mlflow`."
            ) from error
        try:
            yield RunLog(client, run_id)
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")

    def download(self, project: Path, run_id: str, name: str, folder: Path) -> Path:
        """Copy a file of a run into `folder` and return its path; HarError where there is no such run or file."""
        from mlflow import MlflowClient  # noqa: PLC0415
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            return Path(MlflowClient(self.uri(project)).download_artifacts(run_id, name, str(folder)))
        except (MlflowException, OSError) as error:
            raise HarError(
                f"MLflow at {self.uri(project)} has no {name} of run {run_id} ({str(error).splitlines()[0][:160]}): "
                "name the run_id of a finished training."
            ) from error


class RunLog:
    """What a step writes into the run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def metrics(self, values: dict[str, float]) -> None:
        """Log figures."""
        for name, value in values.items():
            self._client.log_metric(self.run_id, name, value)

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        for name, value in values.items():
            self._client.set_tag(self.run_id, name, value)

    def file(self, path: Path) -> None:
        """Upload a file to the top of the run's files."""
        self._client.log_artifact(self.run_id, str(path))
