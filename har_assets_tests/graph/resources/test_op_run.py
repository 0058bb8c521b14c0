"""Ops written for dagster-mlflow, on the resource `mlflow`: a real MLflow server, steps in one or several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from har_assets import settings
from har_assets.errors import HarError
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.op_run import OPS_TAG
from har_assets.tracking.client import client_of
from har_assets.tracking.outbox import settle
from har_assets.tracking.tags import LINEAGE_TAG
from har_assets_tests.graph.resources import tracked_ops
from har_assets_tests.graph.resources.tracked_ops import PARAMS
from har_assets_tests.mlflow_server import MlflowServer, files_of, steps_of
from har_assets_tests.project import REPOSITORY

IN_PROCESS = {"execution": {"config": {"in_process": {}}}}
SEVERAL_PROCESSES = {"execution": {"config": {"multiprocess": {"max_concurrent": 4}}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project folder; MLflow is left in this process as it was found."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # step processes lose the first place, and with it the jobs of these tests
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    assert mlflow.active_run() is None
    mlflow.set_tracking_uri(None)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        yield made


def configured(config: dict[str, Any], executor: dict[str, Any] = IN_PROCESS, **ops: dict[str, Any]) -> dict[str, Any]:
    return {
        **executor,
        "resources": {"mlflow": {"config": config}},
        "ops": {name: {"config": behaviour} for name, behaviour in ops.items()},
    }


def execute(job: Any, instance: dg.DagsterInstance, run_config: dict[str, Any]) -> dg.JobExecutionResult:
    return dg.execute_job(dg.reconstructable(job), instance, run_config=run_config, raise_on_error=False)


def runs_of(server: MlflowServer, experiment: str) -> list[Any]:
    client = client_of(server.uri)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def only(server: MlflowServer, experiment: str) -> Any:
    runs = runs_of(server, experiment)
    assert len(runs) == 1, [run.info for run in runs]
    return runs[0]


def wait_for(condition: Any, what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_an_op_written_for_dagster_mlflow_runs_unchanged(
    server: MlflowServer, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE", "har:1")
    found = {}
    for name, job in (("theirs", tracked_ops.of_dagster_mlflow), ("ours", tracked_ops.ours)):
        config = {
            "experiment_name": name,
            "mlflow_tracking_uri": server.uri,
            "env": {"OF_MLFLOW": name},
            "env_to_tag": ["IMAGE", "OF_MLFLOW"],
            "extra_tags": {"team": "vision", "number": 7},
        }
        assert execute(job, instance, configured(config)).success
        run = only(server, name)
        assert run.info.status == "FINISHED"
        assert run.info.run_name == "tracked"
        assert run.data.tags.pop("OF_MLFLOW") == name
        assert run.data.tags.pop("dagster_run_id")
        assert steps_of(server.uri, run.info.run_id, "loss") == [0, 1, 2]
        assert files_of(server.uri, run.info.run_id) == {"classes.json"}
        found[name] = run.data
    assert found["ours"].params == found["theirs"].params == PARAMS
    assert found["ours"].metrics == found["theirs"].metrics == {"loss": 1 / 3, "sum": 3.0}
    assert found["theirs"].tags.keys() >= {"mlflow.user", "mlflow.runName", "prepared", "IMAGE", "team", "number"}
    assert found["theirs"].tags.items() - found["ours"].tags.items() == set()
    states = {name: text.split()[0] for name, text in found["ours"].tags.items() if name.startswith("step.")}
    assert states == {"step.prepare": "FINISHED", "step.measure": "FINISHED", "step.conclude": "FINISHED"}
    assert [path.name for path in Path("mlflow_outbox").iterdir()] == [".ops.lock"]


def test_ops_that_start_at_once_in_processes_of_their_own_share_a_run(
    server: MlflowServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    config = {"experiment": "several", "tracking_uri": server.uri}
    for _ in range(2):
        for name in ("a", "b"):
            (tmp_path / name).unlink(missing_ok=True)
        behaviour = {
            "prepare": {"says": str(tmp_path / "a"), "waits_for": str(tmp_path / "b")},
            "measure": {"says": str(tmp_path / "b"), "waits_for": str(tmp_path / "a")},
        }
        result = execute(tracked_ops.ours, instance, configured(config, SEVERAL_PROCESSES, **behaviour))
        assert result.success
        (run,) = [run for run in runs_of(server, "several") if run.data.tags[OPS_TAG] == result.run_id]
        assert run.info.status == "FINISHED"
        assert (run.data.params, run.data.metrics) == (PARAMS, {"loss": 1 / 3, "sum": 3.0})


@pytest.mark.parametrize("executor", [IN_PROCESS, SEVERAL_PROCESSES], ids=["in_process", "multiprocess"])
def test_a_run_with_a_failed_op_has_failed_whatever_ends_after_it(
    server: MlflowServer, instance: dg.DagsterInstance, executor: dict[str, Any]
) -> None:
    experiment = f"failed {next(iter(executor['execution']['config']))}"
    config = {"experiment_name": experiment, "mlflow_tracking_uri": server.uri}
    # With the hook of dagster-mlflow, which ends the run at the failure, and again at the last op.
    result = execute(tracked_ops.ours_with_the_hook, instance, configured(config, executor, measure={"fails": True}))
    assert not result.success
    run = only(server, experiment)
    assert run.info.status == "FAILED"
    assert run.data.tags["step.measure"].startswith("FAILED")
    assert run.data.tags["step.stand_alone"].startswith("FINISHED")
    assert run.data.metrics == {"loss": 1 / 3, "alone": 1.0}
    assert run.data.params == PARAMS
    assert "step.untracked" not in run.data.tags


def test_an_op_that_succeeds_the_second_time_leaves_a_finished_run(
    server: MlflowServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    config = {"experiment": "again", "tracking_uri": server.uri}
    behaviour = {"measure": {"fails_once": str(tmp_path / "failed")}}
    assert execute(tracked_ops.ours, instance, configured(config, SEVERAL_PROCESSES, **behaviour)).success
    assert only(server, "again").info.status == "FINISHED"


def test_a_killed_op_leaves_a_killed_run_as_soon_as_anybody_looks(
    server: MlflowServer, instance: dg.DagsterInstance, project: Path
) -> None:
    config = {"experiment": "killed", "tracking_uri": server.uri}
    assert not execute(
        tracked_ops.ours, instance, configured(config, SEVERAL_PROCESSES, measure={"dies": True})
    ).success
    assert only(server, "killed").info.status == "RUNNING"
    settle(project / "mlflow_outbox")
    run = only(server, "killed")
    assert run.info.status == "KILLED"
    assert run.data.tags["step.measure"].startswith("KILLED")
    assert run.data.tags["step.prepare"].startswith("FINISHED")


def test_an_op_that_is_stopped_leaves_a_killed_run(
    server: MlflowServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    config = {"experiment": "stopped", "tracking_uri": server.uri}
    behaviour = {"measure": {"hangs": True, "says": str(tmp_path / "at_work")}}
    (tmp_path / "config.yaml").write_text(json.dumps(configured(config, IN_PROCESS, **behaviour)))
    module = "har_assets_tests.graph.resources.tracked_ops"
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", module, "-a", "ours", "-c", "config.yaml"]
    environment = {**os.environ, "DAGSTER_HOME": instance.root_directory, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for((tmp_path / "at_work").exists, "the op does not start")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    run = only(server, "stopped")
    assert run.info.status == "KILLED"
    assert run.data.tags["step.measure"].startswith("KILLED")


def test_the_run_of_ops_is_never_that_of_a_training(server: MlflowServer, instance: dg.DagsterInstance) -> None:
    client = client_of(server.uri)
    experiment = client.create_experiment("beside")
    run_id = "0c1d0000-0000-0000-0000-000000000000"
    training = client.create_run(experiment, tags={LINEAGE_TAG: "a", "dagster_run_id": run_id}).info.run_id
    client.set_terminated(training)
    before = client.get_run(training)

    def with_(**more: str) -> dg.JobExecutionResult:
        config = {"experiment": "beside", "tracking_uri": server.uri, **more}
        result = tracked_ops.ours().execute_in_process(
            configured(config, {}), instance, raise_on_error=False, run_id=run_id
        )
        instance.delete_run(run_id)
        return result

    def sentence(result: Any) -> str:
        (failure, *_) = [event for event in result.all_events if event.is_step_failure]
        return str(failure.step_failure_data.error.cause.message)

    refused = with_(mlflow_run_id=training)
    assert f"mlflow_run_id of mlflow names {training}, the run of a training" in sentence(refused)
    assert with_(parent_run_id=training).success
    (own,) = [run for run in runs_of(server, "beside") if run.info.run_id != training]
    assert own.data.tags["mlflow.parentRunId"] == training
    assert own.info.status == "FINISHED"
    after = client.get_run(training)
    assert after.to_dictionary() == before.to_dictionary()

    chosen = client.create_run(experiment).info.run_id
    assert with_(mlflow_run_id=chosen).success
    assert client.get_run(chosen).data.params == PARAMS


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("", "MLflow is off, and this op uses it: give the resource mlflow a tracking_uri."),
        (
            "http://127.0.0.1:9",
            "MLflow at http://127.0.0.1:9 does not open a run for this op ([Errno 111] ",
        ),
    ],
)
def test_without_a_server_an_op_fails_in_one_sentence(instance: dg.DagsterInstance, uri: str, sentence: str) -> None:
    result = tracked_ops.ours().execute_in_process(
        configured({"tracking_uri": uri}, {}), instance, raise_on_error=False
    )
    reasons = [event.step_failure_data.error.cause.message for event in result.all_events if event.is_step_failure]
    assert reasons
    assert all(sentence in reason for reason in reasons), reasons


def test_an_alias_and_its_option_are_one() -> None:
    resource = MlflowTracking(mlflow_tracking_uri="http://a", experiment_name="theirs")
    assert (resource.tracking_uri, resource.experiment) == ("http://a", "theirs")
    assert MlflowTracking(mlflow_tracking_uri="http://a", tracking_uri="http://a").tracking_uri == "http://a"
    with pytest.raises(HarError, match="tracking_uri and mlflow_tracking_uri of mlflow differ and mean the same"):
        MlflowTracking(mlflow_tracking_uri="http://a", tracking_uri="http://b")


def resource_in_a_run(resource: MlflowTracking, config: dict[str, Any]) -> tuple[str, str]:
    """Tracking address and experiment of the resource as an op gets it, which uses neither."""
    seen = []

    @dg.op
    def look(mlflow: MlflowTracking) -> None:
        seen.append((mlflow.tracking_uri, mlflow.experiment))

    @dg.job(resource_defs={"mlflow": resource})
    def looking() -> None:
        look()

    looking.execute_in_process({"resources": {"mlflow": {"config": config}}} if config else {})
    return seen[0]


def test_an_alias_holds_in_code_and_in_a_run() -> None:
    aliases = {"mlflow_tracking_uri": "http://a", "experiment_name": "theirs"}
    assert resource_in_a_run(MlflowTracking(**aliases), {}) == ("http://a", "theirs")
    assert resource_in_a_run(MlflowTracking(), aliases) == ("http://a", "theirs")
    in_code = MlflowTracking(mlflow_tracking_uri=dg.EnvVar("SOME_SERVER"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_SERVER", "http://b")
        assert resource_in_a_run(in_code, {}) == ("http://b", "har_assets")


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "PYTHONPATH", "HAR_ALLOWED_FOLDERS"])
def test_env_leaves_what_runs_alone(name: str) -> None:
    with pytest.raises(HarError, match=f"env of mlflow must not set {name}: "):
        MlflowTracking(env={"MLFLOW_S3_ENDPOINT_URL": "http://s3", name: "x"})


@pytest.mark.parametrize("option", [{"env": {"AWS_PROFILE": "x"}}, {"env_to_tag": ["PGPASSWORD"]}])
def test_a_deployment_with_borders_takes_no_environment(
    option: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MlflowTracking(**option)
    monkeypatch.setenv(settings.ALLOWED_FOLDERS, "")
    with pytest.raises(HarError, match=f"{next(iter(option))} of mlflow must not be set in this deployment"):
        MlflowTracking(**option)
