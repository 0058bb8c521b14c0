"""The graph itself: what depends on what, what is a snapshot, when schedules fire."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._utils.schedules import schedule_execution_time_iterator

from har_assets import defs
from har_assets.graph.resources.store import ArtifactStore
from har_assets_tests.project import REPOSITORY

DEPENDENCIES = {
    "raw_archive": set(),
    "video_clips": {"raw_archive", "data_dvc"},
    "train_manifest": {"video_clips"},
    "val_manifest": {"video_clips"},
    "test_manifest": {"video_clips"},
    "class_index": {"video_clips"},
    "frame_cache": {"train_manifest", "val_manifest", "test_manifest"},
    "pretrained_weights": set(),
    "trained_checkpoint": {"frame_cache", "train_manifest", "val_manifest", "class_index", "pretrained_weights"},
    "onnx_model": {"trained_checkpoint", "frame_cache", "test_manifest", "val_manifest", "train_manifest"},
    "trt_engine": {"onnx_model", "frame_cache", "test_manifest", "val_manifest", "train_manifest"},
    "test_predictions": {"onnx_model", "test_manifest", "frame_cache"},
    "evaluation_report": {"test_predictions", "onnx_model", "trained_checkpoint", "test_manifest", "frame_cache"},
    "runtime_benchmark": {"onnx_model", "trained_checkpoint", "trt_engine", "test_manifest", "frame_cache"},
    "serving_model": {"onnx_model"},
    "split_evaluation": {"video_clips", "class_index", "pretrained_weights"},
    "hmdb51_benchmark": {"split_evaluation"},
    "incoming_video_predictions": {"onnx_model"},
}

ORIGINAL_COMMANDS = {
    "download_data",
    "train_ml_flow",
    "train_ml_flow_dvc",
    "export_onnx",
    "convert_trt",
    "index_to_class",
    "infer_from_onnx",
    "infer_ml_flow",
    "infer",
    "train_ml_flow_server_dvc",
}


def test_the_graph_is_that_of_the_design() -> None:
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.materializable_asset_keys
    }
    assert found == DEPENDENCIES


def test_every_asset_is_described_grouped_and_versioned() -> None:
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.group_name in {"dataset", "training", "deployment", "evaluation", "inference"}, spec.key
        assert spec.code_version or spec.key.to_user_string() == "data_dvc", spec.key  # a source has no code
        assert spec.kinds, spec.key


def test_each_command_of_the_original_project_has_a_job() -> None:
    names = {job.name for job in defs.resolve_all_job_defs()}
    assert names >= ORIGINAL_COMMANDS


def test_what_uses_the_gpu_shares_one_pool() -> None:
    pools = {name: defs.resolve_assets_def(name).op.pool for name in DEPENDENCIES}
    assert {name for name, pool in pools.items() if pool == "gpu"} == {
        "trained_checkpoint",
        "onnx_model",
        "trt_engine",
        "test_predictions",
        "evaluation_report",
        "runtime_benchmark",
        "serving_model",
        "split_evaluation",
        "incoming_video_predictions",
    }


def test_schedules_are_off_and_fire_when_they_say() -> None:
    expected = {
        "weekly_retraining": "2026-11-23T03:00",
        "nightly_evaluation": "2026-11-19T02:00",
        "weekly_pruning": "2026-11-22T05:00",
    }
    for name, first in expected.items():
        schedule = defs.resolve_schedule_def(name)
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
        start = datetime(2026, 11, 18, 12, tzinfo=UTC).timestamp()
        ticks = schedule_execution_time_iterator(start, schedule.cron_schedule, schedule.execution_timezone)
        assert next(ticks).isoformat().startswith(first)


def test_the_nightly_evaluation_asks_for_a_new_evaluation(tmp_path: Path) -> None:
    schedule = defs.resolve_schedule_def("nightly_evaluation")
    with dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 11, 18, 2, tzinfo=UTC),
        repository_def=defs.get_repository_def(),
        resources={"store": ArtifactStore(project=str(tmp_path))},
    ) as context:
        requests = schedule.evaluate_tick(context).run_requests
    assert requests is not None
    assert requests[0].run_config["ops"]["test_predictions"]["config"] == {"force": True}


def test_the_launchpad_describes_every_option() -> None:
    described = 0
    for job in defs.resolve_all_job_defs():
        for node in job.all_node_defs:
            fields = getattr(node.config_field and node.config_field.config_type, "fields", {})  # type: ignore[attr-defined]
            for name, field in fields.items():
                assert field.description, f"{node.name}.{name}"
                described += 1
    assert described > 100


@pytest.mark.parametrize("preset", sorted((REPOSITORY / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_configurations_of_the_whole_pipeline(preset: Path) -> None:
    job = defs.resolve_job_def("whole_road")
    assert dg.validate_run_config(job, yaml.safe_load(preset.read_text()))


def test_fields_of_the_training_configuration_reach_the_training() -> None:
    from har_assets.graph.assets.training import TrainingConfig
    from har_assets.model.recipe import TrainingOptions
    from har_assets.training.request import TrainingRequest

    spec = {"network", "num_frames", "frame_height", "frame_width"}
    assert set(TrainingConfig.model_fields) == {*TrainingOptions.model_fields, *spec, "pretrained", "force"}
    assert set(TrainingOptions.model_fields) <= set(TrainingRequest.model_fields)


def test_loading_the_graph_warns_of_nothing_that_it_uses() -> None:
    """`dg check defs` shows no warnings: what is beta, or on its way out, is named here."""
    code = (
        "import json, warnings\n"
        "with warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always')\n"
        "    from har_assets import defs\n"
        "    defs.get_repository_def()\n"
        "print(json.dumps([[entry.filename, entry.category.__module__, str(entry.message)] for entry in found]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [
        message
        for file, kind, message in json.loads(done.stdout.splitlines()[-1])
        # Dagster's own kinds name what we call, whatever frame they are raised in.
        if kind.startswith("dagster") or "/har_assets/" in file
    ]
    assert ours == []


@pytest.mark.slow
def test_dg_check_defs_fails_for_a_graph_that_lacks_a_resource(tmp_path: Path) -> None:
    """The command of `make lint`, for a copy of the graph without the resource `dvc`."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n'
        '[tool.dg.project]\nroot_module = "broken"\ncode_location_target_module = "broken.definitions"\n'
    )
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/__init__.py").touch()
    (tmp_path / "broken/definitions.py").write_text(
        "import dagster as dg\n"
        "from har_assets.definitions import ASSETS, RESOURCES\n"
        "defs = dg.Definitions(assets=ASSETS, resources={n: r for n, r in RESOURCES.items() if n != 'dvc'})\n"
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("dg"), "check", "defs"],
        cwd=tmp_path,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "resource with key 'dvc' required by op 'raw_archive' was not provided" in done.stdout + done.stderr
