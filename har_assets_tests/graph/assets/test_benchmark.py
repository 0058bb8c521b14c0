"""runtime_benchmark on published products that are small enough to be made here."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from har_assets.export.engine_options import EngineOptions
from har_assets.export.tensorrt import build_engine
from har_assets.model.files import CHECKPOINT, ENGINE, ONNX
from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import Artifact, describe_files
from har_assets_tests.project import Project, materialize_here
from har_assets_tests.published import make_record

SMALL = {"batch_sizes": [1, 3], "rounds": 3, "clips": 3, "videos": 3, "windows": 2}


def publish(store: ArtifactFolder, asset: str, files: dict[str, Path], **inputs: str) -> Artifact:
    """A product as its asset would have published it."""
    with store.staging(asset) as folder:
        for name, source in files.items():
            if source.is_dir():
                shutil.copytree(source, folder / name, dirs_exist_ok=True)
            else:
                shutil.copy(source, folder / name)
        record = make_record(
            asset,
            data_version=asset,
            files=describe_files(folder),
            lineage={"dataset": "tiny", "split": 1},
            metadata={"parity": {"passed": True}},
            inputs=inputs,
        )
        return store.publish(folder, record)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path, tiny_checkpoint: Path, tiny_onnx: Path
) -> Project:
    project = Project.make(tmp_path_factory.mktemp("benchmark"))
    shutil.copytree(tiny_cache / "videos", project.folder / "data" / "videos")
    engine = tmp_path_factory.mktemp("engine") / ENGINE
    build_engine(tiny_onnx, engine, EngineOptions(builder="tensorrt_rtx", targets=("8.9",)))
    publish(project.store, "frame_cache", {".": tiny_cache / "cache"})
    for role in ("train", "val", "test"):
        publish(project.store, f"{role}_manifest", {f"{role}.csv": tiny_cache / f"{role}.csv"})
    publish(project.store, "trained_checkpoint", {CHECKPOINT: tiny_checkpoint})
    publish(project.store, "onnx_model", {ONNX: tiny_onnx})
    publish(project.store, "trt_engine", {ENGINE: engine, f"{ENGINE}.json": engine.with_name(f"{ENGINE}.json")})
    return project


def test_every_runtime_has_figures_or_a_reason(project: Project) -> None:
    config: dict[str, Any] = {"runtime_benchmark": SMALL}
    assert materialize_here(project, "runtime_benchmark", config) == []
    artifact = project.latest("runtime_benchmark")
    with artifact.file("runtime_benchmark.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_runtime = {row["runtime"]: row for row in rows}
    assert by_runtime.keys() == {
        "pytorch",
        "pytorch_compiled",
        "onnxruntime_cpu",
        "onnxruntime_cuda",
        "openvino",
        "openvino_bf16",
        "tensorrt",
        "tensorrt_rtx",
    }
    for row in rows:
        assert bool(row["reason"]) != bool(row["p50_ms"]), row
    assert float(by_runtime["onnxruntime_cpu"]["videos_per_s"]) > 0
    assert by_runtime["tensorrt"]["reason"]
    assert artifact.record.metadata["fastest"] in by_runtime
    assert artifact.record.metadata["videos"] == 3
    assert artifact.file("runtime_benchmark.png").stat().st_size > 5_000

    # The same machine, models and configuration: nothing is measured again.
    created = artifact.record.created
    assert materialize_here(project, "runtime_benchmark", config) == []
    assert project.latest("runtime_benchmark").record.created == created


def test_nothing_to_measure_is_a_failure_in_words(project: Project) -> None:
    config = {"runtime_benchmark": {**SMALL, "runtimes": ["tensorrt"]}}
    (failure,) = materialize_here(project, "runtime_benchmark", config)
    assert failure.startswith("No runtime could be measured (tensorrt: it was built by TensorRT-RTX")
