"""Ops as they are written for dagster-mlflow, in jobs with its resource and with ours."""

import os
import signal
import time
from pathlib import Path

import dagster as dg
from dagster_mlflow import end_mlflow_on_run_finished, mlflow_tracking

from har_assets.graph.resources.mlflow import MlflowTracking

PARAMS = {f"param_{number}": str(number) for number in range(150)}
"""More than MLflow takes in one request; dagster-mlflow divides them."""


class Behaviour(dg.Config):
    """What happens in an op after it has logged."""

    fails: bool = False
    fails_once: str = ""
    """File that says that it has failed before."""
    waits_for: str = ""
    """File of another op that is at work at the same time."""
    says: str = ""
    """File that it writes for such an op."""
    dies: bool = False
    hangs: bool = False

    def act(self) -> None:
        if self.says:
            Path(self.says).touch()
        deadline = time.monotonic() + 120
        while self.hangs or (self.waits_for and not Path(self.waits_for).exists()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails:
            raise ValueError("no luck")
        if self.fails_once and not Path(self.fails_once).exists():
            Path(self.fails_once).touch()
            raise dg.RetryRequested(max_retries=1)


@dg.op(required_resource_keys={"mlflow"})
def prepare(context: dg.OpExecutionContext, config: Behaviour) -> int:
    mlflow = context.resources.mlflow
    mlflow.log_params(PARAMS)
    mlflow.set_tag("prepared", "yes")
    config.act()
    return 1


@dg.op(required_resource_keys={"mlflow"})
def measure(context: dg.OpExecutionContext, config: Behaviour) -> int:
    for step in range(3):
        context.resources.mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
    context.resources.mlflow.log_dict({"classes": ["run", "sit"]}, "classes.json")
    config.act()
    return 2


@dg.op(required_resource_keys={"mlflow"})
def conclude(context: dg.OpExecutionContext, first: int, second: int) -> None:
    mlflow = context.resources.mlflow
    mlflow.log_metrics({"sum": float(first + second)})
    assert mlflow.tracking_client.get_run(mlflow.active_run().info.run_id).data.params == PARAMS


@dg.op(required_resource_keys={"mlflow"})
def stand_alone(context: dg.OpExecutionContext) -> None:
    context.resources.mlflow.log_metric("alone", 1.0)


@dg.op
def untracked() -> None:
    """Knows nothing of MLflow."""


@dg.graph
def tracked() -> None:
    conclude(prepare(), measure())


@dg.graph
def independent() -> None:
    prepare()
    measure()
    stand_alone()
    untracked()


OURS = {"mlflow": MlflowTracking()}
HOOKS = {end_mlflow_on_run_finished}


def ours() -> dg.JobDefinition:
    return tracked.to_job("tracked", resource_defs=OURS)


def ours_with_the_hook() -> dg.JobDefinition:
    return independent.to_job("independent", resource_defs=OURS, hooks=HOOKS)


def of_dagster_mlflow() -> dg.JobDefinition:
    return tracked.to_job("tracked", resource_defs={"mlflow": mlflow_tracking}, hooks=HOOKS)
