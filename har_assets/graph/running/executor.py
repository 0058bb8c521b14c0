"""SurvivingExecutor, which wraps another one so that a killed run does not block the next, and steps as processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import dagster as dg
from dagster import DagsterEvent, Executor, multiprocess_executor

from har_assets.graph.dagster_private import (
    IMPLICIT_ASSET_JOB_NAME,
    MAX_RETRIES_TAG,
    MULTIPROCESS_CONFIG,
    ExecutionPlan,
    PlanOrchestrationContext,
    RetryMode,
    StepDependencyConfig,
    add_run_tags,
    failure_reason,
    is_interrupted,
)
from har_assets.graph.failures import SentenceFailure
from har_assets.graph.running.dead_runs import HOST_TAG, PROCESS_TAG, RUN_TAG, release_dead_runs
from har_assets.system.processes import process_name, this_host

NEVER_AGAIN = {MAX_RETRIES_TAG: "0"}
"""Tags of a run that somebody has ended: the daemon does not start it again, whatever becomes of its process."""


class SurvivingExecutor(Executor):
    """Another executor, before which dead runs are ended and the process of this run is written into its tags."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner

    @property
    def retries(self) -> RetryMode:
        """As configured for the inner executor."""
        return self.inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """As configured for the inner executor."""
        return self.inner.step_dependency_config

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Run the plan. Failures are repeated at the end of the log, each in one sentence."""
        instance, run = plan_context.instance, plan_context.dagster_run
        if run.job_name == IMPLICIT_ASSET_JOB_NAME and not (run.asset_selection or run.asset_check_selection):
            # `--select '+key:trt_engin'` leads here: Dagster takes an empty selection for one of everything.
            raise SentenceFailure(
                "The selection matches no asset: correct the name after `key:` (`dagster asset list -m har_assets` "
                "shows all), or run `dagster job execute -m har_assets -j whole_road` to build everything."
            )
        process = process_name(os.getpid())
        tags = {HOST_TAG: this_host(), PROCESS_TAG: process, RUN_TAG: run.run_id} if process else {}
        if run.remote_job_origin is None:  # of `dagster asset materialize`: whoever typed that repeats it
            tags |= NEVER_AGAIN
        add_run_tags(instance, run.run_id, tags)
        for dead in release_dead_runs(instance):
            plan_context.log.warning(f"Run {dead} had died: marked failed, its slots freed.")
        failures = []
        try:
            for event in self.inner.execute(plan_context, execution_plan):
                if event.is_step_failure:
                    failures.append(f"{event.step_key} failed: {failure_reason(event)}")
                if is_interrupted(event):  # noted before its steps end: it may be killed while they do
                    add_run_tags(instance, run.run_id, NEVER_AGAIN)
                yield event
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            add_run_tags(instance, run.run_id, NEVER_AGAIN)
            raise
        for failure in failures:
            # Last in the log and without a stack trace, where a person looks for it.
            plan_context.log.error(failure)


@dg.executor(
    name="surviving_multiprocess",
    config_schema=MULTIPROCESS_CONFIG,
    requirements=dg.multiple_process_executor_requirements(),
)
def surviving_executor(init_context: dg.InitExecutorContext) -> Executor:
    """A process a step, as Dagster's multiprocess executor; a killed run does not block the next one."""
    make_inner = multiprocess_executor.executor_creation_fn
    assert make_inner is not None
    inner = make_inner(init_context)
    assert isinstance(inner, Executor)
    return SurvivingExecutor(inner)
