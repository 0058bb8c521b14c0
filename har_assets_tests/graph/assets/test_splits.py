"""split_evaluation and hmdb51_benchmark: apart from the pipeline, from the same code, three splits in one command."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError, MissingArtifactError
from har_assets.graph.assets.dataset import ManifestsConfig, sorted_clips
from har_assets.graph.assets.deployment import OnnxConfig
from har_assets.graph.assets.evaluation import PredictionConfig
from har_assets.graph.assets.splits import SPLIT_NUMBERS, SplitConfig, SplitStore, part_config, published_figures
from har_assets.graph.assets.training import TrainingConfig
from har_assets.graph.resources.store import ArtifactStore
from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import Record, describe_files
from har_assets.system.files import silent
from har_assets_tests.project import Project, log_of, materialize_here

CONFIGS: dict[str, dict[str, Any]] = {
    "train_manifest": ManifestsConfig().model_dump(),
    "frame_cache": {"height": 36},
    "trained_checkpoint": TrainingConfig(epochs=3).model_dump(),
    "onnx_model": OnnxConfig().model_dump(),
    "test_predictions": PredictionConfig().model_dump(),
}


def publish(
    store: ArtifactFolder,
    asset: str,
    *,
    key: str = "1",
    split: int = 1,
    files: dict[str, str] | None = None,
    **record: Any,
) -> None:
    lineage = {"dataset": "own", "synthetic": False, "data_version": "v1", "split": split}
    with store.staging(asset) as folder:
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
        fields = {"config": CONFIGS.get(asset, {}), "metadata": {}, "lineage": lineage, **record}
        store.publish(
            folder,
            Record(
                asset=asset,
                key=key * 64,
                data_version=key,
                files=describe_files(folder),
                headline="",
                checks={},
                inputs={},
                seconds=0.0,
                **fields,
            ),
        )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(project=str(tmp_path))


def publish_splits(store: ArtifactStore, top1: tuple[float, float, float] = (0.5, 0.6, 0.7)) -> None:
    complete = json.dumps({"complete": False})
    publish(store.folder, "video_clips", files={"dataset.json": complete})
    versions = store.folder.root / "video_clips" / "latest" / "artifact.json"
    versions.write_text(versions.read_text().replace('"data_version": "1"', '"data_version": "v1"'))
    for split, accuracy in zip(SPLIT_NUMBERS, top1, strict=True):
        own = SplitStore.of(store, split).folder
        for asset, config in CONFIGS.items():
            changed = {**config, "split": int(split)} if asset == "train_manifest" else config
            figures = {"top1": accuracy, "top5": 0.9, "mean_class_accuracy": accuracy, "videos": 30, "quarantined": 0}
            publish(own, asset, split=int(split), config=changed, metadata=figures)


def benchmark(store: ArtifactStore) -> list[str]:
    return materialize_here(Project(store.project_folder), "key:hmdb51_benchmark", {})


def test_a_split_has_a_store_of_its_own_and_borrows_what_is_equal(store: ArtifactStore) -> None:
    pipeline, own = store.folder, SplitStore.of(store, "2")
    publish(pipeline, "trained_checkpoint", key="a")
    publish(pipeline, "trained_checkpoint", key="b")
    publish(pipeline, "class_index")
    assert own.latest("class_index").folder == pipeline.latest("class_index").folder
    with pytest.raises(MissingArtifactError):
        own.latest("trained_checkpoint")
    borrowed = own.folder.find("trained_checkpoint", "a" * 64)
    assert borrowed is not None
    own.folder.point_to(borrowed)
    assert own.latest("trained_checkpoint").record.key == "a" * 64
    assert own.latest("trained_checkpoint").folder.is_relative_to(pipeline.root / "trained_checkpoint")
    assert pipeline.latest("trained_checkpoint").record.key == "b" * 64
    publish(own.folder, "trained_checkpoint", key="c")
    assert own.latest("trained_checkpoint").folder.is_relative_to(pipeline.root / "split_evaluation" / "2")
    assert pipeline.latest("trained_checkpoint").record.key == "b" * 64
    assert SplitStore.of(store, "3").folder.find_latest("trained_checkpoint") is None


def test_on_a_node_a_split_finds_the_data_of_the_main_store(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAR_RAY", "http://127.0.0.1:8265")
    publish(store.folder, "raw_archive", metadata={"source": "own", "archive": "/nowhere/own.zip"})
    publish(store.folder, "video_clips")
    with pytest.raises(HarError, match=r"/nowhere/own\.zip is not on this node: put it there"):
        sorted_clips(ManifestsConfig(split=2), SplitStore.of(store, "2"), silent)


def test_each_stage_is_configured_as_the_pipeline_was(store: ArtifactStore) -> None:
    assert part_config("trained_checkpoint", SplitConfig(), store, "2", silent) == TrainingConfig()
    publish(store.folder, "trained_checkpoint", config=TrainingConfig(epochs=7, network="i3d", force=True).model_dump())
    publish(store.folder, "train_manifest", config=ManifestsConfig(split=1, seed=5).model_dump())
    found = part_config("trained_checkpoint", SplitConfig(), store, "2", silent)
    assert found == TrainingConfig(epochs=7, network="i3d")
    changed = SplitConfig(changes={"trained_checkpoint": {"epochs": 2}})
    assert part_config("trained_checkpoint", changed, store, "2", silent).epochs == 2
    assert part_config("manifests", SplitConfig(), store, "3", silent) == ManifestsConfig(split=3, seed=5)


@pytest.mark.parametrize(
    ("stage", "changes", "words"),
    [
        (
            "trained_checkpoint",
            {"epoch": 2},
            "changes.trained_checkpoint of split_evaluation names epoch, no option of it",
        ),
        ("trained_checkpoint", {"epochs": "many"}, "changes.trained_checkpoint of .* epochs"),
        ("manifests", {"split": 2}, "names a split, which is the partition's: leave it out"),
    ],
)
def test_impossible_changes_are_one_sentence(
    store: ArtifactStore, stage: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(HarError, match=words):
        part_config(stage, SplitConfig(changes={stage: changes}), store, "1", silent)


def test_mean_and_deviation_of_three_splits(store: ArtifactStore) -> None:
    publish_splits(store)
    assert benchmark(store) == []
    record = store.latest("hmdb51_benchmark").record
    assert record.metadata["figures"]["top1"] == pytest.approx({"mean": 0.6, "deviation": 0.1})
    assert record.headline == (
        "top-1 0.600 ± 0.100, the mean of three splits of own; not compared with published figures, as the data is "
        "not the whole of HMDB51"
    )
    assert "comparison" not in record.metadata
    assert "split" not in record.lineage
    with store.latest("hmdb51_benchmark").file("splits.csv").open(newline="") as file:
        assert [row["top1"] for row in csv.DictReader(file)] == ["0.5", "0.6", "0.7"]


def test_the_whole_of_hmdb51_is_compared_with_published_figures(store: ArtifactStore) -> None:
    publish_splits(store)
    clips = store.folder.root / "video_clips" / "latest" / "dataset.json"
    clips.write_text(json.dumps({"complete": True}))
    assert benchmark(store) == []
    artifact = store.latest("hmdb51_benchmark")
    with artifact.file("comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["method"], rows[0]["top1_percent"]) == ("cnn3d, this project", "60.0")
    assert rows[1:] == published_figures()
    assert "not compared" not in artifact.record.headline


def test_published_figures_name_their_sources() -> None:
    rows = published_figures()
    figures = {(row["method"], row["pretrained_on"]): float(row["top1_percent"]) for row in rows}
    assert figures["I3D", "ImageNet + Kinetics-400"] == 74.8
    assert all(all(row.values()) and "arXiv" in row["source"] and row["read_at"].startswith("https://") for row in rows)


def test_a_missing_split_names_the_command(store: ArtifactStore) -> None:
    publish_splits(store)
    shutil.rmtree(store.folder.root / "split_evaluation" / "3")
    (said,) = benchmark(store)
    assert "has not been materialized for split 3: run `dagster asset materialize" in said
    assert "--select split_evaluation --partition-range 1...3" in said


def test_splits_of_different_trainings_or_data_have_no_mean(store: ArtifactStore) -> None:
    publish_splits(store)
    other = SplitStore.of(store, "2").folder
    publish(other, "trained_checkpoint", key="2", split=2, config=TrainingConfig(epochs=99).model_dump())
    (said,) = benchmark(store)
    assert "Splits 1 and 2 differ in the configuration of trained_checkpoint" in said
    publish(other, "trained_checkpoint", key="3", split=2)
    publish(store.folder, "video_clips", key="8", files={"dataset.json": '{"complete": false}'})
    (said,) = benchmark(store)
    assert "video_clips is another version than the splits were made from" in said


@pytest.mark.slow
def test_three_splits_of_the_sample_in_one_command(sample_road: Project) -> None:
    """Two trainings of a minute: that of split 1 is the pipeline's own."""
    pipeline = sample_road.store
    before = {asset: pipeline.latest(asset).folder for asset in (*CONFIGS, "test_manifest")}
    done = sample_road.run(
        "dagster",
        "asset",
        "materialize",
        "-m",
        "har_assets",
        "--select",
        "split_evaluation",
        "--partition-range",
        "1...3",
        timeout=900,
    )
    assert done.returncode == 0, log_of(done)[-4000:]
    assert {asset: pipeline.latest(asset).folder for asset in before} == before
    store = ArtifactStore(project=str(sample_road.folder))
    runs = set()
    for split in SPLIT_NUMBERS:
        own = SplitStore.of(store, split)
        lineage = own.latest("test_predictions").record.lineage
        assert lineage["split"] == int(split)
        assert own.latest("test_predictions").record.metadata["top1"] >= 0.8
        runs.add(lineage["mlflow_run_id"])
    assert len(runs) == 3
    borrowed = SplitStore.of(store, "1").latest("trained_checkpoint")
    assert borrowed.folder == pipeline.latest("trained_checkpoint").folder
    assert materialize_here(sample_road, "key:hmdb51_benchmark", {}) == []
    record = sample_road.latest("hmdb51_benchmark").record
    assert record.metadata["figures"]["top1"]["mean"] >= 0.8
    assert "of sample (synthetic); not compared with published figures" in record.headline
