"""The executor for HAR_RAY: each step of a run is a Ray job on a node of the cluster, submitted by dagster-ray.

    the run, where it was started        SurvivingExecutor > NodeExecutor
        a step ─── Ray job ───►          a node that has what the step needs, by the table of stages
            shard ─── Ray task ───►      any node with a free CPU (har_assets.cluster.sharding)
            training ─ Ray tasks ──►     the other nodes of a training over several (har_assets.cluster.training)

NodeExecutor adds to dagster-ray: a step whose node has died is tried again on another one; a step that was stopped from
outside ends; what no node of the cluster has is not waited for.

Nodes take keys and passwords from their own environment; nothing secret travels with a step, as whoever reaches the job
server reads what does.

Imported only where HAR_RAY is set: dagster-ray and Ray are optional.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg
from dagster import DagsterEvent, Executor

from har_assets import settings
from har_assets.cluster.address import connect, nodes_of
from har_assets.cluster.needs import NEEDS_TAG
from har_assets.cluster.training import node_needs, options_of
from har_assets.errors import HarError
from har_assets.graph.dagster_private import (
    CheckStepHealthResult,
    IStepContext,
    KnownExecutionState,
    RetryMode,
    SerializableErrorInfo,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
    arguments_of,
    attempts_of,
    events_are_in_a_file,
    log_of_engine,
    retry_event,
)
from har_assets.graph.failures import SentenceFailure
from har_assets.graph.running.executor import SurvivingExecutor

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NODE_DEATHS = 3
"""How often a step is tried again after its process or node has died."""

HEALTH_SECONDS = 5
"""Pause between two queries for the jobs of running steps."""

SENT = (
    settings.ARTIFACTS,
    settings.MLFLOW_URI,
    settings.MLFLOW_FILES,
    settings.DAGSTER_UI,
    settings.DECODER,
    settings.SOURCE,
    settings.STORE_QUOTA,
)
"""Settings of the deployment that are sent with each step, so that they are chosen in one place."""


@dg.executor(name="surviving_ray", requirements=dg.multiple_process_executor_requirements())
def surviving_ray_executor(init_context: dg.InitExecutorContext) -> Executor:
    """A Ray job a step, on a node that has what it needs; neither a killed run nor a dead node blocks the next one."""
    try:
        _refuse_what_nodes_do_not_share(init_context.instance)
        return SurvivingExecutor(NodeExecutor(connect(settings.read().ray)))
    except HarError as error:
        raise SentenceFailure(str(error)) from None


def _refuse_what_nodes_do_not_share(instance: dg.DagsterInstance) -> None:
    root = settings.read().artifacts
    if (
        "://" not in root
    ):  # a shared folder is refused, too: what runs and what is abandoned in it is told by process ids of one machine
        raise HarError(
            f"{settings.RAY} is set and {settings.ARTIFACTS} is {root!r}, a folder of each node: set it to an address "
            "such as s3://bucket/prefix."
        )
    if events_are_in_a_file(instance):
        raise HarError(
            f"{settings.RAY} is set and Dagster's storage is a file of this machine: take deploy/dagster.yaml, which "
            "names a PostgreSQL server."
        )


class NodeExecutor(StepDelegatingExecutor):
    """Steps as Ray jobs, submitted by dagster-ray; a step is tried again when its job has died."""

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
        """Try a step again that ended without an event; this is not called for a step whose code has failed."""
        if "exit code 127" in err_info.message:  # of the shell
            sentence = "A node does not find the program `dagster`: start Ray there in the activated environment."
            err_info = SerializableErrorInfo(f"{sentence}\n", stack=[], cls_name="Failure")
        elif attempts_of(known_state, step_context.step.key) < NODE_DEATHS:
            return retry_event(step_context, err_info)
        return super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)


class ContextWithTags(StepHandlerContext):
    """The context of a step handler whose steps have other tags than the graph gives them."""

    def __init__(self, context: StepHandlerContext, tags: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(*arguments_of(context))
        self._tags = tags

    @property
    def step_tags(self) -> Mapping[str, Mapping[str, str]]:
        """Tags of each step by its key."""
        return self._tags


def _step_handler(client: JobSubmissionClient) -> StepHandler:
    # dagster-ray takes 1 s to import, so only runs on a cluster do.
    from dagster_ray.configs import RayExecutionConfig
    from dagster_ray.core.executor import RayStepHandler
    from ray.job_submission import JobStatus

    class NodeStepHandler(RayStepHandler):
        """dagster-ray's handler, extended by what the cluster offers and by jobs that end without their step."""

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
            """Names of the resources that at least one node has."""
            return {name for node in nodes_of(client) for name, amount in node.items() if amount}

        def _get_ray_job_submission_id(self, step_handler_context: StepHandlerContext) -> str:
            """Run, step and attempt. dagster-ray's own id, 8 digits of a hash, collides after ten thousand steps."""
            arguments = step_handler_context.execute_step_args
            (step,) = step_handler_context.step_tags
            return f"har-{arguments.run_id}-{step}-{attempts_of(arguments.known_state, step) + 1}"

        def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
            """Submit the step, without the needs that no node of the cluster can meet."""
            (step,) = step_handler_context.step_tags
            wanted = RayExecutionConfig.from_tags(step_handler_context.step_tags[step])
            wanted = self._with_training(step_handler_context, step, wanted)
            custom = {name: amount for name, amount in (wanted.resources or {}).items() if name in self.offered}
            fitted = RayExecutionConfig(
                runtime_env=wanted.runtime_env,
                # With nothing asked for Ray takes the head node for every step.
                num_cpus=1 if wanted.num_cpus is None else wanted.num_cpus,
                num_gpus=wanted.num_gpus if "GPU" in self.offered else None,
                memory=wanted.memory,
                resources=custom or None,
            )
            if wanted.num_gpus and not fitted.num_gpus:
                log_of_engine(
                    step_handler_context.get_step_context(step),
                    "No node of the Ray cluster has a GPU: the step goes to CPUs.",
                )
            self._ended.discard(step)
            tags = {**step_handler_context.step_tags[step], NEEDS_TAG: fitted.model_dump_json()}
            yield from super().launch_step(ContextWithTags(step_handler_context, {step: tags}))

        def _with_training(
            self, step_handler_context: StepHandlerContext, step: str, wanted: RayExecutionConfig
        ) -> RayExecutionConfig:
            """Change `wanted` to what a training with several devices or nodes takes of its node."""
            nodes, devices, found = options_of(step_handler_context.dagster_run.run_config, step)
            if (nodes, devices) == (1, 1):
                return wanted
            offered = nodes_of(client)
            needs = node_needs(nodes, devices, offered)
            # At most what a node has: the training then says what is missing, where a job would only wait.
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
            """Also unhealthy when the job has ended and the step has not reported its end by the next query."""
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
