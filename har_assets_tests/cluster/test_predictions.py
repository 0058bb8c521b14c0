"""Test predictions in parts: the same scores as in one process, and parts that are known by what they are made from."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from har_assets.cluster.predictions import PART, prediction_shards, score_on_cluster, score_shard
from har_assets.errors import HarError
from har_assets.report.predictions import score_here
from har_assets.runtime import Predictor, open_model
from har_assets.runtime.evaluation import prediction_table
from har_assets.store.opening import StoreLocation
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact, describe_files
from har_assets_tests.published import make_record

MODEL = "video_action_model.onnx"


def open_onnx(onnx: Artifact, store: Store, threads: int) -> Predictor:
    return open_model(onnx.file(MODEL), "onnxruntime_cpu", threads=threads)


def publish(store: Store, asset: str, version: str, files: dict[str, Path]) -> Artifact:
    with store.staging(asset) as folder:
        for name, file in files.items():
            shutil.copy(file, folder / name)
        record = make_record(asset, f"{asset} {version}".ljust(64, "."), files=describe_files(folder))
        return store.publish(folder, replace(record, data_version=version))


@pytest.fixture
def store(
    tmp_path: Path, tiny_cache: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[StoreLocation, dict[str, Artifact]]:
    """A store that is not the one of the environment, with a model and frames."""
    monkeypatch.setenv("HAR_ARTIFACTS", str(tmp_path / "of_the_environment"))
    location = StoreLocation(str(tmp_path / "chosen"))
    store = location.open()
    return location, {
        "onnx_model": publish(store, "onnx_model", "1", {MODEL: tiny_onnx}),
        "frame_cache": publish(
            store, "frame_cache", "1", {path.name: path for path in (tiny_cache / "cache").iterdir()}
        ),
    }


def manifest_of(tiny_cache: Path) -> pd.DataFrame:
    """All clips, and one that gave no frame."""
    table = pd.concat([pd.read_csv(tiny_cache / f"{role}.csv") for role in ("test", "train")], ignore_index=True)
    return pd.concat([table, table.head(1).assign(clip="jump/broken.avi")], ignore_index=True)


def test_scores_of_parts_are_those_of_one_process(
    store: tuple[StoreLocation, dict[str, Artifact]], tiny_cache: Path
) -> None:
    here, inputs = store
    manifest = manifest_of(tiny_cache)
    shards = prediction_shards(list(manifest["clip"]), inputs["frame_cache"], inputs["onnx_model"], {}, 5)
    clips = [clip for chunk in shards.values() for clip in chunk]
    assert sorted(clips) == sorted(set(manifest["clip"]) - {"jump/broken.avi"})
    versions = {"onnx_model": "1", "frame_cache": "1"}
    for key, chunk in shards.items():
        score_shard(key, chunk, here, open_onnx, versions, 2)
    common: dict[str, Any] = {"location": here, "inputs": inputs, "open_model": open_onnx, "windows": 2}
    said: list[str] = []
    scores, runtime = score_on_cluster(shards, **common, log=said.append)
    assert said == [f"{len(shards)} shards, {len(shards)} of them made before."]
    predictor = open_onnx(inputs["onnx_model"], here.open(), 0)
    scores_here, runtime_here = score_here(list(manifest["clip"]), predictor, inputs["frame_cache"], 2)
    table, scores_NK = prediction_table(scores_here, manifest, predictor.spec.labels, runtime_here)
    merged, merged_NK = prediction_table(scores, manifest, predictor.spec.labels, runtime)
    pd.testing.assert_frame_equal(table, merged)
    np.testing.assert_array_equal(scores_NK, merged_NK)


def test_a_part_is_known_by_model_frames_and_configuration(
    store: tuple[StoreLocation, dict[str, Artifact]], tiny_cache: Path, tiny_onnx: Path
) -> None:
    here, inputs = store
    clips = list(pd.read_csv(tiny_cache / "train.csv")["clip"])

    def keys(frames: Artifact, onnx: Artifact, recipe: Any) -> set[str]:
        return set(prediction_shards(clips, frames, onnx, recipe, 5))

    frames, onnx = inputs["frame_cache"], inputs["onnx_model"]
    first = keys(frames, onnx, {"windows": 2})
    assert first == keys(frames, onnx, {"windows": 2})
    assert not first & keys(frames, onnx, {"windows": 3})
    assert not first & keys(frames, publish(here.open(), "onnx_model", "2", {MODEL: tiny_onnx}), {"windows": 2})
    changed = here.open().root / "changed.csv"
    lines = (frames.folder / "index.csv").read_text().splitlines(keepends=True)
    digest = lines[1].split(",")[1]
    changed.write_text("".join(lines).replace(digest, "0" * 64))
    files = {path.name: path for path in frames.folder.iterdir() if path.name != "artifact.json"}
    other = publish(here.open(), "frame_cache", "2", {**files, "index.csv": changed})
    assert len(first & keys(other, onnx, {"windows": 2})) == len(first) - 1, "one changed video costs its own part"


def test_a_model_that_was_made_again_meanwhile_is_refused(
    store: tuple[StoreLocation, dict[str, Artifact]], tiny_cache: Path
) -> None:
    here, _ = store
    clip = pd.read_csv(tiny_cache / "train.csv")["clip"][0]
    with pytest.raises(HarError, match="onnx_model was made again"):
        score_shard("k" * 64, [clip], here, open_onnx, {"onnx_model": "0", "frame_cache": "1"}, 2)
    assert here.open().find(PART, "k" * 64) is None
