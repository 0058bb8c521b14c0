"""The MLflow run of one model lineage: opened by its training, continued by each step downstream.

`Tracking` is the configuration and what is done by it. Dagster's resource `mlflow` extends it
(har_assets.graph.resources.mlflow), and commands that want no graph use it alone. MLflow is imported when a run is
continued.
"""

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from har_assets import settings
from har_assets.errors import HarError
from har_assets.options import Described
from har_assets.system.confinement import confined, refuse_other_address
from har_assets.system.processes import undisturbed
from har_assets.tracking.client import (
    DATABASES,
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    client_of,
    experiment_of,
    one_line,
    without_password,
)
from har_assets.tracking.outbox import Address, UndeliveredError, opened, report_settled, settle
from har_assets.tracking.run_log import RunLog


class Tracking(Described):
    """Where runs are tracked. Relative sqlite addresses and folders are below the project folder."""

    stopped_by: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt,)
    """Exceptions that stop a step from outside: it ends as KILLED, where others end it as FAILED."""

    tracking_uri: str = Field(default_factory=lambda: settings.MLFLOW_URI.get() or settings.OWN_DATABASE)
    """Server (`http://...`) or database; empty trains without MLflow. Left out: that of the environment variable
    HAR_MLFLOW_URI, else a database in the project folder. Name no password in it, as it is shown and kept:
    PostgreSQL takes PGPASSWORD."""
    experiment: str = "har_assets"
    """Experiment that runs are filed under."""
    artifact_root: str = Field(default_factory=lambda: settings.MLFLOW_FILES.get() or "mlartifacts")
    """Folder or `s3://` address (HAR_MLFLOW_FILES) of run files for a new experiment in a database; a server decides
    for itself."""
    outbox: str = "mlflow_outbox"
    """Folder that keeps what the server has not received yet; empty when the server has everything."""
    dagster_ui: str = ""
    """Address of Dagster's web UI, for links from MLflow; empty takes HAR_DAGSTER_UI, else http://127.0.0.1:3000."""

    def uri(self, project: Path) -> str:
        """The tracking address with an absolute path, or with the driver of PostgreSQL that is installed.

        HarError for an address that a configuration may not name.
        """
        refuse_other_address(self.tracking_uri, "tracking_uri of mlflow", settings.MLFLOW_URI, settings.OWN_DATABASE)
        prefix = "sqlite:///"
        if self.tracking_uri.startswith(prefix) and not self.tracking_uri.startswith(prefix + "/"):
            return f"{prefix}{project / self.tracking_uri.removeprefix(prefix)}"
        # For the bare name SQLAlchemy 2.1 takes psycopg 3, where Dagster's requirement, and so ours, is psycopg2.
        return re.sub("^postgresql://", "postgresql+psycopg2://", self.tracking_uri)

    def artifact_location(self, project: Path) -> str:
        """Address of run files for a new experiment; empty for a server."""
        if not self.tracking_uri.startswith(DATABASES):
            return ""
        if "://" in self.artifact_root:
            refuse_other_address(self.artifact_root, "artifact_root of mlflow", settings.MLFLOW_FILES)
            return self.artifact_root
        return confined(project / self.artifact_root, project, "artifact_root of mlflow").as_uri()

    def outbox_folder(self, project: Path) -> Path:
        """Folder in which steps keep what the server has not received yet."""
        return confined(project / self.outbox, project, "outbox of mlflow")

    def dagster_url(self, dagster_run_id: str) -> str:
        """Address of a Dagster run in the web UI."""
        return self.dagster_page(f"runs/{dagster_run_id}")

    def dagster_asset_url(self, asset: str) -> str:
        """Address of an asset in the web UI."""
        return self.dagster_page(f"assets/{asset}")

    def dagster_page(self, page: str) -> str:
        """Address of a page of the web UI."""
        base = self.dagster_ui or settings.read().dagster_ui
        return f"{base.rstrip('/')}/{page}"

    def link(self, run_id: str) -> str:
        """Where people see an MLflow run: its web page at a server, else its id and the command that shows it."""
        if not run_id:
            return ""
        if self.tracking_uri.startswith(("http://", "https://")):
            return f"{without_password(self.tracking_uri).rstrip('/')}/#/runs/{run_id}"
        return f"{run_id}, shown by `mlflow ui --backend-store-uri {without_password(self.uri(Path()))}`"

    def create_database(self, project: Path) -> None:
        """Make the tables of a database and the experiment where they are missing; nothing for a server."""
        if not self.tracking_uri.startswith(DATABASES):
            return
        experiment_of(client_of(self.uri(project)), self.experiment, self.artifact_location(project))

    @contextlib.contextmanager
    def continued_run(
        self,
        project: Path,
        run_id: str,
        *,
        step: str = "downstream",
        dagster_run_id: str = "",
        report: Callable[[str], None] = print,
    ) -> Iterator[RunLog]:
        """Reopen the run `run_id` for a step, and close it as the block ends: FINISHED, FAILED or KILLED.

        Other steps may have the run open at the same time. A server that does not answer does not fail the step: what
        is logged is kept in the outbox, reported, and sent later. An empty `run_id` (the model was trained without
        MLflow) gives a log that writes nowhere.

        Raises:
            HarError: the server answers and has no such run.
        """
        if not run_id or not self.tracking_uri:
            yield RunLog(None)
            return
        root = self.outbox_folder(project)
        report_settled(settle(root), report)
        dagster_run = self.dagster_url(dagster_run_id) if dagster_run_id else ""
        address = Address(self.uri(project), run_id, step, dagster_run)
        with opened(root / f"{step}-{uuid.uuid4().hex[:12]}", address) as outbox:
            outbox.enter_state(RUNNING)
            try:
                outbox.deliver()
            except UndeliveredError as error:
                if error.run_is_gone:
                    outbox.discard()
                    raise HarError(
                        f"MLflow at {without_password(self.uri(project))} has no run {run_id}, in which this model was "
                        "trained: correct the tracking_uri of `mlflow`, restore the run, or set tracking_uri to '' to "
                        "go on without."
                    ) from error
                report(f"{error} This step goes on; what it logs is kept in {outbox.folder}.")
            state = FAILED
            try:
                log = RunLog(outbox)
                yield log
                state = log.ends_as
            except self.stopped_by:
                state = KILLED
                raise
            finally:
                with undisturbed():
                    outbox.enter_state(state)
                    try:
                        outbox.deliver_at_last(pauses_s=(2.0,) if state == FINISHED else ())
                    except UndeliveredError as error:
                        report(f"{error} The next step of this model sends it, or `har mlflow-sync`.")
                    for refused in outbox.refused:
                        report(f"MLflow refused an entry: {refused}")

    def download(self, project: Path, run_id: str, name: str, folder: Path) -> Path:
        """Copy a file of a run into `folder` and return its path; HarError where there is no such run or file."""
        client = client_of(self.uri(project))
        from mlflow.exceptions import MlflowException

        try:
            return Path(client.download_artifacts(run_id, name, str(folder)))
        except (MlflowException, OSError) as error:
            raise HarError(
                f"MLflow at {without_password(self.uri(project))} has no {name} of run {run_id} "
                f"({one_line(error, 160)}): name the run_id of a finished training."
            ) from error
