"""dagster-mlflow's handle for ops: `context.resources.mlflow.log_params(...)`, on the resource `mlflow` of this graph.

The handle is dagster-mlflow's own class, which has every function of `mlflow`. One MLflow run belongs to all ops of a
Dagster run, in whichever processes they are executed. Finding and ending it is done here, because dagster-mlflow

    finds it by the tag `dagster_run_id`, which the run of a training has as well, and makes two where ops start at once
    reopens a run that is named as parent, and never ends it
    ends it by a hook that takes the last op in topological order for the last one at work
    leaves the rest to the exit of the process, which MLflow takes for success

Here each step that uses the handle keeps its state in a tag of the run, as the steps of a model do, and the status
follows from all of them; a step that was killed is closed by the next one, by dead_run_sensor or `har mlflow-sync`.
"""

import contextlib
import os
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import dagster as dg
from pydantic import model_validator

from har_assets.errors import HarError
from har_assets.graph.dagster_private import add_run_tags, step_end, step_in_progress
from har_assets.graph.running.dead_runs import OUTBOX_TAG
from har_assets.system.confinement import refuse_environment
from har_assets.system.locks import exclusive
from har_assets.tracking.client import FAILED, FINISHED, KILLED, client_of, experiment_of, one_line, without_password
from har_assets.tracking.run import Tracking
from har_assets.tracking.run_log import RunLog
from har_assets.tracking.tags import LINEAGE_TAG

OPS_TAG = "har.ops_of"
"""Of an MLflow run: the Dagster run whose ops write into it."""

HOOK = "hook"
"""Name of the step for a hook that uses the handle where no op has."""


class OpTracking(Tracking):
    """Where runs are tracked, and what the run of ops has besides."""

    parent_run_id: str | None = None
    """MLflow run that the run of ops is shown below; it is not written into."""
    mlflow_run_id: str | None = None
    """MLflow run that ops write into instead of one of their own; it must not be that of a training."""
    env: dict[str, str] = {}
    """Environment variables, set before an op first uses MLflow; not `HAR_*`, `LD_*`, `PYTHON*` or `PATH`, and none
    where HAR_ALLOWED_FOLDERS is set."""
    env_to_tag: list[str] | None = None
    """Environment variables that become tags of the run of ops; none where HAR_ALLOWED_FOLDERS is set, as they may hold
    secrets."""
    extra_tags: dict[str, Any] = {}
    """Further tags of the run of ops."""

    @model_validator(mode="after")
    def _check_environment(self) -> Self:
        refuse_environment(self.env, self.env_to_tag or ())
        return self


class OpRun:
    """Stands for dagster-mlflow's handle, which is made when an op first asks for one of its functions.

    Closed as the resource is torn down: each step that has used it ends as FINISHED, FAILED or KILLED. HarError where
    MLflow is off, absent, or refuses the run that the configuration names.
    """

    def __init__(self, tracking: OpTracking, context: dg.InitResourceContext, project: Path) -> None:
        self._tracking = tracking
        self._context = context
        self._project = project
        self._handle: Any = None
        self._run_id = ""
        self._outer = ""
        """Run that was active in this process before."""
        self._logs: dict[str, RunLog] = {}
        """Step to the log by which its state is entered."""
        self._held = contextlib.ExitStack()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of copying, printing, pickling
            raise AttributeError(name)
        step = step_in_progress() or next(reversed(self._logs), HOOK)
        if name == "end_run" and not self._logs and step == HOOK:
            return lambda *_, **__: None  # of a hook, after an op that has used nothing
        if self._handle is None:
            self._open(step)
        elif step not in self._logs:
            self._enter(step)
        return getattr(self._handle if name in ("start_run", "end_run", "active_run") else self._reopened(), name)

    @property
    def _dagster_run(self) -> dg.DagsterRun:
        if self._context.run is None:
            raise HarError("dagster-mlflow's handle belongs to a Dagster run: execute the op in a job.")
        return self._context.run

    def _open(self, step: str) -> None:
        """Find or create the run for a step, make it MLflow's active one, and dagster-mlflow's handle of it."""
        tracking = self._tracking
        if not tracking.tracking_uri:
            raise HarError("MLflow is off, and this op uses it: give the resource mlflow a tracking_uri.")
        os.environ.update(tracking.env)
        uri = tracking.uri(self._project)
        try:
            import mlflow

            if not self._run_id and (outer := mlflow.active_run()):
                self._outer = outer.info.run_id
            self._run_id = self._find_or_create(client_of(uri))
            if step not in self._logs:
                self._enter(step)  # first, so that whatever fails below leaves a failed run
            # Both warn that they are in beta.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", dg.BetaWarning)
                from dagster_mlflow.resources import MlFlow

                mlflow.set_tracking_uri(uri)
                mlflow.set_experiment(tracking.experiment)
                mlflow.start_run(self._run_id, nested=True)
                self._handle = MlFlow(self._as_dagster_mlflow_reads_it(uri))  # type: ignore[no-untyped-call]
            self._handle.parent_run_id = tracking.parent_run_id
        except HarError:
            raise
        except Exception as error:
            raise HarError(
                f"MLflow at {without_password(uri)} does not open a run for this op ({one_line(error)}): "
                "start it, or correct the resource mlflow."
            ) from error

    def _as_dagster_mlflow_reads_it(self, uri: str) -> Any:
        tracking = self._tracking
        return SimpleNamespace(
            log=self._context.log,
            dagster_run=self._dagster_run,
            run_id=self._dagster_run.run_id,
            resource_config={
                "experiment_name": tracking.experiment,
                "mlflow_tracking_uri": uri,
                "mlflow_run_id": self._run_id,
                "parent_run_id": None,  # the run has it as a tag; here it would be reopened
                "env": tracking.env,
                "env_to_tag": tracking.env_to_tag,
                "extra_tags": tracking.extra_tags,
            },
        )

    def _find_or_create(self, client: Any) -> str:
        """Id of the run of this Dagster run's ops. Processes of one machine that ask at once get the same one."""
        tracking, run = self._tracking, self._dagster_run
        if tracking.mlflow_run_id:
            if LINEAGE_TAG in client.get_run(tracking.mlflow_run_id).data.tags:
                raise HarError(
                    f"mlflow_run_id of mlflow names {tracking.mlflow_run_id}, the run of a training, which ops do not "
                    "write into: name it as parent_run_id."
                )
            return tracking.mlflow_run_id
        location = tracking.artifact_location(self._project)
        experiment_id = experiment_of(client, tracking.experiment, location)
        folder = tracking.outbox_folder(self._project)
        with exclusive(folder, "the MLflow run of ops", name=".ops.lock", wait_s=60):
            found = client.search_runs([experiment_id], f"tags.`{OPS_TAG}` = '{run.run_id}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
            tags = {OPS_TAG: run.run_id, "dagster_url": tracking.dagster_url(run.run_id)}
            if tracking.parent_run_id:
                tags["mlflow.parentRunId"] = str(client.get_run(tracking.parent_run_id).info.run_id)
            from mlflow.tracking.context.registry import resolve_tags

            return str(client.create_run(experiment_id, tags=resolve_tags(tags), run_name=run.job_name).info.run_id)

    def _enter(self, step: str) -> None:
        """Say that a step is at work in the run."""
        run_id, folder = self._dagster_run.run_id, self._tracking.outbox_folder(self._project)
        if self._context.instance:
            add_run_tags(self._context.instance, run_id, {OUTBOX_TAG: str(folder)})
        self._logs[step] = self._held.enter_context(
            self._tracking.continued_run(
                self._project,
                self._run_id,
                step=re.sub(r"[^\w.-]", "_", step),  # MLflow takes no [ in the name of a tag
                dagster_run_id=run_id,
                report=self._context.log.warning if self._context.log else print,
            )
        )

    def _reopened(self) -> Any:
        """The handle, with its run active again where a hook or another thread has none: MLflow would open another."""
        if self._handle.active_run() is None:
            self._handle.start_run(self._run_id)
        return self._handle

    def close(self) -> None:
        """End the run for every step of this process that has used it."""
        if self._run_id:
            import mlflow

            # It ends them as FINISHED; the status is settled below.
            with contextlib.suppress(Exception):
                while (active := mlflow.active_run()) and active.info.run_id != self._outer:
                    mlflow.end_run()
        for step, log in self._logs.items():
            log.ends_as = self._state_of(step)
        self._held.close()

    def _state_of(self, step: str) -> str:
        """How a step has ended; one that is to be tried again has failed until it is."""
        instance = self._context.instance
        if step == HOOK or instance is None:
            return FINISHED
        end = step_end(instance, self._dagster_run.run_id, step)
        return {"success": FINISHED, "failure": FAILED}.get(end, KILLED)
