"""Names and methods of Dagster that are no public API. No other module of har_assets imports `dagster._*` or
`dagster_shared`.

A new release may move any of them without a notice. Each import says in a line why it is needed; each function calls
methods that Dagster's reference does not list. `har_assets_tests/graph/test_dagster_private.py` compares all of it with
the installed Dagster, so an upgrade starts there.
"""

# ruff: noqa: PLC0414 - `NAME as NAME` says that other modules may import it from here

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.assets.job.asset_job import (
    IMPLICIT_ASSET_JOB_NAME as IMPLICIT_ASSET_JOB_NAME,  # recognise `dagster asset materialize`, which names no job
)
from dagster._core.definitions.run_request import (
    InstigatorType as InstigatorType,  # tell failed sensors, schedules and automation apart in alerts
)
from dagster._core.definitions.sensor_definition import (
    SensorExecutionData as SensorExecutionData,  # add a configuration to the runs that automation asks for
)
from dagster._core.errors import (
    DagsterUserCodeProcessError as DagsterUserCodeProcessError,  # show a failure as its sentence, without a trace
)
from dagster._core.events import (
    EngineEventData as EngineEventData,  # say in the log of a run that a step goes to CPUs
)
from dagster._core.execution.context.system import (
    IStepContext as IStepContext,  # sign the method that tries a step again after its node has died
)
from dagster._core.execution.context.system import (
    PlanOrchestrationContext as PlanOrchestrationContext,  # read run, instance and log in an executor
)
from dagster._core.execution.plan.objects import (
    ErrorSource as ErrorSource,  # tell a step that was stopped from one that has failed
)
from dagster._core.execution.plan.objects import (
    StepFailureData as StepFailureData,  # read why a step has failed
)
from dagster._core.execution.plan.objects import (
    StepRetryData as StepRetryData,  # try a step again after its node has died
)
from dagster._core.execution.plan.plan import (
    ExecutionPlan as ExecutionPlan,  # sign the method in which an executor runs the steps
)
from dagster._core.execution.plan.state import (
    KnownExecutionState as KnownExecutionState,  # count how often a step has been tried
)
from dagster._core.execution.retries import (
    RetryMode as RetryMode,  # let steps of an executor be tried again
)
from dagster._core.execution.step_dependency_config import (
    StepDependencyConfig as StepDependencyConfig,  # hand on the setting of the executor inside the surviving one
)
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG as ASSET_PARTITION_RANGE_END_TAG,  # ask for one run of many new videos
)
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_START_TAG as ASSET_PARTITION_RANGE_START_TAG,  # ask for one run of many new videos
)
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG as AUTO_RETRY_RUN_ID_TAG,  # send one alert about a run that is started again
)
from dagster._core.storage.tags import (
    HIDDEN_TAG_PREFIX as HIDDEN_TAG_PREFIX,  # keep its own tags of runs out of the web UI
)
from dagster._core.storage.tags import (
    MAX_RETRIES_TAG as MAX_RETRIES_TAG,  # have no run started again that somebody has ended
)
from dagster._core.storage.tags import (
    RUN_KEY_TAG as RUN_KEY_TAG,  # find the run that a sensor has asked for
)
from dagster_shared.error import (
    SerializableErrorInfo as SerializableErrorInfo,  # write a failure of one sentence, and read one
)

if TYPE_CHECKING:
    from dagster._core.executor.step_delegating import (
        CheckStepHealthResult as CheckStepHealthResult,  # say that the Ray job of a step has ended without it
    )
    from dagster._core.executor.step_delegating import (
        StepDelegatingExecutor as StepDelegatingExecutor,  # run each step as a Ray job
    )
    from dagster._core.executor.step_delegating import (
        StepHandler as StepHandler,  # start and watch the Ray jobs of steps
    )
    from dagster._core.executor.step_delegating import (
        StepHandlerContext as StepHandlerContext,  # read which step is to start, and give it other needs
    )
    from dagster._core.scheduler.instigation import (
        InstigatorState as InstigatorState,  # name the sensor or schedule of an alert
    )
    from dagster._core.scheduler.instigation import (
        InstigatorTick as InstigatorTick,  # say when and why a tick failed
    )
    from dagster._core.scheduler.instigation import (
        TickStatus as TickStatus,  # look for failed ticks, and for good ones after them
    )

_LATER = {
    "CheckStepHealthResult": "dagster._core.executor.step_delegating",
    "StepDelegatingExecutor": "dagster._core.executor.step_delegating",
    "StepHandler": "dagster._core.executor.step_delegating",
    "StepHandlerContext": "dagster._core.executor.step_delegating",
    "InstigatorState": "dagster._core.scheduler.instigation",
    "InstigatorTick": "dagster._core.scheduler.instigation",
    "TickStatus": "dagster._core.scheduler.instigation",
}
"""Name -> module of the names above, whose import would cost every start of Dagster a tenth of a second."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


# Runs and their events


def add_run_tags(instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str]) -> None:
    """Add tags to a run, also after it has ended."""
    instance.add_run_tags(run_id, tags)


def end_run(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> None:
    """Mark a run failed whose process can no longer do so, or canceled where somebody has terminated it."""
    if run.status == dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, why)
    else:
        instance.report_run_failed(run, why)


def is_interrupted(event: dg.DagsterEvent) -> bool:
    """Recognise the event in which an executor says that it was terminated, by a signal or in the web UI."""
    if not event.is_engine_event or event.engine_event_data.error:
        return False
    return "steps_interrupted" in event.engine_event_data.metadata


def is_started_again(run: dg.DagsterRun, within_s: float) -> bool:
    """Tell a failed run in whose place the daemon has started another one, or will within so many seconds."""
    return AUTO_RETRY_RUN_ID_TAG in run.tags or (within_s > 0 and run.is_complete_and_waiting_to_retry)


def failures_of(instance: dg.DagsterInstance, run_id: str) -> list[dg.DagsterEvent]:
    """Read the events in which steps of a run, and the run, have failed, in their order."""
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    entries = instance.all_logs(run_id, of_type=kinds)
    return [entry.dagster_event for entry in entries if entry.dagster_event is not None]


def step_in_progress() -> str:
    """Name the step that this thread executes; empty outside of steps, as in hooks."""
    try:
        return str(dg.OpExecutionContext.get().get_step_execution_context().step.key)
    except dg.DagsterInvariantViolationError:
        return ""


def step_end(instance: dg.DagsterInstance, run_id: str, step: str) -> str:
    """Tell how a step has ended: `success`, `failure`, `interrupt`, or empty where it has not."""
    kinds = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE}
    kinds.add(dg.DagsterEventType.STEP_UP_FOR_RETRY)
    events = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=kinds) if entry.step_key == step]
    if not events or events[-1] is None or events[-1].event_type == dg.DagsterEventType.STEP_START:
        return ""
    if events[-1].is_step_success:
        return "success"
    stopped = events[-1].is_step_failure and events[-1].step_failure_data.error_source == ErrorSource.INTERRUPT
    return "interrupt" if stopped else "failure"


def failure_reason(event: dg.DagsterEvent) -> str:
    """Read why a step has failed, from its event: the sentence that it gave, else exception and stack trace."""
    data: StepFailureData = event.step_failure_data
    return (data.user_failure_data.description if data.user_failure_data else None) or data.error_display_string


def module_of_run(run: dg.DagsterRun) -> str:
    """Read the name of the module that a run was loaded from; empty where it was not loaded from a module."""
    origin = run.job_code_origin
    return str(getattr(origin.repository_origin.code_pointer, "module", "")) if origin else ""


def count_runs(instance: dg.DagsterInstance, filters: dg.RunsFilter | None = None) -> int:
    """Count runs without reading them."""
    return instance.get_runs_count(filters)


def events_are_in_a_file(instance: dg.DagsterInstance) -> bool:
    """Tell a storage in a file, which no other machine can reach, from one on a server."""
    return "Sqlite" in type(instance.event_log_storage).__name__


# Pools


def make_pool(instance: dg.DagsterInstance, pool: str) -> None:
    """Make a pool of the default size before two runs do so at once."""
    instance.event_log_storage.initialize_concurrency_limit_to_default(pool)


def slot_holders(instance: dg.DagsterInstance) -> set[str]:
    """Find the runs that hold a slot of a pool or wait for one."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return set()
    holders = set(storage.get_concurrency_run_ids())
    for pool in storage.get_concurrency_keys():
        holders |= storage.get_concurrency_info(pool).active_run_ids
    return holders


def free_slots_of(instance: dg.DagsterInstance, run_id: str) -> None:
    """Free the slots that a run holds."""
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def hand_out_free_slots(instance: dg.DagsterInstance) -> None:
    """Give free slots to the steps that wait for one."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    for pool in storage.get_concurrency_keys():
        found = storage.get_concurrency_info(pool)
        for _ in range(min(found.pending_step_count, found.slot_count - found.assigned_step_count)):
            storage.assign_pending_steps([pool])  # type: ignore[attr-defined]


# Sensors, schedules, daemons


def newest_ticks(
    instance: dg.DagsterInstance, statuses: Sequence[TickStatus], after: float
) -> list[tuple[InstigatorState, InstigatorTick]]:
    """Find every sensor and schedule that has a tick of these statuses after a time, with the newest of these ticks."""
    found = []
    for state in instance.all_instigator_state():
        tick = newest_tick(instance, state, statuses, after)
        if tick is not None:
            found.append((state, tick))
    return found


def newest_tick(
    instance: dg.DagsterInstance,
    state: InstigatorState,
    statuses: Sequence[TickStatus],
    after: float,
    before: float | None = None,
) -> InstigatorTick | None:
    """Find the newest tick of a sensor or schedule between two times (seconds of the epoch), or None."""
    ticks = instance.get_ticks(
        state.instigator_origin_id, state.selector_id, limit=1, statuses=statuses, after=after, before=before
    )
    return ticks[0] if ticks else None


def last_heartbeat(instance: dg.DagsterInstance, daemon: str) -> float:
    """Read when a daemon was last alive, seconds of the epoch; 0 where it never was."""
    beat = instance.get_daemon_heartbeats().get(daemon)
    return float(beat.timestamp) if beat else 0.0


def database_revisions(instance: dg.DagsterInstance) -> tuple[str | None, str | tuple[str, ...] | None]:
    """Read the revision of the database's tables, and the one that the installed Dagster wants."""
    return instance.run_storage.alembic_version() or (None, None)


# The graph


def assets_of_job(repository: dg.RepositoryDefinition, job: str) -> set[dg.AssetKey]:
    """Read which assets a job makes."""
    return set(repository.get_job(job).asset_layer.selected_asset_keys)


def with_run_config(tick: SensorExecutionData, configuration: Any) -> SensorExecutionData:
    """Add to each run that a tick asks for the configuration that `configuration` returns for its asset keys."""
    requests = [
        request.with_replaced_attrs(run_config=configuration(request.asset_selection or ()))
        for request in tick.run_requests or ()
    ]
    return SensorExecutionData(
        run_requests=requests,
        skip_message=tick.skip_message,
        cursor=tick.cursor,
        dagster_run_reactions=tick.dagster_run_reactions,
        log_key=tick.log_key,
        dynamic_partitions_requests=tick.dynamic_partitions_requests,
        asset_events=tick.asset_events,
        automation_condition_evaluations=tick.automation_condition_evaluations,
    )


def look_up_input_version_again(context: dg.AssetExecutionContext, source: dg.AssetKey) -> None:
    """Forget the version of an input that Dagster looked up before the step started."""
    context.op_execution_context.get_step_execution_context().wipe_input_asset_version_info(source)


def existing_partitions(instance: dg.DagsterInstance, partitions: str, keys: Sequence[str]) -> list[str]:
    """Ask which of these keys a dynamic partitions definition has, in one query."""
    return list(instance.event_log_storage.get_existing_dynamic_partitions(partitions, keys))


def page_of_partitions(
    instance: dg.DagsterInstance, partitions: str, most: int, cursor: str | None
) -> tuple[list[str], str, bool]:
    """Read partition keys in the order in which they were added, a page at a time.

    Returns at most `most` keys after `cursor` (None: from the beginning), the next cursor, and whether more follow.
    """
    page = instance.get_paginated_dynamic_partitions(partitions, limit=most, ascending=True, cursor=cursor)
    return list(page.results), page.cursor, page.has_more


# Executors

MULTIPROCESS_CONFIG = dg.multiprocess_executor.config_schema.as_field()
"""Schema of the configuration that Dagster's multiprocess executor takes."""


def attempts_of(state: KnownExecutionState | None, step: str) -> int:
    """Count how often a step has been tried again."""
    return state.get_retry_state().get_attempt_count(step) if state else 0


def retry_event(step_context: IStepContext, error: SerializableErrorInfo) -> dg.DagsterEvent:
    """Make the event that has a step tried again at once."""
    return dg.DagsterEvent.step_retry_event(step_context, StepRetryData(error=error, seconds_to_wait=0))  # type: ignore[no-untyped-call]


def arguments_of(context: StepHandlerContext) -> tuple[Any, ...]:
    """Read what the context of a step handler was made of, to make one with other tags."""
    steps = context._steps_by_key.values()
    return context.instance, context._plan_context, list(steps), context.execute_step_args, context.dagster_run


def log_of_engine(step_context: IStepContext, message: str) -> None:
    """Write a line into the log of a run in the name of the executor."""
    dg.DagsterEvent.engine_event(step_context, message, EngineEventData())
