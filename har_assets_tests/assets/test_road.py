"""The whole road by real `dagster` commands in project folders of their own."""

import csv
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from dagster import AssetCheckEvaluation, AssetCheckSeverity

from har_assets import defs
from har_assets_tests.conftest import write_video
from har_assets_tests.mlflow_server import only_run, steps_of
from har_assets_tests.project import REPOSITORY, Project, execute_here, log_of, materialize_here

SMALL = {"trained_checkpoint": {"epochs": 2, "batch_size": 4}}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The road on the built-in sample, from an empty store, by the command of the README."""
    project = Project.make(tmp_path_factory.mktemp("sample"))
    done = project.materialize("+key:trt_engine")
    assert done.returncode == 0, log_of(done)[-4000:]
    return project


def make_own_videos(folder: Path, clips_per_class: int = 6) -> Path:
    """Three classes of someone's own: a bar that stands still, moves right, moves down."""
    rng = np.random.default_rng(0)
    for label in ("down", "right", "still"):
        for number in range(clips_per_class):
            frames_THWC = rng.integers(0, 80, (24, 48, 64, 3), dtype=np.uint8)
            for time_step in range(24):
                place = 4 + number + time_step
                if label == "down":
                    frames_THWC[time_step, place : place + 6] = 220
                else:
                    left = place if label == "right" else 10 + number
                    frames_THWC[time_step, :, left : left + 6] = 220
            write_video(folder / label / f"{label} #{number};[a].avi", frames_THWC)
    return folder


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
    done = sample.materialize("test_predictions")
    assert done.returncode == 0, log_of(done)[-3000:]
    artifact = sample.latest("test_predictions")
    assert artifact.record.metadata["top1"] >= 0.8  # three seeds of benchmarks/sample_accuracy.py: above 0.9
    assert artifact.record.metadata["windows"] >= 2
    with artifact.file("test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 80
    assert {"clip", "label", "correct", "runtime", "label_1", "score_1", "label_5", "score_5"} <= rows[0].keys()
    right = np.mean([row["label"] == row["label_1"] for row in rows])
    assert right == pytest.approx(artifact.record.metadata["top1"])
    assert artifact.file("confusion.png").read_bytes().startswith(b"\x89PNG")


def test_lineage_runs_from_the_data_to_the_engine(sample: Project) -> None:
    version = sample.latest("video_clips").record.data_version
    assert f"md5: {version}" in (sample.folder / "data.dvc").read_text()
    for asset in ("frame_cache", "trained_checkpoint", "onnx_model", "trt_engine"):
        lineage = sample.latest(asset).record.lineage
        assert (lineage["data_version"], lineage["split"], lineage["dataset"]) == (version, 1, "sample")


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


def test_an_unchanged_road_is_not_built_again_and_force_builds_it(sample: Project) -> None:
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
    assert json.loads(done.stdout)["top"][0]["label"] == "jump"
    assert str(bad) in done.stderr
    assert "Traceback" not in done.stderr
    table = sample.run("har_assets.cli", "status")
    assert table.returncode == 0
    assert "trt_engine" in table.stdout
    assert "synthetic" in table.stdout


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


def test_the_road_on_real_clips(tmp_path: Path, shared_data: Path) -> None:
    project = Project.make(tmp_path)
    source = {
        "source": str(shared_data / "hmdb51_mini.rar"),
        "split_lists": str(shared_data / "test_train_splits.rar"),
    }
    done = project.materialize("+key:trt_engine", {"raw_archive": source, **SMALL})
    assert done.returncode == 0, log_of(done)[-4000:]
    assert project.latest("video_clips").record.metadata["clips"] == 9
    counts = {role: project.latest(f"{role}_manifest").record.metadata for role in ("train", "val", "test")}
    assert counts["train"]["clips"] + counts["val"]["clips"] == 6
    assert counts["test"]["clips"] == 2
    assert counts["test"]["unused"] == 1
    assert counts["test"]["absent"] == 6766 - 9
    assert project.latest("class_index").record.headline == "51 classes"
    assert "last epoch is kept instead of the best" in log_of(done)
    assert project.latest("trained_checkpoint").record.metadata["validated"] is False


def make_split_lists(folder: Path, videos: Path) -> Path:
    """Lists in HMDB51's format: of each class two clips test, the rest train, in all three splits."""
    folder.mkdir()
    for label in sorted(path for path in videos.iterdir()):
        names = sorted(path.name for path in label.iterdir())
        text = "".join(f"{name} {2 if number < 2 else 1} \n" for number, name in enumerate(names))
        for split in (1, 2, 3):
            (folder / f"{label.name}_test_split{split}.txt").write_text(text)
    return folder


BAD_REQUESTS: dict[str, tuple[str, dict[str, dict[str, object]], str]] = {
    "an unknown source": ("raw_archive", {"raw_archive": {"source": "kinetics"}}, "There is no source 'kinetics'"),
    "a missing archive": ("raw_archive", {"raw_archive": {"source": "/nowhere/x.rar"}}, "There is no source"),
    "missing split lists": ("raw_archive", {"raw_archive": {"split_lists": "/nowhere"}}, "There are no split lists"),
    "an unreadable archive": ("+key:video_clips", {"raw_archive": {"source": "GARBAGE"}}, "not a RAR, ZIP or TAR"),
    "an archive without videos": ("+key:video_clips", {"raw_archive": {"source": "EMPTY"}}, "video"),
    "a split outside 1..3": ("+key:test_manifest", {"raw_archive": {"split_lists": "LISTS"}, "manifests": {"split": 4}},
                             "split"),
    "an unknown dvc mode": ("+key:video_clips", {"video_clips": {"dvc": "maybe"}}, "There is no dvc mode"),
    "an unknown network": ("+key:trained_checkpoint", {"trained_checkpoint": {"network": "resnet"}},
                           "There is no network 'resnet': choose one of cnn3d"),
    "a clip larger than the frames": ("+key:trained_checkpoint", {"trained_checkpoint": {"frame_height": 500}},
                                      "cannot be cut from frames"),
    "a video that is no video": ("+key:frame_cache", {"raw_archive": {"source": "BROKEN"}}, "could be decoded"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_one_sentence_and_leaves_nothing_half_written(tmp_path: Path, name: str) -> None:
    select, config, sentence = BAD_REQUESTS[name]
    project = Project.make(tmp_path / "project")
    source = {"source": str(make_own_videos(tmp_path / "own", clips_per_class=4)), **config.get("raw_archive", {})}
    if source.get("split_lists") == "LISTS":
        source["split_lists"] = str(make_split_lists(tmp_path / "lists", tmp_path / "own"))
    if source["source"] == "GARBAGE":
        (tmp_path / "garbage.rar").write_bytes(b"Rar!" + bytes(1000))
        source["source"] = str(tmp_path / "garbage.rar")
    if source["source"] == "EMPTY":
        shutil.make_archive(str(tmp_path / "empty"), "zip", REPOSITORY / "conf")
        source["source"] = str(tmp_path / "empty.zip")
    if source["source"] == "BROKEN":
        for clip in (tmp_path / "own").rglob("*.avi"):
            clip.write_bytes(clip.read_bytes()[:100])
        source["source"] = str(tmp_path / "own")
    config = {"video_clips": {"dvc": "off"}, **config, "raw_archive": source}
    failures = materialize_here(project, select, {name: config[name] for name in config if needs(select, name)})
    assert len(failures) == 1
    assert sentence in failures[0]
    assert "\n" not in failures[0]
    assert project.store.find_latest(select.removeprefix("+key:")) is None
    leftovers = [
        path.name for path in project.folder.rglob("*") if re.search(r"^\.(staging|data\.)|partial", path.name)
    ]
    assert leftovers == []


def test_asset_checks_pass_and_fail_with_their_problems(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    own = make_own_videos(tmp_path / "own", clips_per_class=6)
    source = {"source": str(own), "split_lists": str(make_split_lists(tmp_path / "lists", own))}
    broken = next((own / "down").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])

    def checks(config: dict[str, dict[str, object]], select: str) -> dict[str, AssetCheckEvaluation]:
        result = execute_here(project, select, {"video_clips": {"dvc": "off"}, **config})
        assert result.success
        return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}

    first = checks({"raw_archive": source}, "+key:frame_cache")
    assert {name for name, check in first.items() if not check.passed} == {"all_clips_decoded"}
    assert first["all_clips_decoded"].severity == AssetCheckSeverity.WARN
    assert first["all_clips_decoded"].metadata["quarantined"].value == 1

    for listed in (tmp_path / "lists").glob("down_*"):  # all but one clip of a class is test now
        listed.write_text(re.sub(r" 1 ", " 2 ", listed.read_text(), count=3))
    second = checks({"raw_archive": source}, "+key:test_manifest")
    assert not second["class_share"].passed
    assert "down has 5 of 6 clips in test" in str(second["class_share"].metadata["problems"].value)
    assert second["films_on_both_sides"].passed


def needs(select: str, name: str) -> bool:
    """True when the configuration of that asset belongs to a selection."""
    return name == "raw_archive" or (select != "raw_archive" and name in ("video_clips", "manifests")) or name in select


def test_a_missing_upstream_names_the_asset_and_the_command(tmp_path: Path) -> None:
    done = Project.make(tmp_path).materialize("trt_engine")
    assert done.returncode != 0
    last = [line for line in log_of(done).splitlines() if "trt_engine failed: " in line][-1]
    assert "onnx_model has not been materialized: run `dagster asset materialize" in last
    assert not (tmp_path / "artifacts" / "trt_engine" / "latest").exists()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[Project, list[str]], "subprocess.Popen[str]"]]:
    """Start a command in a project; whatever it started is killed at the end of the test."""
    children: list[subprocess.Popen[str]] = []

    def start(project: Project, arguments: list[str]) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            project.command(*arguments), cwd=project.folder, env=project.environment, text=True,
            stdout=(project.folder / "log.txt").open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)


def trainings_in(folder: Path) -> list[int]:
    """Processes that train in a project."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "har_assets.training" in command and str(folder) in command:
            found.append(int(process.name))
    return found


def test_kill_nine_in_training_on_ones_own_classes_then_the_same_command_goes_on(
    tmp_path: Path, started: Callable[[Project, list[str]], "subprocess.Popen[str]"]
) -> None:
    project = Project.make(tmp_path / "project")
    own = make_own_videos(tmp_path / "own")
    config = {"raw_archive": {"source": str(own)}, "trained_checkpoint": {"epochs": 30, "batch_size": 4}}
    arguments = project.materialize_arguments("+key:trained_checkpoint,*trained_checkpoint", config)
    child = started(project, arguments)
    deadline = time.monotonic() + 200
    while "epoch 3/30" not in (project.folder / "log.txt").read_text():
        assert child.poll() is None, (project.folder / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)  # only the command itself: its steps must notice
    child.wait()
    deadline = time.monotonic() + 30
    while trainings_in(project.folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert trainings_in(project.folder) == [], "an orphan trains on"

    again = project.run(*arguments, timeout=300)
    log = log_of(again)
    assert again.returncode == 0, log[-4000:]
    assert "had died: marked failed, its slots freed" in log
    assert "going on from" in log
    epochs = [json.loads(line) for line in project.latest("trained_checkpoint").file("history.jsonl").open()]
    assert [epoch["epoch"] for epoch in epochs] == list(range(30))
    database = f"sqlite:///{project.folder}/mlflow.db"
    run = only_run(database)
    assert run.info.status == "FINISHED"
    assert len(steps_of(database, run.info.run_id, "val_top1")) == 30

    # The project is a folder of someone's own classes: what became of it.
    index = project.latest("class_index").file("index_to_class.csv").read_text()
    assert index == "index,class\n0,down\n1,right\n2,still\n"
    assert project.latest("test_manifest").record.metadata["split_source"].startswith("seeded 70/30")
    assert project.latest("video_clips").record.headline == "18 clips of 3 classes"
    clips = list((project.folder / "data/videos").rglob("*.avi"))
    assert len(clips) == 18
    assert all(not os.stat(path).st_mode & stat.S_IWUSR for path in clips)
    assert all(os.stat(path).st_mode & stat.S_IWUSR for path in own.rglob("*.avi"))


@pytest.mark.slow
def test_ctrl_c_in_training_ends_it_and_frees_the_slot(
    tmp_path: Path, started: Callable[[Project, list[str]], "subprocess.Popen[str]"]
) -> None:
    project = Project.make(tmp_path / "project")
    own = make_own_videos(tmp_path / "own")
    config = {"raw_archive": {"source": str(own)}, "trained_checkpoint": {"epochs": 2000, "batch_size": 4}}
    child = started(project, project.materialize_arguments("*trained_checkpoint", config))
    deadline = time.monotonic() + 200
    while "epoch 2/2000" not in (project.folder / "log.txt").read_text():
        assert child.poll() is None, (project.folder / "log.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    child.wait(timeout=60)
    assert child.returncode != 0
    deadline = time.monotonic() + 20
    while trainings_in(project.folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert trainings_in(project.folder) == []
    works = list((project.folder / "artifacts/trained_checkpoint").glob(".work-*/checkpoints/last.ckpt"))
    assert len(works) == 1
    assert only_run(f"sqlite:///{project.folder}/mlflow.db").info.status == "KILLED"


@pytest.mark.slow
def test_kill_nine_of_the_training_process_alone_fails_the_step_and_ends_its_mlflow_run(
    tmp_path: Path, started: Callable[[Project, list[str]], "subprocess.Popen[str]"]
) -> None:
    project = Project.make(tmp_path / "project")
    own = make_own_videos(tmp_path / "own")
    config = {"raw_archive": {"source": str(own)}, "trained_checkpoint": {"epochs": 2000, "batch_size": 4}}
    child = started(project, project.materialize_arguments("+key:trained_checkpoint", config))
    log = project.folder / "log.txt"
    deadline = time.monotonic() + 200
    while "epoch 2/2000" not in log.read_text():
        assert child.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for training in trainings_in(project.folder):
        os.kill(training, signal.SIGKILL)  # as the kernel does when memory is short
    child.wait(timeout=60)
    assert child.returncode != 0
    assert "The training process ended without a word" in log.read_text()
    run = only_run(f"sqlite:///{project.folder}/mlflow.db")
    assert run.info.status == "KILLED"
    assert run.data.tags["step.trained_checkpoint"].startswith("KILLED")
