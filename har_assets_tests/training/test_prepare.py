"""The request of a training and the product that it leaves, without Dagster."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError
from har_assets.model.recipe import CheckpointOptions, TrainingOptions
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.store.product import Build
from har_assets.store.record import Artifact
from har_assets.training.fit import fit
from har_assets.training.prepare import checkpoint_product, git_commit, prepare_request, weights_in_words
from har_assets.training.request import SUMMARY_FILE, TrainingRequest
from har_assets_tests.builds import build_of, data_of, published

OPTIONS = CheckpointOptions(num_frames=4, frame_height=16, frame_width=16, epochs=1, batch_size=4, seed=3, flip=False)


@pytest.fixture
def build(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> Build:
    index = tmp_path / "index_to_class.csv"
    index.write_text("index,class\n" + "".join(f"{number},{name}\n" for number, name in enumerate(tiny_spec.labels)))
    frames, *manifests = data_of(tmp_path / "store", tiny_cache)
    params = json.loads((tiny_cache / "cache" / "params.json").read_text())
    frames.record.config.update(stride=params["stride"], height=params["height"], width=params["width"])
    classes = published(tmp_path / "store", "class_index", {"index_to_class.csv": index})
    made = build_of(tmp_path, frames, *manifests, classes)
    made.work.mkdir()
    return made


def request_of(build: Build, options: CheckpointOptions = OPTIONS, **mlflow: Any) -> TrainingRequest:
    return prepare_request(build, options, Path("/"), place={}, mlflow=mlflow)


def test_a_request_holds_the_options_and_what_the_inputs_say(build: Build) -> None:
    request = request_of(build, mlflow_tags={"dagster_run_id": "r"})
    assert request.model_dump(include=set(TrainingOptions.model_fields)) == OPTIONS.model_dump(
        include=set(TrainingOptions.model_fields)
    )
    spec, frames = ModelSpec.from_json(request.spec), build.inputs["frame_cache"].record.config
    assert (spec.num_frames, spec.frame_height, spec.network) == (4, 16, "cnn3d")
    assert (spec.frame_stride, spec.decode_height) == (frames["stride"], frames["height"])
    assert request.mlflow_tags["dagster_run_id"] == "r"
    assert request.mlflow_tags["dvc_md5"] == Provenance.from_json(request.provenance).data_version == "v1"
    assert TrainingRequest.read(request.write(build.work / "request.json")) == request


def test_impossible_options_are_one_sentence(build: Build) -> None:
    with pytest.raises(HarError, match=r"There is no schedule 'step': choose one_cycle or cosine or constant\."):
        request_of(build, OPTIONS.model_copy(update={"schedule": "step"}))
    with pytest.raises(HarError, match=r"epochs is 0: choose 1 or more\."):
        request_of(build, OPTIONS.model_copy(update={"epochs": 0}))


def test_the_product_of_a_training_is_a_checkpoint_with_its_card_and_curves(build: Build) -> None:
    request = request_of(build)
    summary = fit(request, lambda line: None)
    assert json.loads((build.work / SUMMARY_FILE).read_text()) == summary
    product = checkpoint_product(build, OPTIONS, request, summary, "")
    files = {path.name for path in build.folder.iterdir()}
    assert files == {"video_action_model.ckpt", "README.md", "history.jsonl", "curves.png", "validation_confusion.png"}
    assert product.headline.startswith("validation top-1 ")
    assert product.headline.endswith("(epoch 1 of 1)")
    assert product.metadata["mlflow_run"] == "none: tracking is off"
    assert product.pictures == ("curves.png", "validation_confusion.png")
    assert "learning rate 0.003" in (card := (build.folder / "README.md").read_text())
    assert "batches of 4, seed 3" in card


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    def weights(**metadata: str) -> Artifact:
        return published(tmp_path / metadata["network"], "pretrained_weights", {}, metadata=metadata)

    assert weights_in_words(None, "i3d") == ""
    i3d = weights(network="i3d", dataset="Kinetics-400", file="i3d.pkl", sha256="a" * 64)
    assert weights_in_words(i3d, "i3d") == "Kinetics-400, i3d.pkl, SHA-256 aaaaaaaaaaaa"
    with pytest.raises(HarError, match=r"holds i3d, not r3d_18: materialize it with network: r3d_18"):
        weights_in_words(i3d, "r3d_18")


def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == ""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a.txt").write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a.txt").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"
