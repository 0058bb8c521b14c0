"""What is asked for by itself: ticks of the automation conditions, their configuration, times of the schedules."""

import asyncio
import runpy
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.freshness_evaluator import FRESHNESS_EVALUATORS_BY_POLICY_TYPE
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import freeze_time
from dagster._utils.schedules import schedule_execution_time_iterator

from har_assets import defs, settings
from har_assets.errors import HarError
from har_assets.graph import automation, schedules
from har_assets.graph.asset import A_WEEK_OLD
from har_assets.graph.automation import last_configuration
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.stage import STAGES
from har_assets_tests.project import Project, execute_here, make_own_videos, materialize_here

NOON = datetime(2026, 11, 18, 12, 0, 30, tzinfo=UTC)


class World:
    """The graph without its work: what Dagster is told of, and what it asks for then."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: Any = None
        # After all events, which have the time at which they are told.
        self.now = datetime.now(UTC).replace(minute=0, second=30, microsecond=0) + timedelta(hours=1)

    def made(self, *assets: str, version: str) -> None:
        """Each asset was materialized and has this data version."""
        for asset in assets:
            tags = {"dagster/data_version": version}
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, tags=tags))

    def observed(self, asset: str, version: str) -> None:
        """A source was looked at."""
        tags = {"dagster/data_version": version}
        self.instance.report_runless_asset_event(dg.AssetObservation(asset, tags=tags))

    def tick(self, after: timedelta = timedelta(minutes=1)) -> set[str]:
        """The assets that are asked for now."""
        self.now += after
        result = dg.evaluate_automation_conditions(defs, self.instance, cursor=self.cursor, evaluation_time=self.now)
        self.cursor = result.cursor
        return {key.to_user_string() for entry in result.results if entry.true_subset.size for key in [entry.key]}

    def everything_made(self) -> None:
        """All assets as of version 1, seen by a first tick."""
        graph = defs.resolve_asset_graph()
        for key in graph.toposorted_asset_keys:
            name = key.to_user_string()
            if graph.get(key).is_partitioned:
                continue
            self.made(name, version="1") if graph.get(key).is_materializable else self.observed(name, "1")
        assert self.tick() == set()


@pytest.fixture
def world() -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(instance)


def expected(*names: str) -> set[str]:
    """Those of the names that the graph has."""
    known = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    return set(names) & known


def test_an_empty_project_stays_empty(world: World) -> None:
    world.tick()
    world.observed("data_dvc", "untracked")
    assert world.tick() == set()
    for _ in range(3):
        assert world.tick(timedelta(hours=1)) == {"data_dvc"}  # looked at; nothing is made
        assert world.tick() == set()


def test_new_data_goes_on_to_the_frames_and_no_further(world: World) -> None:
    world.everything_made()
    world.made("video_clips", version="2")
    first = {"train_manifest", "val_manifest", "test_manifest", "class_index"}
    assert world.tick() == first
    assert world.tick() == set(), "asked for twice"
    world.made(*first - {"class_index"}, version="2")
    world.made("class_index", version="1")  # the same classes
    assert world.tick() == {"frame_cache"}
    world.made("frame_cache", version="2")
    # The model on these data is not trained yet, and the old one must not meet them.
    assert world.tick() == set()


def test_engine_predictions_and_all_that_is_deployed_follow_a_new_model(world: World) -> None:
    world.everything_made()
    world.made("trained_checkpoint", version="2")
    assert world.tick() == {"onnx_model"}
    world.made("onnx_model", version="2")
    assert world.tick() == expected("trt_engine", "test_predictions", "serving_model")
    world.made("trt_engine", "test_predictions", version="2")
    assert world.tick() == expected("evaluation_report")


def test_what_came_out_the_same_sets_nothing_off(world: World) -> None:
    world.everything_made()
    world.made("raw_archive", "video_clips", "train_manifest", "trained_checkpoint", "onnx_model", version="1")
    assert world.tick() == set()


def test_a_change_of_any_asset_comes_to_rest(world: World) -> None:
    world.everything_made()
    for number, changed in enumerate(["raw_archive", "video_clips", "trained_checkpoint", "onnx_model"], start=2):
        world.made(changed, version=str(number))
        asked: list[str] = []
        for _ in range(10):
            wanted = world.tick()
            if not wanted:
                break
            asked += sorted(wanted)
            world.made(*wanted, version=str(number))
        assert world.tick() == set(), "it fires without an end"
        assert asked, changed
        assert len(asked) == len(set(asked)), f"{changed}: asked for twice: {asked}"
        assert "raw_archive" not in asked
        assert "trained_checkpoint" not in asked


def test_a_run_that_failed_is_not_asked_for_again(world: World) -> None:
    world.everything_made()
    world.made("onnx_model", version="2")
    assert "trt_engine" in world.tick()
    for _ in range(5):  # nothing was made
        assert world.tick() == set()


def test_nothing_is_asked_for_while_a_run_makes_it_or_its_input(world: World) -> None:
    world.everything_made()
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={dg.AssetKey("onnx_model")})
    run = world.instance.create_run_for_job(
        job, asset_selection=frozenset({dg.AssetKey("onnx_model")}), status=dg.DagsterRunStatus.STARTED
    )
    for key in run.asset_selection or ():
        planned = dg.DagsterEvent.build_asset_materialization_planned_event("whole_road", "onnx_model", _planned(key))
        world.instance.report_dagster_event(planned, run.run_id)
    world.made("trained_checkpoint", version="2")
    assert world.tick() == set()
    world.instance.report_run_failed(run)
    assert world.tick() == {"onnx_model"}


def _planned(key: dg.AssetKey) -> Any:
    from dagster._core.events import AssetMaterializationPlannedData

    return AssetMaterializationPlannedData(key)


def test_a_changed_data_dvc_is_noticed_within_the_hour_and_unpacked_once(world: World) -> None:
    world.everything_made()
    assert world.tick(timedelta(hours=1)) == {"data_dvc"}
    world.observed("data_dvc", "1")
    assert world.tick() == set()
    assert world.tick(timedelta(hours=1)) == {"data_dvc"}
    world.observed("data_dvc", "2")
    assert world.tick() == {"video_clips"}
    world.observed("data_dvc", "2")
    world.made("video_clips", version="2")
    assert "video_clips" not in world.tick()


def test_a_video_clips_that_has_itself_written_data_dvc_is_not_made_again(world: World) -> None:
    world.everything_made()
    world.observed("data_dvc", "2")
    world.made("video_clips", version="2")
    assert "video_clips" not in world.tick()
    assert "video_clips" not in world.tick()


def test_conditions_and_freshness_are_on_the_assets_that_are_said_to_have_them() -> None:
    graph = defs.resolve_asset_graph()
    follows = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition}
    assert follows == expected(*(name for name, stage in STAGES.items() if stage.follows), "data_dvc")
    for name in expected(*(name for name, stage in STAGES.items() if stage.follows)):
        parents = {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys}
        assert set(STAGES[name].follows) <= parents, name
    weekly = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs() if spec.freshness_policy}
    assert weekly == {name for name, stage in STAGES.items() if stage.weekly} != set()
    assert {spec.freshness_policy for spec in defs.resolve_all_asset_specs()} == {A_WEEK_OLD, None}
    pipeline = defs.resolve_job_def("whole_road").asset_layer.selected_asset_keys
    assert {dg.AssetKey(name) for name in weekly} <= pipeline, "nothing renews it weekly"


def test_what_was_not_made_for_eight_and_fifteen_days_is_shown_so(world: World) -> None:
    """By the evaluator that Dagster's daemon asks every 30 seconds."""
    evaluator = FRESHNESS_EVALUATORS_BY_POLICY_TYPE[type(A_WEEK_OLD)]()
    graph = defs.resolve_asset_graph()

    def after(days: float, asset: str = "trained_checkpoint") -> FreshnessState:
        with freeze_time(datetime.now(UTC) + timedelta(days=days)):
            loading = LoadingContextForTest(world.instance)
            return asyncio.run(evaluator.evaluate_freshness(loading, graph.get(dg.AssetKey(asset))))

    assert world.instance.freshness_enabled
    assert after(0) == FreshnessState.UNKNOWN
    world.made("trained_checkpoint", version="1")
    assert [after(days) for days in (0, 7, 8.1, 14.9, 15.1)] == [
        FreshnessState.PASS,
        FreshnessState.PASS,
        FreshnessState.WARN,
        FreshnessState.WARN,
        FreshnessState.FAIL,
    ]
    world.made("trained_checkpoint", version="1")  # confirmed by a retraining that found nothing new
    assert after(0) == FreshnessState.PASS


def test_nothing_starts_a_run_before_it_is_switched_on() -> None:
    repository = defs.get_repository_def()
    on = {sensor.name for sensor in repository.sensor_defs if sensor.default_status == dg.DefaultSensorStatus.RUNNING}
    assert on == {"dead_run_sensor"}  # marks runs of dead processes; starts none
    assert {schedule.default_status for schedule in repository.schedule_defs} == {dg.DefaultScheduleStatus.STOPPED}


def test_sensors_and_schedules_say_what_they_do_and_cost() -> None:
    repository = defs.get_repository_def()
    for automatic in (*repository.sensor_defs, *repository.schedule_defs):
        assert automatic.description, automatic.name
        assert "cost" in automatic.description.lower(), automatic.name


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path]:
    """Someone's own classes up to the frames, with a configuration that is not the default."""
    folder = tmp_path_factory.mktemp("configured")
    project, own = Project.make(folder / "project"), make_own_videos(folder / "own")
    config = {
        "raw_archive": {"source": str(own)},
        "video_clips": {"dvc": "off"},
        "manifests": {"seed": 3, "val_fraction": 0.2},
        "frame_cache": {"height": 24, "width": 32, "force": True},
    }
    assert materialize_here(project, "+key:frame_cache", config) == []
    return project, own


def test_automatic_runs_go_on_with_the_last_configuration(
    configured: tuple[Project, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = configured
    monkeypatch.chdir(project.folder)
    repository = defs.get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(instance)
        world.everything_made()

        def tick(cursor: str | None) -> Any:
            resources = {"store": ArtifactStore()}
            with dg.build_sensor_context(instance, cursor, repository_def=repository, resources=resources) as context:
                return automation.automation_sensor.evaluate_tick(context)

        cursor = tick(None).cursor
        world.made("train_manifest", version="2")
        asked = tick(cursor)
    requests = {request.asset_selection[0].to_user_string(): request for request in asked.run_requests}
    config = requests["frame_cache"].run_config["ops"]["frame_cache"]["config"]
    assert (config["height"], config["width"]) == (24, 32)
    assert "force" not in config
    # It is a configuration of the run that is asked for.
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={dg.AssetKey("frame_cache")})
    assert dg.validate_run_config(job, {"ops": {"frame_cache": {"config": config}}})


def test_the_weekly_retraining_leaves_a_real_data_set_in_place(
    configured: tuple[Project, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, own = configured
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("HAR_SOURCE", "sample")  # what an absent-minded environment would say
    config = run_config_of(schedules.weekly_retraining)
    assert config["ops"]["raw_archive"]["config"]["source"] == str(own)
    assert config["ops"]["manifests"]["config"] == {"seed": 3, "val_fraction": 0.2, "split": 1, "groups": "auto"}
    assert dg.validate_run_config(defs.resolve_job_def("whole_road"), config)
    before = project.latest("frame_cache")
    result = execute_here(project, "+key:frame_cache", {name: op["config"] for name, op in config["ops"].items()})
    assert result.success
    assert project.latest("video_clips").record.lineage == {
        **project.latest("video_clips").record.lineage,
        "dataset": "own",
        "synthetic": False,
    }
    assert project.latest("frame_cache").folder == before.folder, "nothing had changed"

    # With the configuration lost, the source that the project has is still the one that counts.
    assert materialize_here(project, "key:raw_archive or key:video_clips", {"video_clips": {"dvc": "off"}}) == []
    assert project.latest("raw_archive").record.metadata["source"] == str(own)


def test_a_project_that_has_nothing_is_retrained_with_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_config_of(schedules.weekly_retraining) == {}


def run_config_of(schedule: dg.ScheduleDefinition) -> dict[str, Any]:
    """What a schedule asks for in this folder."""
    with dg.build_schedule_context(
        scheduled_execution_time=NOON, repository_def=defs.get_repository_def(), resources={"store": ArtifactStore()}
    ) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()
    return dict(request.run_config)


def test_a_configuration_field_that_the_code_has_lost_is_left_out(
    configured: tuple[Project, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = configured
    record = project.latest("frame_cache").record
    monkeypatch.setitem(record.config, "colours", 3)
    monkeypatch.setattr(type(project.store), "find_latest", lambda self, name: FoundArtifact(record))
    found = last_configuration(
        ArtifactStore(project=str(project.folder)), defs.get_repository_def(), [dg.AssetKey("frame_cache")]
    )
    assert "colours" not in found["ops"]["frame_cache"]["config"]


class FoundArtifact:
    """As much of an artifact as is asked for."""

    def __init__(self, record: Any) -> None:
        self.record = record


def fire_times(zone: str, start: datetime, monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> list[datetime]:
    """When a schedule fires in a time zone."""
    monkeypatch.setenv("HAR_TIME_ZONE", zone)
    schedule = runpy.run_path(schedules.__file__)[name]
    assert schedule.execution_timezone == zone
    times = schedule_execution_time_iterator(start.timestamp(), schedule.cron_schedule, schedule.execution_timezone)
    return [next(times) for _ in range(count)]


def test_schedules_fire_by_the_clock_of_the_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Berlin leaves summer time on Sunday, 25 October 2026, at 03:00.
    start = datetime(2026, 10, 18, tzinfo=UTC)
    times = fire_times("Europe/Berlin", start, monkeypatch, "weekly_retraining", 2)
    assert [time.astimezone(UTC).isoformat() for time in times] == [
        "2026-10-19T01:00:00+00:00",
        "2026-10-26T02:00:00+00:00",
    ]
    assert fire_times("Asia/Kolkata", start, monkeypatch, "weekly_retraining", 1)[0].astimezone(UTC).hour == 21


def test_a_night_without_two_o_clock_has_its_evaluation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # On 28 March 2027 02:00 does not exist in Berlin, and there are two of them on 31 October.
    for start in (datetime(2027, 3, 26, 12, tzinfo=UTC), datetime(2027, 10, 29, 12, tzinfo=UTC)):
        times = fire_times("Europe/Berlin", start, monkeypatch, "nightly_evaluation", 4)
        days = [time.date() for time in times]
        assert len(set(days)) == 4
        assert (days[-1] - days[0]).days == 3


def test_a_time_zone_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Mars/Olympus", "../etc/passwd", "Europe"):
        monkeypatch.setenv("HAR_TIME_ZONE", name)
        with pytest.raises(HarError, match="IANA name"):
            settings.read()
    monkeypatch.setenv("HAR_TIME_ZONE", "")
    assert settings.read().time_zone == "UTC"
