"""onnx_model, trt_engine and their jobs on a published tiny network: real conversions, no training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import onnx
import pytest

from har_assets import defs
from har_assets.export.precision import precision_of
from har_assets.model.published import published_onnx
from har_assets.runtime import open_model
from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import describe_files
from har_assets.system.files import sha256_of
from har_assets.system.gpu import gpu_compute_capability
from har_assets_tests.project import Project
from har_assets_tests.published import make_record

LOOSE = {"top1_agreement": {"fp16": 0.8, "int8": 0.8}}
"""The tiny network is untrained: its scores are nearly equal, so that rounding may change the highest."""


TEST_WINDOWS = 15
"""Windows of the test videos: 3 clips of 8 frames, 5 windows of 4 frames each."""


def publish(store: ArtifactFolder, asset: str, files: Callable[[Path], Any]) -> None:
    lineage = {"dataset": "tiny", "synthetic": True, "data_version": "v1", "split": 1}
    with store.staging(asset) as folder:
        files(folder)
        store.publish(
            folder,
            make_record(asset, data_version="v1", files=describe_files(folder), lineage=lineage),
        )


def make_project(folder: Path, tiny_checkpoint: Path, tiny_cache: Path) -> Project:
    made = Project.make(folder)
    publish(made.store, "trained_checkpoint", lambda to: shutil.copy(tiny_checkpoint, to / "video_action_model.ckpt"))
    publish(made.store, "frame_cache", lambda to: shutil.copytree(tiny_cache / "cache", to, dirs_exist_ok=True))
    for role in ("train", "val", "test"):
        publish(made.store, f"{role}_manifest", lambda to, role=role: shutil.copy(tiny_cache / f"{role}.csv", to))
    return made


@pytest.fixture
def project(tmp_path: Path, tiny_checkpoint: Path, tiny_cache: Path) -> Project:
    """A project that has everything up to the checkpoint."""
    return make_project(tmp_path / "project", tiny_checkpoint, tiny_cache)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_cache: Path) -> Project:
    """A project that has onnx_model in float32 too; for tests that publish nothing in it but engines."""
    made = make_project(tmp_path_factory.mktemp("exported") / "project", tiny_checkpoint, tiny_cache)
    assert export(made).success
    return made


def run_job(project: Project, job: str, op: str, config: dict[str, Any]) -> dg.ExecuteInProcessResult:
    """A job as a user runs it, in this process, without MLflow."""
    resources: dict[str, Any] = {"store": {"config": {"project": str(project.folder)}}}
    if job in ("export_onnx", "convert_trt"):
        resources["mlflow"] = {"config": {"tracking_uri": ""}}
    return defs.resolve_job_def(job).execute_in_process(
        run_config={"ops": {op: {"config": config}}, "resources": resources}, raise_on_error=False
    )


def export(project: Project, **config: Any) -> dg.ExecuteInProcessResult:
    return run_job(project, "export_onnx", "onnx_model", {**LOOSE, **config})


def convert(project: Project, **config: Any) -> dg.ExecuteInProcessResult:
    return run_job(project, "convert_trt", "trt_engine", {"builder": "tensorrt_rtx", **LOOSE, **config})


def refusal(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (event,) = result.get_step_failure_events()
    failure = event.step_failure_data.user_failure_data
    assert failure, event.step_failure_data.error
    assert "\n" not in str(failure.description)
    return str(failure.description)


def check_of(result: dg.ExecuteInProcessResult) -> Any:
    assert result.success
    (found,) = result.get_asset_check_evaluations()
    return found


def test_the_default_is_float32_alone(project: Project) -> None:
    check = check_of(export(project))
    artifact = project.latest("onnx_model")
    assert sorted(artifact.record.files) == ["README.md", "video_action_model.onnx"]
    assert "not recorded" in artifact.file("README.md").read_text()
    assert check.passed
    parity = artifact.record.metadata["parity"]
    assert parity["clips"] == TEST_WINDOWS
    assert parity["max_difference"] <= 1e-4
    assert parity["top1_agreement"] == 1.0
    assert parity["parent_accuracy"] == parity["child_accuracy"]
    assert check.metadata["max_difference"].value == parity["max_difference"]


def test_export_onnx_in_every_precision_and_inference_with_each(project: Project, tiny_cache: Path) -> None:
    check = check_of(export(project, precision="fp16", also=["int8"]))
    artifact = project.latest("onnx_model")
    assert sorted(artifact.record.files) == [
        "README.md",
        "video_action_model.fp32.onnx",
        "video_action_model.int8.onnx",
        "video_action_model.onnx",
    ]
    for precision in ("fp32", "fp16", "int8"):
        assert precision_of(onnx.load(published_onnx(artifact, precision))) == precision
    assert published_onnx(artifact) == published_onnx(artifact, "fp16")
    assert check.passed
    assert len(check.metadata["precisions"].records) == 3
    rows = {row["precision"]: row for row in artifact.record.metadata["precisions"]}
    assert rows["fp32"]["max_difference"] < rows["fp16"]["max_difference"] < rows["int8"]["max_difference"]
    notes = " ".join(artifact.record.metadata["notes"])
    assert "calibrated on 15 windows of the val videos" in notes
    if gpu_compute_capability() is None:
        assert "fp16 with every result rounded, as on a GPU" in notes

    video = next((tiny_cache / "videos" / "jump").iterdir())
    for precision in ("", "fp32", "int8"):
        result = run_job(project, "infer_from_onnx", "predict_from_onnx", {"video": str(video), "precision": precision})
        assert result.success
        (output,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
        used = output.event_specific_data.metadata["model"]
        assert used.path == str(published_onnx(artifact, precision))


def test_a_failed_gate_publishes_nothing(project: Project) -> None:
    sentence = refusal(export(project, also=["int8"], max_difference={"int8": 1e-9}))
    assert sentence.startswith("The int8 model differs from its parent (PyTorch")
    assert "it was not published" in sentence
    assert project.store.find_latest("onnx_model") is None
    assert not list((project.folder / "artifacts" / "onnx_model").glob("*"))


def test_without_validation_videos_int8_is_calibrated_on_training_videos_and_says_so(project: Project) -> None:
    manifest = project.latest("val_manifest").file("val.csv")
    manifest.write_text(manifest.read_text().splitlines()[0] + "\n")
    assert export(project, also=["int8"], calibration_windows=4).success
    (note, *_) = project.latest("onnx_model").record.metadata["notes"]
    assert note == "int8 was calibrated on 4 windows of the train videos, as no validation video was decoded"


def test_without_test_videos_other_ones_are_compared_and_it_says_which(project: Project) -> None:
    manifest = project.latest("test_manifest").file("test.csv")
    manifest.write_text(manifest.read_text().splitlines()[0] + "\n")
    assert export(project, parity_windows=6).success
    assert "on 6 windows of the val videos" in project.latest("onnx_model").record.metadata["compared"]


def test_convert_trt_takes_the_precision_of_onnx_model(project: Project) -> None:
    export(project, precision="fp16")
    check = check_of(convert(project, targets=["8.6"]))
    artifact = project.latest("trt_engine")
    engine = artifact.file("video_action_model.engine")
    sidecar = json.loads(artifact.file("video_action_model.engine.json").read_text())
    assert sidecar["precision"] == "fp16"
    assert sidecar["engine_sha256"] == sha256_of(engine)
    assert sidecar["engine_bytes"] == engine.stat().st_size
    assert sidecar["onnx_sha256"] == sha256_of(published_onnx(project.latest("onnx_model")))
    if gpu_compute_capability() is None:
        reason = sidecar["parity"].pop("reason")
        assert "there is no CUDA GPU on this machine" in reason
        assert sidecar["parity"] == {
            "measured": False,
            "max_difference_allowed": 0.02,
            "top1_agreement_required": 0.8,
        }
        assert artifact.record.metadata["parity"] == f"not measured: {reason}"
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_the_reference_beside_an_engine_is_what_its_onnx_answers(exported: Project) -> None:
    convert(exported, targets=["8.9"])
    with np.load(exported.latest("trt_engine").file("video_action_model.engine.reference.npz")) as reference:
        clips_BCTHW, scores_BK = reference["clips_BCTHW"], reference["scores_BK"]
    assert clips_BCTHW.dtype == np.uint8
    assert clips_BCTHW.shape == (8, 3, 4, 16, 16)
    assert scores_BK.dtype == np.float32
    predictor = open_model(published_onnx(exported.latest("onnx_model")), "onnxruntime_cpu")
    np.testing.assert_allclose(predictor.predict(clips_BCTHW), scores_BK, atol=1e-6)


def test_an_engine_of_a_precision_that_onnx_model_lacks_brings_its_own_onnx(exported: Project) -> None:
    assert convert(exported, precision="int8", targets=["12.0"]).success
    artifact = exported.latest("trt_engine")
    own = artifact.file("video_action_model.int8.onnx")
    sidecar = json.loads(artifact.file("video_action_model.engine.json").read_text())
    assert (sidecar["precision"], sidecar["onnx_sha256"]) == ("int8", sha256_of(own))
    assert artifact.record.metadata["onnx_parity"]["passed"]
    assert "int8 from video_action_model.onnx of onnx_model on 15 windows of the test videos: same" in " ".join(
        artifact.record.metadata["notes"]
    )
    assert "it was not published" in refusal(convert(exported, precision="int8", max_difference={"int8": 1e-9}))


def test_an_onnx_model_whose_parity_failed_is_refused(project: Project) -> None:
    export(project, also=["fp16"])
    path = project.latest("onnx_model").folder / "artifact.json"
    record = json.loads(path.read_text())
    for row in record["metadata"]["precisions"]:
        row["passed"] = row["precision"] == "fp16"
    path.write_text(json.dumps(record))
    assert "onnx_model did not pass its parity gate" in refusal(convert(project))
    assert convert(project, precision="fp16").success
    del record["metadata"]["precisions"]
    path.write_text(json.dumps(record))
    assert "published by an older version: materialize it again" in refusal(convert(project, opt_batch=4))


def test_an_engine_is_compared_as_soon_as_the_gpu_fits(exported: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU runs here: the ONNX file stands in for the loaded engine, the pipeline around it is the real one."""
    from har_assets.runtime import tensorrt

    source = published_onnx(exported.latest("onnx_model"))
    loaded: list[Path] = []

    def stand_in(path: Path) -> Any:
        sidecar = json.loads(path.with_name(path.name + ".json").read_text())
        assert sidecar["parity"]["measured"] is False  # what the first load is to be compared with is there already
        assert path.with_name(path.name + ".reference.npz").is_file()
        loaded.append(path)
        return open_model(source, "onnxruntime_cpu")

    def engine_on(capability: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
        monkeypatch.setattr(tensorrt, "gpu_compute_capability", lambda: capability)
        monkeypatch.setattr(tensorrt, "_why_not_installed", lambda *_: "")  # PyTorch has no CUDA here
        check = check_of(convert(exported, targets=["8.6"]))
        artifact = exported.latest("trt_engine")
        parity = json.loads(artifact.file("video_action_model.engine.json").read_text())["parity"]
        assert check.passed == parity["measured"]
        return artifact, parity

    monkeypatch.setattr("har_assets.export.deploy.open_model", stand_in)
    _, parity = engine_on((9, 0))
    assert "for GPUs of compute capability 8.6 and this machine's has 9.0" in parity["reason"]
    assert loaded == []
    artifact, parity = engine_on((8, 6))
    assert len(loaded) == 1
    assert parity == artifact.record.metadata["parity"]
    assert parity["clips"] == TEST_WINDOWS
    unchanged, _ = engine_on((8, 6))
    assert unchanged.folder == artifact.folder
    assert len(loaded) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"precision": "fp8"}, "There is no precision 'fp8': choose fp32, fp16, int8"),
        ({"also": ["bf16"]}, "There is no precision 'bf16'"),
        ({"max_difference": {"fp64": 1.0}}, "There is no precision 'fp64'"),
        ({"also": ["int8"], "calibration": "magic"}, "no calibration 'magic': choose percentile or entropy"),
        ({"also": ["int8"], "calibration_percentile": 101.0}, "choose one above 50, up to 100"),
        ({"parity_windows": -1}, "choose 1 or more, or 0 for every window"),
    ],
)
def test_an_impossible_export_is_one_sentence(project: Project, config: dict[str, Any], words: str) -> None:
    assert words in refusal(export(project, **config))
    assert project.store.find_latest("onnx_model") is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"precision": "fp8"}, "There is no precision 'fp8'"),
        ({"targets": ["9.0"]}, r"does not build for compute capability 9.0"),
        ({"min_batch": 9}, "choose 1 <= min_batch <= opt_batch <= max_batch"),
        ({"hardware_compatibility": "ampere_plus"}, "name the compute capabilities in targets"),
        ({"version_compatible": True}, "run in the version that built them only"),
        ({"targets": ["7.5"]}, "choose another precision, other targets or a larger workspace"),
    ],
)
def test_an_impossible_engine_is_one_sentence(exported: Project, config: dict[str, Any], words: str) -> None:
    before = len(list((exported.folder / "artifacts" / "trt_engine").glob("[!l.]*")))
    assert words in refusal(convert(exported, **config))
    assert len(list((exported.folder / "artifacts" / "trt_engine").glob("[!l.]*"))) == before


def test_infer_from_onnx_says_what_is_wrong(
    project: Project, exported: Project, tiny_cache: Path, tiny_checkpoint: Path
) -> None:
    video = str(next((tiny_cache / "videos" / "sit").iterdir()))

    def said(project: Project = exported, **config: Any) -> str:
        return refusal(run_job(project, "infer_from_onnx", "predict_from_onnx", {"video": video, **config}))

    assert "onnx_model has not been materialized: run" in said(project)
    assert "published in fp32, not in int8: materialize it with precision: int8" in said(precision="int8")
    assert "choose one" in said(precision="fp32", model="x.onnx")
    assert "is no ONNX file" in said(model=str(tiny_checkpoint))
    assert "There is no ONNX file" in said(model="absent.onnx")
    assert "No video was named" in said(video="")
    assert "choose 1 or more of each" in said(windows=0)
    assert "absent.avi" in said(video="absent.avi")
