"""The whole pipeline by real `dagster` commands in project folders of their own."""

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest

from har_assets import defs
from har_assets.runtime import open_model
from har_assets_tests.project import REPOSITORY, Project, log_of, materialize_here


@pytest.fixture
def sample(sample_road: Project) -> Project:
    """The pipeline on the built-in sample, made once for all tests."""
    return sample_road


def test_the_engine_and_its_sidecar_are_there(sample: Project) -> None:
    artifact = sample.latest("trt_engine")
    assert artifact.file("video_action_model.engine").stat().st_size > 100_000
    sidecar = json.loads(artifact.file("video_action_model.engine.json").read_text())
    assert sidecar["provenance"]["dataset"] == "sample"
    assert sidecar["provenance"]["synthetic"] is True
    assert sidecar["onnx_sha256"] == sample.latest("onnx_model").record.files["video_action_model.onnx"]["sha256"]


def test_the_engine_alone_can_be_selected_afterwards(sample: Project) -> None:
    done = sample.materialize("trt_engine")
    assert done.returncode == 0
    assert "trt_engine is unchanged" in log_of(done)


def test_test_predictions_are_good_and_complete(sample: Project) -> None:
    artifact = sample.latest("test_predictions")
    assert artifact.record.metadata["top1"] >= 0.8  # three seeds of benchmarks/compare_recipes.py: 1.0
    assert artifact.record.metadata["windows"] >= 2
    with artifact.file("test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 80
    assert {"clip", "label", "correct", "runtime", "label_1", "score_1", "label_5", "score_5"} <= rows[0].keys()
    right = np.mean([row["label"] == row["label_1"] for row in rows])
    assert right == pytest.approx(artifact.record.metadata["top1"])
    assert artifact.file("test_confusion.png").read_bytes().startswith(b"\x89PNG")


def test_lineage_runs_from_the_data_to_the_engine(sample: Project) -> None:
    version = sample.latest("video_clips").record.data_version
    assert f"md5: {version}" in (sample.folder / "data.dvc").read_text()
    for asset in ("frame_cache", "trained_checkpoint", "onnx_model", "trt_engine"):
        lineage = sample.latest(asset).record.lineage
        assert (lineage["data_version"], lineage["split"], lineage["dataset"]) == (version, 1, "sample")
    checkpoint = open_model(sample.latest("trained_checkpoint").file("video_action_model.ckpt"))
    assert (checkpoint.provenance.data_version, checkpoint.provenance.split) == (version, 1)


def test_the_sample_is_the_committed_one_on_this_machine_too(sample: Project) -> None:
    assert (sample.folder / "data.dvc").read_text() == (REPOSITORY / "data.dvc").read_text()


def test_mlflow_has_one_run_for_the_lineage_and_it_is_finished(sample: Project) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{sample.folder}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [run.info.run_id for run in runs] == [sample.latest("trt_engine").record.lineage["mlflow_run_id"]]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.tags["data_version"] == sample.latest("video_clips").record.data_version
    for step in ("trained_checkpoint", "onnx_model", "trt_engine"):
        assert runs[0].data.tags[f"step.{step}"].startswith("FINISHED http://127.0.0.1:3000/runs/")
        assert sample.latest(step).record.metadata["mlflow_run"].startswith(runs[0].info.run_id)
    files = {file.path for file in client.list_artifacts(runs[0].info.run_id)}
    assert {"model.ckpt", "curves.png", "video_action_model.onnx", "video_action_model.engine"} <= files
    assert list((sample.folder / "mlflow_outbox").iterdir()) == []


def test_an_unchanged_pipeline_is_not_built_again_and_force_builds_it(sample: Project) -> None:
    def versions() -> dict[str, list[str]]:
        root = sample.folder / "artifacts"
        return {asset.name: sorted(path.name for path in asset.iterdir()) for asset in sorted(root.iterdir())}

    before = versions()
    started = time.monotonic()
    done = sample.materialize("+key:trt_engine")
    assert done.returncode == 0
    assert time.monotonic() - started < 90
    assert versions() == before
    assert materialize_here(sample, "key:trt_engine", {"trt_engine": {"force": True}}) == []
    assert len(versions()["trt_engine"]) == len(before["trt_engine"]) + 1


def test_har_predict_names_the_action_of_a_clip(sample: Project) -> None:
    clip = next((sample.folder / "data" / "videos" / "jump").iterdir())
    bad = sample.folder / "empty.avi"
    bad.touch()
    done = sample.run("har_assets.cli", "predict", "--json", str(clip), str(bad))
    assert done.returncode == 1
    answer, refusal = map(json.loads, done.stdout.splitlines())
    assert answer["top"][0]["label"] == "jump"
    assert (refusal["video"], refusal["top"]) == (str(bad), [])
    assert "empty" in refusal["error"]
    assert str(bad) in done.stderr
    assert "Traceback" not in done.stderr
    table = sample.run("har_assets.cli", "status")
    assert table.returncode == 0
    assert "trt_engine" in table.stdout
    assert "synthetic" in table.stdout


def test_har_bench_finds_every_model_by_itself(sample: Project) -> None:
    from har_assets.cli.bench import latest_models

    found = [path.name for path in latest_models(sample.folder / "artifacts")]
    assert found == ["video_action_model.onnx", "video_action_model.ckpt", "video_action_model.engine"]


@pytest.mark.parametrize(
    ("job", "op"),
    [
        ("infer_from_onnx", "predict_from_onnx"),
        ("infer", "predict_from_checkpoint"),
        ("infer_ml_flow", "predict_from_mlflow"),
    ],
)
def test_inference_jobs_predict_a_video_by_its_path(sample: Project, job: str, op: str) -> None:
    clip = next((sample.folder / "data" / "videos" / "pullup").iterdir())
    result = defs.resolve_job_def(job).execute_in_process(
        run_config={
            "ops": {op: {"config": {"video": str(clip)}}},
            "resources": {
                "store": {"config": {"project": str(sample.folder)}},
                **({"mlflow": {"config": {}}} if job == "infer_ml_flow" else {}),
            },
        }
    )
    (output,) = result.get_step_success_events()
    assert output.step_key == op
    outputs = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    assert outputs[0].event_specific_data.metadata["answer"].value.startswith("pullup")


def test_a_different_split_downstream_is_refused(sample: Project) -> None:
    assert materialize_here(sample, "key:test_manifest", {"manifests": {"split": 2}}) == []
    (refusal,) = materialize_here(sample, "key:onnx_model", {})
    assert "test_manifest was made with split 2, trained_checkpoint with 1" in refusal
    assert materialize_here(sample, "key:test_manifest", {"manifests": {"split": 1}}) == []
    assert materialize_here(sample, "key:onnx_model", {}) == []


def test_a_selection_of_nothing_is_refused_where_dagster_would_build_everything(tmp_path: Path) -> None:
    done = Project.make(tmp_path).materialize("+key:trt_engin")
    assert done.returncode != 0
    assert "The selection matches no asset: correct the name after `key:`" in log_of(done)
    assert not (tmp_path / "artifacts").exists()


def test_a_missing_upstream_names_the_asset_and_the_command(tmp_path: Path) -> None:
    done = Project.make(tmp_path).materialize("trt_engine")
    assert done.returncode != 0
    assert "Stack Trace" not in log_of(done)
    last = [line for line in log_of(done).splitlines() if "trt_engine failed: " in line][-1]
    assert "onnx_model has not been materialized: run `dagster asset materialize" in last
    assert not (tmp_path / "artifacts" / "trt_engine" / "latest").exists()
