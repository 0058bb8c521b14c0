"""The executor behind HAR_RAY: steps as Ray jobs, by dagster-ray; see har_assets.cluster.address."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.context.system import IStepContext
from dagster._core.execution.plan.objects import StepRetryData
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)
from dagster_shared.error import SerializableErrorInfo

from har_assets import settings
from har_assets.cluster.address import cluster_address, connect, nodes_of
from har_assets.cluster.needs import NEEDS_TAG
from har_assets.cluster.training import node_needs, options_of
from har_assets.errors import HarError
from har_assets.graph.failures import SentenceFailure
from har_assets.graph.running.executor import SurvivingExecutor
from har_assets.store.bucket import DEFAULT_ROOT

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NODE_DEATHS = 3
"""Times that a step is tried again because its process or node was gone."""

HEALTH_SECONDS = 5
"""Pause between two looks at the jobs of running steps."""

SENT = (
    settings.ARTIFACTS,
    settings.MLFLOW_URI,
    settings.MLFLOW_FILES,
    settings.DAGSTER_UI,
    settings.DECODER,
    settings.SOURCE,
    settings.STORE_QUOTA,
)
"""Settings of the deployment that go with each step, so that they are chosen in one place."""


@dg.executor(name="surviving_ray", requirements=multiple_process_executor_requirements())
def surviving_ray_executor(init_context: dg.InitExecutorContext) -> Executor:
    """A Ray job a step, on a node that has what it needs; neither a killed run nor a dead node blocks the next one."""
    try:
        _refuse_what_nodes_do_not_share(init_context.instance)
        return SurvivingExecutor(NodeExecutor(connect(cluster_address())))
    except HarError as error:
        raise SentenceFailure(str(error)) from None


def _refuse_what_nodes_do_not_share(instance: dg.DagsterInstance) -> None:
    root = settings.ARTIFACTS.get("") or DEFAULT_ROOT
    if "://" not in root:  # nor one that nodes share: who is at work in it is told by process ids
        raise HarError(
            f"{settings.RAY} is set and {settings.ARTIFACTS} is {root!r}, a folder of each node: set it to an address "
            "such as s3://bucket/prefix."
        )
    if "Sqlite" in type(instance.event_log_storage).__name__:
        raise HarError(
            f"{settings.RAY} is set and Dagster's storage is a file of this machine: take deploy/dagster.yaml, which "
            "names a PostgreSQL server."
        )


class NodeExecutor(StepDelegatingExecutor):
    """Ray jobs, as dagster-ray submits them; a step whose job died under it is tried again."""

    def __init__(self, client: JobSubmissionClient) -> None:
        super().__init__(
            _step_handler(client),
            retries=RetryMode.ENABLED,
            check_step_health_interval_seconds=HEALTH_SECONDS,
            should_verify_step=True,
        )

    def log_failure_or_retry_event_after_error(
        self, step_context: IStepContext, err_info: SerializableErrorInfo, known_state: KnownExecutionState
    ) -> DagsterEvent:
        """Called for a step that ended without a word, never for one whose code has failed."""
        if "exit code 127" in err_info.message:  # of the shell
            sentence = "A node does not find the program `dagster`: start Ray there in the activated environment."
            err_info = SerializableErrorInfo(f"{sentence}\n", stack=[], cls_name="Failure")
        elif known_state.get_retry_state().get_attempt_count(step_context.step.key) < NODE_DEATHS:
            return DagsterEvent.step_retry_event(step_context, StepRetryData(error=err_info, seconds_to_wait=0))  # type: ignore[no-untyped-call]
        return super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)


class _Fitted(StepHandlerContext):
    """The same context with other needs of its steps."""

    def __init__(self, context: StepHandlerContext, wanted: str) -> None:
        self.__dict__ = dict(context.__dict__)
        self._wanted = wanted

    @property
    def step_tags(self) -> Mapping[str, Mapping[str, str]]:
        """Tags of each step by its key."""
        return {key: {**tags, NEEDS_TAG: self._wanted} for key, tags in super().step_tags.items()}


def _step_handler(client: JobSubmissionClient) -> StepHandler:
    # dagster-ray imports Kubernetes-free in 1 s, paid only by runs on a cluster.
    from dagster_ray.configs import RayExecutionConfig
    from dagster_ray.core.executor import RayStepHandler
    from ray.job_submission import JobStatus

    class NodeStepHandler(RayStepHandler):
        """dagster-ray's, that knows what the cluster has and when a job has ended without its step."""

        def __init__(self) -> None:
            super().__init__(
                client,
                env_vars=_settings_to_send(),
                runtime_env=None,
                num_cpus=None,
                num_gpus=None,
                memory=None,
                resources=None,
            )
            self._ended: set[str] = set()

        @cached_property
        def offered(self) -> set[str]:
            """Names of what any node has."""
            return {name for node in nodes_of(client) for name, amount in node.items() if amount}

        def _get_ray_job_submission_id(self, step_handler_context: StepHandlerContext) -> str:
            """Run, step and attempt; dagster-ray's 8 digits of a hash meet after some ten thousand steps."""
            arguments = step_handler_context.execute_step_args
            (step,) = step_handler_context.step_tags
            retries = arguments.known_state.get_retry_state().get_attempt_count(step) if arguments.known_state else 0
            return f"har-{arguments.run_id}-{step}-{retries + 1}"

        def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
            """Submit the step, without what no node of the cluster has."""
            (step,) = step_handler_context.step_tags
            wanted = RayExecutionConfig.from_tags(step_handler_context.step_tags[step])
            wanted = self._with_training(step_handler_context, step, wanted)
            custom = {name: amount for name, amount in (wanted.resources or {}).items() if name in self.offered}
            fitted = RayExecutionConfig(
                runtime_env=wanted.runtime_env,
                num_cpus=1
                if wanted.num_cpus is None
                else wanted.num_cpus,  # with nothing asked for Ray takes the head node for every step
                num_gpus=wanted.num_gpus if "GPU" in self.offered else None,
                memory=wanted.memory,
                resources=custom or None,
            )
            if wanted.num_gpus and not fitted.num_gpus:
                DagsterEvent.engine_event(
                    step_handler_context.get_step_context(step),
                    "No node of the Ray cluster has a GPU: the step goes to CPUs.",
                    EngineEventData(),
                )
            self._ended.discard(step)
            yield from super().launch_step(_Fitted(step_handler_context, fitted.model_dump_json()))

        def _with_training(
            self, step_handler_context: StepHandlerContext, step: str, wanted: RayExecutionConfig
        ) -> RayExecutionConfig:
            """`wanted`, changed to what a training takes of its node where it has several devices or nodes."""
            nodes, devices, found = options_of(step_handler_context.dagster_run.run_config, step)
            if (nodes, devices) == (1, 1):
                return wanted
            offered = nodes_of(client)
            needs = node_needs(nodes, devices, offered)
            # No more than any node has: the training then says what is missing, where a job would just wait.
            cpus, gpus = (
                int(min(needs.get(name, 0), max((node.get(name, 0) for node in offered), default=0)))
                for name in ("CPU", "GPU")
            )
            changes: dict[str, Any] = {"num_cpus": max(1, cpus), "num_gpus": gpus or wanted.num_gpus}
            if found:
                place = {"ray_job": self._get_ray_job_submission_id(step_handler_context), "node_needs": needs}
                runtime_env = wanted.runtime_env or {}
                variables = {**runtime_env.get("env_vars", {}), settings.TRAINING_PLACE: json.dumps(place)}
                changes["runtime_env"] = {**runtime_env, "env_vars": variables}
            return wanted.model_copy(update=changes)

        def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
            """Unhealthy, too, when the job has ended in any way and the step has not said so by the next look."""
            health = super().check_step_health(step_handler_context)
            if not health.is_healthy:
                return health
            (step,) = step_handler_context.step_tags
            job = self._get_ray_job_submission_id(step_handler_context)
            status = client.get_job_status(job)
            if status not in (JobStatus.STOPPED, JobStatus.SUCCEEDED):
                return health
            if step not in self._ended:
                self._ended.add(step)  # its last events may be on their way
                return health
            return CheckStepHealthResult.unhealthy(f"Ray job {job} is {status.value} and the step has not ended.")

    return NodeStepHandler()


def _settings_to_send() -> list[str]:
    """`NAME=value` of the settings in SENT and of HAR_RAY; HarError for one that holds a password."""
    found = []
    for name in (settings.RAY, *SENT):
        if value := name.get():
            if "://" in value and urlsplit(value).password:
                raise HarError(
                    f"{name} holds a password, which everybody would read at Ray's job server: leave it out and set "
                    "the variables of its client (PGPASSWORD) on each node."
                )
            found.append(f"{name}={value}")
    return found
