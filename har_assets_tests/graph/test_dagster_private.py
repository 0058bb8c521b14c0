"""har_assets.graph.dagster_private against the installed Dagster: one case for each name and method that it relies on.

The module is read as text and not imported at the top: a name that has moved fails its own case, with a sentence.
"""

import ast
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import har_assets

PACKAGE = Path(har_assets.__file__).parent
MODULE = PACKAGE / "graph/dagster_private.py"
TEXT = MODULE.read_text()
TREE = ast.parse(TEXT)
FUNCTIONS = {node.name: node for node in TREE.body if isinstance(node, ast.FunctionDef)}


def is_private(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] == "dagster_shared" or module.startswith("dagster._")


@dataclass(frozen=True)
class Name:
    """A private name that dagster_private imports."""

    module: str
    name: str
    use: str
    """The comment beside it: what har_assets uses it for."""

    @classmethod
    def all(cls) -> "list[Name]":
        lines = TEXT.splitlines()
        return [
            cls(node.module or "", alias.name, lines[alias.lineno - 1].partition("#")[2].strip())
            for node in ast.walk(TREE)
            if isinstance(node, ast.ImportFrom) and is_private(node.module or "")
            for alias in node.names
        ]


def moved(name: str, use: str) -> str:
    return (
        f"dagster {dg.__version__} moved {name}, which har_assets uses to {use}: find its new place, or a public way, "
        "and change har_assets/graph/dagster_private.py."
    )


def found(path: str, use: str) -> Any:
    """What is at `package.module:Class.attribute`; fails with a sentence where there is nothing."""
    module, _, names = path.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for name in names.split("."):
            value = inspect.getattr_static(value, name) if inspect.isclass(value) else getattr(value, name)
    except (ImportError, AttributeError):
        pytest.fail(moved(path, use))
    return value


@pytest.mark.parametrize("name", Name.all(), ids=lambda name: name.name)
def test_a_private_name_is_where_it_was(name: Name) -> None:
    assert name.use, f"say in a comment beside {name.name} what it is used for"
    found(f"{name.module}:{name.name}", name.use)


def test_every_private_name_can_be_imported_from_the_module() -> None:
    from har_assets.graph import dagster_private

    for name in Name.all():
        assert getattr(dagster_private, name.name) is found(f"{name.module}:{name.name}", name.use)


def test_the_names_are_read_from_the_module() -> None:
    names = {name.name for name in Name.all()}
    assert {"SerializableErrorInfo", "StepHandlerContext", "HIDDEN_TAG_PREFIX"} <= names
    assert TEXT.count("from dagster") == len({(name.module, name.name) for name in Name.all()})


def test_a_name_that_has_moved_fails_with_a_sentence() -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        found("dagster._core.errors:NoSuchError", "show a failure")
    assert str(caught.value).startswith(
        f"dagster {dg.__version__} moved dagster._core.errors:NoSuchError, which har_assets uses to show a failure: "
    )


# Constants, some of which are in databases of users.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dagster._core.storage.tags:HIDDEN_TAG_PREFIX", ".dagster/"),
        ("dagster._core.storage.tags:RUN_KEY_TAG", "dagster/run_key"),
        ("dagster._core.storage.tags:ASSET_PARTITION_RANGE_START_TAG", "dagster/asset_partition_range_start"),
        ("dagster._core.storage.tags:ASSET_PARTITION_RANGE_END_TAG", "dagster/asset_partition_range_end"),
        ("dagster._core.definitions.assets.job.asset_job:IMPLICIT_ASSET_JOB_NAME", "__ASSET_JOB"),
    ],
)
def test_a_constant_is_what_earlier_runs_have_in_their_tags(name: str, value: str) -> None:
    assert found(name, "find runs that are recorded already") == value, (
        f"dagster {dg.__version__} changed {name}, which recorded runs have as {value!r}: look for both."
    )


# Methods and their parameters.

INSTANCE = "dagster:DagsterInstance"
EVENT_LOG = "dagster._core.storage.event_log.base:EventLogStorage"
SQL_EVENT_LOG = "dagster._core.storage.event_log.sql_event_log:SqlEventLogStorage"
CONTEXT = "dagster._core.executor.step_delegating:StepHandlerContext"


@dataclass(frozen=True)
class Call:
    """A method that a function of dagster_private calls."""

    caller: str
    method: str
    positional: int = 0
    """Arguments that are passed by place, `self` not counted."""
    named: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.caller}-{self.method.partition(':')[2]}"


CALLS = [
    Call("add_run_tags", f"{INSTANCE}.add_run_tags", 2),
    Call("end_run", f"{INSTANCE}.report_run_failed", 2),
    Call("end_run", f"{INSTANCE}.report_run_canceled", 2),
    Call("failures_of", f"{INSTANCE}.all_logs", 1, ("of_type",)),
    Call(
        "step_in_progress",
        "dagster._core.execution.context.compute:OpExecutionContext.get_step_execution_context",
    ),
    Call("step_end", f"{INSTANCE}.all_logs", 1, ("of_type",)),
    Call("count_runs", f"{INSTANCE}.get_runs_count", 1),
    Call("make_pool", f"{EVENT_LOG}.initialize_concurrency_limit_to_default", 1),
    Call("slot_holders", f"{EVENT_LOG}.get_concurrency_run_ids"),
    Call("slot_holders", f"{EVENT_LOG}.get_concurrency_keys"),
    Call("slot_holders", f"{EVENT_LOG}.get_concurrency_info", 1),
    Call("free_slots_of", f"{EVENT_LOG}.free_concurrency_slots_for_run", 1),
    Call("hand_out_free_slots", f"{SQL_EVENT_LOG}.assign_pending_steps", 1),
    Call("newest_ticks", f"{INSTANCE}.all_instigator_state"),
    Call("newest_tick", f"{INSTANCE}.get_ticks", 2, ("limit", "statuses", "after", "before")),
    Call("last_heartbeat", f"{INSTANCE}.get_daemon_heartbeats"),
    Call("database_revisions", "dagster._core.storage.runs.base:RunStorage.alembic_version"),
    Call("with_run_config", "dagster:RunRequest.with_replaced_attrs", 0, ("run_config",)),
    Call(
        "look_up_input_version_again",
        "dagster._core.execution.context.compute:OpExecutionContext.get_step_execution_context",
    ),
    Call(
        "look_up_input_version_again",
        "dagster._core.execution.context.system:StepExecutionContext.wipe_input_asset_version_info",
        1,
    ),
    Call("existing_partitions", f"{EVENT_LOG}.get_existing_dynamic_partitions", 2),
    Call("page_of_partitions", f"{INSTANCE}.get_paginated_dynamic_partitions", 1, ("limit", "ascending", "cursor")),
    Call("attempts_of", "dagster._core.execution.plan.state:KnownExecutionState.get_retry_state"),
    Call("attempts_of", "dagster._core.execution.retries:RetryState.get_attempt_count", 1),
    Call("retry_event", "dagster:DagsterEvent.step_retry_event", 2),
    Call("log_of_engine", "dagster:DagsterEvent.engine_event", 3),
]


def use_of(function: str) -> str:
    """The first line of a function's docstring, to follow `uses to`."""
    says = ast.get_docstring(FUNCTIONS[function]) or ""
    assert says, f"say in its docstring what {function} is for"
    first = says.splitlines()[0].rstrip(".")
    return first[0].lower() + first[1:]


def takes(signature: inspect.Signature, positional: int, named: tuple[str, ...]) -> bool:
    try:
        signature.bind(*[None] * positional, **dict.fromkeys(named))
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_method_takes_what_is_passed_to_it(call: Call) -> None:
    use = use_of(call.caller)
    method = found(call.method, use)
    bound = isinstance(method, staticmethod)
    signature = inspect.signature(inspect.unwrap(method.__func__ if bound else method))
    # functools.wraps keeps the first parameter: self.
    assert takes(signature, call.positional + (not bound), call.named), (
        f"dagster {dg.__version__} changed {call.method}, which har_assets uses to {use}: it now takes {signature}."
    )


ATTRIBUTES = [
    ("failure_reason", "dagster:DagsterEvent.step_failure_data"),
    ("step_end", "dagster:DagsterEvent.step_failure_data"),
    ("step_in_progress", "dagster._core.execution.context.system:StepExecutionContext.step"),
    ("is_interrupted", "dagster:DagsterEvent.engine_event_data"),
    ("is_interrupted", "dagster._core.events:EngineEventData.interrupted"),
    ("is_started_again", "dagster:DagsterRun.is_complete_and_waiting_to_retry"),
    ("module_of_run", "dagster:DagsterRun.job_code_origin"),
    ("events_are_in_a_file", f"{INSTANCE}.event_log_storage"),
    ("slot_holders", f"{EVENT_LOG}.supports_global_concurrency_limits"),
    ("slot_holders", "dagster._utils.concurrency:ConcurrencyKeyInfo.active_run_ids"),
    ("hand_out_free_slots", "dagster._utils.concurrency:ConcurrencyKeyInfo.pending_step_count"),
    ("hand_out_free_slots", "dagster._utils.concurrency:ConcurrencyKeyInfo.assigned_step_count"),
    ("newest_tick", "dagster._core.scheduler.instigation:InstigatorState.instigator_origin_id"),
    ("newest_tick", "dagster._core.scheduler.instigation:InstigatorState.selector_id"),
    ("assets_of_job", "dagster:JobDefinition.asset_layer"),
    ("assets_of_job", "dagster._core.definitions.assets.job.asset_layer:AssetLayer.selected_asset_keys"),
    ("look_up_input_version_again", "dagster:AssetExecutionContext.op_execution_context"),
    ("arguments_of", f"{CONTEXT}.execute_step_args"),
]


@pytest.mark.parametrize(("caller", "path"), ATTRIBUTES)
def test_an_attribute_is_where_it_was(caller: str, path: str) -> None:
    found(path, use_of(caller))


def test_every_function_of_the_module_has_a_case() -> None:
    assert {call.caller for call in CALLS} | {caller for caller, _ in ATTRIBUTES} == set(FUNCTIONS) - {"__getattr__"}


# Objects that are made or read here.


@pytest.mark.parametrize(
    ("path", "fields", "use"),
    [
        ("dagster:DagsterRun", {"run_id", "job_name", "asset_selection", "asset_check_selection"}, "refuse empty runs"),
        (
            "dagster:DagsterRun",
            {"remote_job_origin", "parent_run_id"},
            "leave runs of a terminal to whoever typed them",
        ),
        (
            "dagster._core.execution.plan.objects:StepFailureData",
            {"user_failure_data", "error_display_string", "error_source"},
            "say why a step has failed",
        ),
        (
            "dagster._core.scheduler.instigation:InstigatorState",
            {"name", "instigator_type", "repository_selector"},
            "name the sensor in an alert",
        ),
        (
            "dagster._core.scheduler.instigation:InstigatorTick",
            {"tick_data", "timestamp"},
            "say where a tick has failed",
        ),
        (
            "dagster._core.scheduler.instigation:TickData",
            {"error", "end_timestamp"},
            "say where a tick has failed",
        ),
        (
            "dagster._core.definitions.selector:RepositorySelector",
            {"location_name", "repository_name"},
            "say where a tick has failed",
        ),
        ("dagster_shared.error:SerializableErrorInfo", {"message", "cause"}, "read why a tick has failed"),
        (
            "dagster._core.execution.context.system:PlanOrchestrationContext",
            {"instance", "dagster_run", "log"},
            "end dead runs before a run begins",
        ),
        (CONTEXT, {"execute_step_args", "step_tags", "dagster_run", "get_step_context", "instance"}, "start Ray jobs"),
        ("dagster._grpc.types:ExecuteStepArgs", {"run_id", "known_state"}, "name the Ray job of a step"),
    ],
)
def test_an_object_has_what_is_read_from_it(path: str, fields: set[str], use: str) -> None:
    missing = fields - set(dir(found(path, use))) - set(getattr(found(path, use), "__annotations__", {}))
    assert not missing, f"dagster {dg.__version__} took {sorted(missing)} from {path}, which har_assets uses to {use}."


def test_an_error_of_one_sentence_can_be_made() -> None:
    from har_assets.graph.dagster_private import DagsterUserCodeProcessError, SerializableErrorInfo
    from har_assets.graph.failures import SentenceFailure

    assert takes(inspect.signature(SerializableErrorInfo), 1, ("stack", "cls_name"))
    sentence = SentenceFailure("There is no model.")
    attributes = {*vars(dg.Failure("x")), *vars(DagsterUserCodeProcessError("x", user_code_process_error_infos=[]))}
    assert set(vars(sentence)) == attributes - {"args"}, (
        f"dagster {dg.__version__} changed the attributes of Failure or DagsterUserCodeProcessError: set them in "
        "har_assets/graph/failures.py, which calls neither __init__."
    )


def test_the_context_of_a_step_handler_can_be_given_other_tags() -> None:
    from har_assets.graph.dagster_private import StepHandlerContext
    from har_assets.graph.running.ray_executor import ContextWithTags

    class Step:
        key, tags = "trt_engine", {"a": "1"}

    class Run:
        run_id = "7"

    context: Any = StepHandlerContext(
        instance="instance",  # type: ignore[arg-type]
        plan_context="plan",  # type: ignore[arg-type]
        steps=[Step()],  # type: ignore[list-item]
        execute_step_args="arguments",  # type: ignore[arg-type]
        dagster_run=Run(),  # type: ignore[arg-type]
    )
    changed: Any = ContextWithTags(context, {"trt_engine": {"b": "2"}})
    assert changed.step_tags == {"trt_engine": {"b": "2"}}
    assert {name: value for name, value in vars(changed).items() if name != "_tags"} == vars(context), (
        f"dagster {dg.__version__} changed StepHandlerContext, which har_assets uses to give a step other needs."
    )


# Classes that are extended: what is overridden has the signature of the parent.


def overridden(child: type, parent: type) -> list[str]:
    return [
        name
        for name, value in vars(child).items()
        if name in dir(parent)
        and name not in dir(object)
        and isinstance(value, (property, classmethod, staticmethod))
        | (inspect.isfunction(value) and not name.startswith("__"))
    ]


def extended() -> list[tuple[type, type, set[str]]]:
    """Class, parent, and the members of the parent that it is to override."""
    from har_assets.graph import dagster_private
    from har_assets.graph.automation import ContinuingSensor
    from har_assets.graph.running.executor import SurvivingExecutor
    from har_assets.graph.running.ray_executor import ContextWithTags, NodeExecutor

    return [
        (SurvivingExecutor, dg.Executor, {"retries", "step_dependency_config", "execute"}),
        (NodeExecutor, dagster_private.StepDelegatingExecutor, {"log_failure_or_retry_event_after_error"}),
        (ContextWithTags, dagster_private.StepHandlerContext, {"step_tags"}),
        (ContinuingSensor, dg.AutomationConditionSensorDefinition, {"evaluate_tick", "required_resource_keys"}),
    ]


def test_what_is_overridden_exists_in_the_parent_and_has_its_parameters() -> None:
    for child, parent, members in extended():
        assert set(overridden(child, parent)) == members, (
            f"dagster {dg.__version__} renamed a member of {parent.__name__}, which {child.__name__} overrides."
        )
        for name in members:
            ours, theirs = inspect.getattr_static(child, name), inspect.getattr_static(parent, name)
            assert isinstance(ours, property) == isinstance(theirs, property), f"{parent.__name__}.{name}"
            if inspect.isfunction(ours):
                wanted, has = (list(inspect.signature(inspect.unwrap(one)).parameters) for one in (theirs, ours))
                assert has == wanted, (
                    f"dagster {dg.__version__} changed the parameters of {parent.__name__}.{name} to {wanted}, which "
                    f"{child.__name__} overrides."
                )


def test_the_executor_of_ray_is_made_with_parameters_that_its_parent_takes() -> None:
    from har_assets.graph.dagster_private import CheckStepHealthResult, StepDelegatingExecutor

    named = ("retries", "check_step_health_interval_seconds", "should_verify_step")
    assert takes(inspect.signature(StepDelegatingExecutor.__init__), 2, named)
    assert takes(inspect.signature(CheckStepHealthResult.unhealthy), 1, ())


# Nobody else.


def product_modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != MODULE)


def private_uses(text: str) -> list[str]:
    """Private modules of Dagster that a source file imports, and private names that it takes from `dg`."""
    uses = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            uses += [alias.name for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module:
            uses += [path for alias in node.names if is_private(path := f"{node.module}.{alias.name}")]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of_dagster = node.value.id in ("dg", "dagster", "instance") or node.value.id.endswith("context")
            uses += [f"{node.value.id}.{node.attr}"] if of_dagster and node.attr.startswith("_") else []
    return uses


@pytest.mark.parametrize(
    "text",
    [
        "import dagster._core.errors",
        "from dagster._core.events import EngineEventData",
        "from dagster import _check",
        "from dagster_shared.error import SerializableErrorInfo",
        "def f():\n    import dagster_shared",
        "import dagster as dg\ndg._check.failed('')",
        "def f(context):\n    return context._plan_context",
    ],
)
def test_a_private_use_is_seen(text: str) -> None:
    assert len(private_uses(text)) == 1


def test_no_other_module_imports_what_is_private_in_dagster() -> None:
    uses = {path: found for path in product_modules() if (found := private_uses(path.read_text()))}
    assert not uses, f"{uses}: import it in har_assets/graph/dagster_private.py, with the reason."


def test_no_other_module_calls_methods_that_are_not_public() -> None:
    wrapped = {call.method.rpartition(".")[2] for call in CALLS} - {*FUNCTIONS, "engine_event"}
    wrapped |= {"event_log_storage", "run_storage", "step_failure_data", "job_code_origin", "asset_layer"}
    calls = {
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.attr}"
        for path in product_modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in wrapped
    }
    assert not calls, f"{sorted(calls)}: har_assets/graph/dagster_private.py has a function for each."


def test_every_public_name_that_is_taken_from_dagster_exists() -> None:
    """mypy does not see one that is missing, as `dagster` has a `__getattr__`."""
    missing = {
        f"{path.relative_to(PACKAGE)}:{node.lineno}: dg.{node.attr}"
        for path in [*product_modules(), MODULE]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "dg"
        and not hasattr(dg, node.attr)
    }
    assert not missing
