"""find_or_build, through which every product of the graph goes, without Dagster."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError
from har_assets.store.building import ProductKey, find_or_build
from har_assets.store.folder import ArtifactFolder
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact, FolderArtifact
from har_assets.store.work_folder import STAGING_PREFIX
from har_assets.tracking.run_log import RunLog

KEY = ProductKey("onnx_model", "1", {"precision": "fp32"})


class Builder:
    """Builds, counts its calls, and notes the lineages for which an MLflow run was opened."""

    def __init__(self, store: ArtifactFolder, **product: Any) -> None:
        self.store = store
        self.product = product
        self.builds: list[Build] = []
        self.lineages: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.fault: BaseException | None = None

    def build(self, build: Build) -> Product:
        self.builds.append(build)
        (build.folder / "model.onnx").write_text(f"build {len(self.builds)}")
        build.work.mkdir(parents=True, exist_ok=True)
        (build.work / "half").write_text("unfinished")
        if self.fault:
            raise self.fault
        return Product("a model", **self.product)

    @contextlib.contextmanager
    def run(self, lineage: dict[str, Any]) -> Iterator[RunLog]:
        self.lineages.append(lineage)
        yield RunLog(None)

    def __call__(self, key: ProductKey = KEY, **arguments: Any) -> tuple[Artifact, bool]:
        given = {"options": {"precision": "fp32", "force": False}, **arguments}
        return find_or_build(self.store, key, self.build, run=self.run, log=self.lines.append, **given)


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(ArtifactFolder(tmp_path))


def upstream(store: ArtifactFolder, asset: str, **product: Any) -> Artifact:
    return Builder(store, **product)(ProductKey(asset, "1", {}))[0]


def test_a_product_is_built_once_and_found_afterwards(builder: Builder) -> None:
    first, unchanged = builder()
    assert not unchanged
    again, unchanged = builder()
    assert unchanged
    assert again.folder == first.folder
    assert len(builder.builds) == 1
    assert len(builder.lineages) == 1, "no MLflow run is opened for what is not built"
    assert "onnx_model: a model" in builder.lines[0]
    assert "unchanged since" in builder.lines[1]


def test_what_was_found_is_the_latest_again(builder: Builder) -> None:
    first, _ = builder()
    other, _ = builder(replace(KEY, content={"precision": "fp16"}))
    assert builder.store.latest("onnx_model").folder == other.folder
    builder()
    assert builder.store.latest("onnx_model").folder == first.folder


@pytest.mark.parametrize(
    "change",
    [{"version": "2"}, {"content": {"precision": "fp16"}}, {"identity": {"machine": "other"}}, {"asset": "trt_engine"}],
    ids=lambda change: next(iter(change)),
)
def test_all_that_the_key_hashes_makes_another_product(builder: Builder, change: dict[str, Any]) -> None:
    builder()
    _, unchanged = builder(replace(KEY, **change))
    assert not unchanged


def test_another_version_of_an_input_makes_another_product(builder: Builder) -> None:
    parent = upstream(builder.store, "trained_checkpoint")
    first, _ = builder(replace(KEY, inputs={"trained_checkpoint": parent}))
    assert first.record.inputs == {"trained_checkpoint": parent.record.data_version}
    assert builder.builds[0].inputs == {"trained_checkpoint": parent}
    newer = FolderArtifact(parent.folder, replace(parent.record, data_version="newer"))
    _, unchanged = builder(replace(KEY, inputs={"trained_checkpoint": newer}))
    assert not unchanged


def test_force_builds_again_and_is_another_version_for_the_assets_downstream(builder: Builder) -> None:
    first, _ = builder()
    assert first.record.data_version == first.record.key == KEY.digest
    second, unchanged = builder(force=True)
    assert not unchanged
    assert second.record.key == first.record.key
    assert second.record.data_version != first.record.data_version
    assert second.file("model.onnx").read_text() == "build 2"


def test_a_reproducible_product_keeps_its_version_under_force(tmp_path: Path) -> None:
    builder = Builder(ArtifactFolder(tmp_path), data_version="sha256 of its bytes")
    builder()
    again, _ = builder(force=True)
    assert again.record.data_version == "sha256 of its bytes"


def test_what_no_longer_holds_is_built_again(builder: Builder) -> None:
    builder()
    _, unchanged = builder(reusable=lambda artifact: False)
    assert not unchanged
    assert len(builder.builds) == 2


def test_a_fault_leaves_the_version_before_and_the_unfinished_work(builder: Builder, tmp_path: Path) -> None:
    first, _ = builder()
    builder.fault = HarError("The disk is full: free some space.")
    with pytest.raises(HarError, match="disk is full"):
        builder(replace(KEY, version="2"))
    assert builder.store.latest("onnx_model").folder == first.folder
    assert not list((tmp_path / "onnx_model").glob(f"{STAGING_PREFIX}*"))
    work = builder.builds[-1].work
    assert (work / "half").read_text() == "unfinished"
    builder.fault = None
    builder(replace(KEY, version="2"))
    assert builder.builds[-1].work == work, "the next attempt goes on with it"
    assert not work.exists()


def test_an_interrupt_leaves_the_store_as_it_was(builder: Builder, tmp_path: Path) -> None:
    builder.fault = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        builder()
    assert builder.store.find_latest("onnx_model") is None
    assert not list((tmp_path / "onnx_model").glob(f"{STAGING_PREFIX}*"))


def test_the_record_says_what_was_built_from_what(tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path)
    parent = upstream(store, "trained_checkpoint", lineage={"dataset": "sample", "split": 1})
    builder = Builder(
        store, metadata={"top1": 0.5}, checks={"parity": {"passed": True}}, pictures=("a.png",),
        lineage={"mlflow_run_id": "r"}, clips=10,
    )  # fmt: skip
    found, _ = builder(replace(KEY, inputs={"trained_checkpoint": parent}))
    record = json.loads((found.folder / "artifact.json").read_text())
    assert record["lineage"] == {"dataset": "sample", "split": 1, "mlflow_run_id": "r"}
    assert builder.lineages == [{"dataset": "sample", "split": 1}], "that of the inputs"
    assert record["metadata"]["top1"] == 0.5
    assert record["metadata"]["pictures"] == ["a.png"]
    assert record["metadata"]["usage"]["clips_per_second"] > 0
    assert record["checks"] == {"parity": {"passed": True}}
    assert record["config"] == {"precision": "fp32", "force": False}
    assert record["files"]["model.onnx"]["bytes"] == len("build 1")
    assert record["seconds"] >= 0


def test_inputs_of_different_lineages_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path)
    one = upstream(store, "trained_checkpoint", lineage={"split": 1})
    two = upstream(store, "frame_cache", lineage={"split": 2})
    builder = Builder(store)
    with pytest.raises(HarError, match=r"frame_cache was made with split 2, trained_checkpoint with 1"):
        builder(replace(KEY, inputs={"trained_checkpoint": one, "frame_cache": two}))
    assert not builder.builds


def test_a_linked_file_becomes_part_of_the_product(tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path)
    part = upstream(store, "frame_cache_part")
    builder = Builder(store, linked={"pack.npy": FolderArtifact(part.folder, part.record)})
    (part.folder / "pack.npy").write_text("frames")
    part.record.files["pack.npy"] = {"bytes": 6, "sha256": None}
    found, _ = builder()
    assert found.file("pack.npy").read_text() == "frames"
    assert found.record.files["pack.npy"]["bytes"] == 6
