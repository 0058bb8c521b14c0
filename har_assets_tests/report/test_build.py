"""Products of test_predictions, evaluation_report and runtime_benchmark, built without Dagster."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from har_assets.errors import HarError, MissingArtifactError
from har_assets.export.engine_options import EngineOptions
from har_assets.export.tensorrt import build_engine
from har_assets.model.files import CHECKPOINT, ENGINE, ONNX
from har_assets.report.benchmark import build_benchmark
from har_assets.report.build import Links, build_report
from har_assets.report.options import ReportOptions
from har_assets.report.predictions import build_test_predictions, open_tested, score_here
from har_assets.runtime.benchmark_options import BenchmarkOptions
from har_assets.store.product import Build
from har_assets.store.record import Artifact, FolderArtifact
from har_assets.tracking.outbox import Address, opened
from har_assets.tracking.run_log import RunLog
from har_assets.tracking.tags import TEST_FIGURES, TESTED_TAG
from har_assets_tests.builds import build_of, data_of, published
from har_assets_tests.report.made import png


class Latest:
    """A store of a few versions."""

    def __init__(self, *artifacts: Artifact) -> None:
        self.artifacts = {artifact.record.asset: artifact for artifact in artifacts}

    def latest(self, asset: str) -> Artifact:
        if asset not in self.artifacts:
            raise MissingArtifactError(f"{asset} has not been materialized.")
        return self.artifacts[asset]


@pytest.fixture
def models(tmp_path: Path, tiny_checkpoint: Path, tiny_onnx: Path) -> dict[str, Artifact]:
    (tmp_path / "curves.png").write_bytes(png())
    files = {CHECKPOINT: tiny_checkpoint, "curves.png": tmp_path / "curves.png"}
    made = [
        published(tmp_path, "trained_checkpoint", files),
        published(
            tmp_path,
            "onnx_model",
            {ONNX: tiny_onnx},
            metadata={"parity": {"passed": True}},
            inputs={"trained_checkpoint": "trained_checkpoint 1"},
        ),
    ]
    return {artifact.record.asset: artifact for artifact in made}


@pytest.fixture
def scored(tmp_path: Path, tiny_cache: Path, models: dict[str, Artifact]) -> Build:
    """A build of test_predictions, whose test manifest has a clip without frames too."""
    data = data_of(tmp_path, tiny_cache)
    manifest = data[-1].file("test.csv")
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*rows, rows[1].replace("clip", "lost", 1)]) + "\n")
    return build_of(tmp_path, models["onnx_model"], *data)


def test_test_predictions_are_a_table_scores_and_a_picture(scored: Build, models: dict[str, Artifact]) -> None:
    predictor = open_tested("onnx", models["onnx_model"], Latest())
    frames = scored.inputs["frame_cache"]
    product = build_test_predictions(scored, lambda clips: score_here(clips, predictor, frames, 2), 2)
    table = pd.read_csv(scored.folder / "test_predictions.csv")
    scores_NK = np.load(scored.folder / "scores.npy")
    assert len(table) == len(scores_NK) == product.metadata["videos"] == 4
    assert table["label_1"].iloc[-1] == "(not decodable)"
    assert (scores_NK[-1] == 0).all()
    np.testing.assert_allclose(scores_NK[:-1].sum(axis=1), 1, atol=1e-5)
    assert product.headline.endswith("on 4 videos (synthetic data)")
    assert (product.metadata["quarantined"], product.metadata["windows"], product.clips) == (1, 2, 8)
    assert product.metadata["onnx_sha256"] == models["onnx_model"].record.files["video_action_model.onnx"]["sha256"]
    assert product.pictures == ("test_confusion.png",)
    assert (scored.folder / "test_confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("tested", ["onnx", "checkpoint"])
def test_mlflow_is_told_which_onnx_file_the_figures_are_of(
    scored: Build, models: dict[str, Artifact], tmp_path: Path, tested: str
) -> None:
    onnx = models["onnx_model"]
    predictor = open_tested(tested, onnx, Latest(models["trained_checkpoint"]))
    with opened(tmp_path / "box", Address("http://127.0.0.1:9", "0" * 32, "test_predictions")) as outbox:
        build = dataclasses.replace(scored, run=RunLog(outbox))
        frames = scored.inputs["frame_cache"]
        product = build_test_predictions(build, lambda clips: score_here(clips, predictor, frames, 2), 2)
    entries = [json.loads(line) for line in (tmp_path / "box/journal.jsonl").read_text().splitlines()]
    before, figures, after = entries[:3]
    assert before["tags"] == {TESTED_TAG: ""}
    assert figures["metrics"] == {name: product.metadata[name.removeprefix("test_video_")] for name in TEST_FIGURES}
    assert after["tags"] == {TESTED_TAG: onnx.record.files[ONNX]["sha256"] if tested == "onnx" else ""}


def test_the_checkpoint_is_tested_only_as_the_parent_of_the_deployed_model(models: dict[str, Artifact]) -> None:
    onnx, checkpoint = models["onnx_model"], models["trained_checkpoint"]
    assert open_tested("checkpoint", onnx, Latest(checkpoint)).runtime.startswith("PyTorch")
    other = FolderArtifact(checkpoint.folder, dataclasses.replace(checkpoint.record, data_version="2"))
    with pytest.raises(HarError, match="exported from another checkpoint than the latest: materialize onnx_model"):
        open_tested("checkpoint", onnx, Latest(other))
    with pytest.raises(MissingArtifactError):
        open_tested("checkpoint", onnx, Latest())


def test_what_cannot_be_tested_is_a_sentence(tmp_path: Path, models: dict[str, Artifact]) -> None:
    with pytest.raises(HarError, match="There is no runtime 'openvino': choose onnx or checkpoint"):
        open_tested("openvino", models["onnx_model"], Latest())
    with pytest.raises(HarError, match="onnx_model did not pass its parity gate"):
        open_tested("onnx", published(tmp_path / "bad", "onnx_model", {}), Latest())


LINKS = Links(lambda asset: f"http://ui/assets/{asset}", lambda run_id: "", "http://ui/runs/1")


@pytest.fixture
def reported(tmp_path: Path, scored: Build, models: dict[str, Artifact]) -> Build:
    """A build of evaluation_report on test predictions as they are published."""
    predictor = open_tested("onnx", models["onnx_model"], Latest())
    frames = scored.inputs["frame_cache"]
    product = build_test_predictions(scored, lambda clips: score_here(clips, predictor, frames, 2), 2)
    predictions = published(
        tmp_path,
        "test_predictions",
        {".": scored.folder},
        metadata=product.metadata,
        inputs={name: f"{name} 1" for name in ("onnx_model", "test_manifest", "frame_cache")},
    )
    data = [scored.inputs[name] for name in ("test_manifest", "frame_cache")]
    return build_of(tmp_path / "report", predictions, *models.values(), *data)


def test_a_report_is_a_page_a_card_and_pictures(reported: Build, tiny_cache: Path) -> None:
    product = build_report(reported, ReportOptions(), videos=lambda: tiny_cache / "videos", links=LINKS, log=print)
    page = (reported.folder / "evaluation_report.html").read_text()
    assert "http://ui/assets/onnx_model" in page
    assert "http://ui/runs/1" in page
    assert "none: tracking is off" in page
    assert "The video is gone" not in page
    assert "model-index:" in (reported.folder / "README.md").read_text()
    assert product.metadata["page_bytes"] == (reported.folder / "evaluation_report.html").stat().st_size
    assert product.metadata["quarantined"] == 1
    assert all((reported.folder / name).is_file() for name in product.pictures)


def test_no_videos_are_asked_for_where_none_are_shown(reported: Build) -> None:
    def videos() -> Path:
        raise AssertionError

    options = ReportOptions(mistakes=0, right=0, saliency=False)
    product = build_report(reported, options, videos=videos, links=LINKS, log=print)
    assert product.pictures == ("reliability.png", "class_accuracy.png")


@pytest.mark.parametrize(
    ("child", "parent"), [("test_predictions", "frame_cache"), ("onnx_model", "trained_checkpoint")]
)
def test_a_report_on_other_parents_is_refused(reported: Build, child: str, parent: str) -> None:
    old = reported.inputs[parent]
    reported.inputs[parent] = FolderArtifact(old.folder, dataclasses.replace(old.record, data_version="2"))
    with pytest.raises(HarError, match=f"The latest {child} was made from another {parent} than the latest"):
        build_report(reported, ReportOptions(), videos=Path, links=LINKS, log=print)
    assert list(reported.folder.iterdir()) == []


def benchmark(build: Build, videos: Path, options: BenchmarkOptions, *runtimes: str) -> str:
    product = build_benchmark(
        build, options, clips=3, videos=2, runtimes=list(runtimes), videos_folder=lambda: videos, log=print
    )
    return product.headline


@pytest.fixture
def build_with_engine(tmp_path: Path, tiny_cache: Path, tiny_onnx: Path, models: dict[str, Artifact]) -> Build:
    """Checkpoint, ONNX model, engine and data, as runtime_benchmark gets them."""
    build_engine(tiny_onnx, tmp_path / ENGINE, EngineOptions(builder="tensorrt_rtx", targets=["8.9"]))
    files = {ENGINE: tmp_path / ENGINE, f"{ENGINE}.json": tmp_path / f"{ENGINE}.json"}
    return build_of(
        tmp_path, *models.values(), published(tmp_path, "trt_engine", files), *data_of(tmp_path, tiny_cache)
    )


def test_a_benchmark_without_videos_asks_for_no_folder(build_with_engine: Build) -> None:
    product = build_benchmark(
        build_with_engine,
        BenchmarkOptions(batch_sizes=[1], rounds=1, windows=1),
        clips=1,
        videos=0,
        runtimes=["onnxruntime_cpu"],
        videos_folder=lambda: pytest.fail("a node would restore all of data/"),
        log=print,
    )
    assert product.headline.startswith("onnxruntime_cpu")


def test_a_benchmark_is_a_table_and_a_chart(build_with_engine: Build, tiny_cache: Path) -> None:
    build = build_with_engine
    options = BenchmarkOptions(batch_sizes=[1], rounds=3, windows=1)
    with pytest.raises(HarError, match=r"No runtime could be measured \(tensorrt: it was built by TensorRT-RTX"):
        benchmark(build, tiny_cache / "videos", options, "tensorrt")
    with pytest.raises(HarError, match="of 1 or more"):
        benchmark(build, tiny_cache / "videos", BenchmarkOptions(rounds=0))
    assert list(build.folder.iterdir()) == []
    headline = benchmark(build, tiny_cache / "videos", options, "onnxruntime_cpu", "tensorrt")
    assert headline.startswith("onnxruntime_cpu is the fastest: ")
    with (build.folder / "runtime_benchmark.csv").open(newline="") as file:
        rows = {row["runtime"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"onnxruntime_cpu", "tensorrt"}
    assert float(rows["onnxruntime_cpu"]["videos_per_s"]) > 0
    assert (build.folder / "runtime_benchmark.png").stat().st_size > 5_000
