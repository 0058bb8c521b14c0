"""The product of serving_model without Dagster and without MLflow's server."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError
from har_assets.model.files import ONNX
from har_assets.serving.build import build_serving_model, serve_command, still_registered
from har_assets.store.product import Build, Product
from har_assets.tracking.run import Tracking
from har_assets.tracking.tags import ONNX_VERSION_TAG, TEST_FIGURES
from har_assets_tests.builds import build_of, published

SERVED = {"runtime": "onnxruntime_cpu", "workers": 1, "max_rows": 3}


@pytest.fixture
def build(tmp_path: Path, tiny_onnx: Path) -> Build:
    rows = [{"precision": "fp32", "file": ONNX, "passed": True}]
    return build_of(tmp_path, published(tmp_path, "onnx_model", {ONNX: tiny_onnx}, metadata={"precisions": rows}))


def make(build: Build, served: dict[str, Any] | None = None, precision: str = "", uri: str = "") -> Product:
    return build_serving_model(
        build, served or SERVED, precision=precision, uri=uri, model_name="tiny", path="latest/model", again=False
    )


def test_without_a_run_the_folder_alone_is_made_and_it_says_why(build: Build) -> None:
    product = make(build, uri="sqlite:///mlflow.db")
    assert (build.folder / "model" / "MLmodel").is_file()
    assert product.headline.startswith("fp32, not registered, as the model was trained without MLflow; ")
    assert product.metadata["registered"] == {}
    assert product.metadata["limits"] == SERVED
    assert product.metadata["serve"] == "mlflow models serve --env-manager local --port 5001 -m latest/model"
    check = product.checks["answers_like_predict"]
    assert (check["passed"], check["max_difference"]) == (True, 0.0)
    assert still_registered(published(build.work, "serving_model", {}, metadata=product.metadata), "")


def test_with_a_run_it_is_registered_once_and_missed_when_it_is_deleted(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # a database keeps the files of its models in the working folder
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    build.run.run_id = client.create_run(client.create_experiment("served")).info.run_id
    product = make(build, uri=uri)
    assert product.headline == "fp32, tiny version 1, alias challenger"
    assert product.metadata["registered"] == {"name": "tiny", "version": "1"}
    assert product.metadata["serve"].endswith(" -m models:/tiny@challenger")
    tags = client.get_model_version("tiny", "1").tags
    assert (tags[ONNX_VERSION_TAG], tags["precision"], tags["dataset"]) == ("onnx_model 1", "fp32", "tiny")
    # test_predictions finds the logged model of the version by the file that it has tested.
    with Tracking(tracking_uri=uri).continued_run(tmp_path, build.run.run_id, step="test_predictions") as run:
        run.test_figures(dict.fromkeys(TEST_FIGURES, 0.5), build.inputs["onnx_model"].record.files[ONNX]["sha256"])
    (logged,) = client.search_logged_models([client.get_experiment_by_name("served").experiment_id])
    assert {metric.key: metric.value for metric in logged.metrics} == dict.fromkeys(TEST_FIGURES, 0.5)
    tags = client.get_model_version("tiny", "1").tags
    assert {name: tags[name] for name in TEST_FIGURES} == dict.fromkeys(TEST_FIGURES, "0.5000")
    shutil.rmtree(build.folder / "model")
    assert make(build, uri=uri).metadata["registered"]["version"] == "1"
    model = published(build.work, "serving_model", {}, metadata=product.metadata)
    assert still_registered(model, uri)
    client.delete_model_version("tiny", "1")
    assert not still_registered(model, uri)


@pytest.mark.parametrize(
    ("served", "precision", "words"),
    [
        ({"max_rows": 0}, "", "max_rows is 0 in the configuration of the model: choose a number above 0"),
        ({"max_rows": 2.5}, "", "max_rows is 2.5 in the configuration of the model: choose a whole number above 0"),
        (SERVED, "int8", "published in fp32, not in int8"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(build: Build, served: dict[str, Any], precision: str, words: str) -> None:
    with pytest.raises(HarError, match=words):
        make(build, served, precision)
    assert list(build.folder.iterdir()) == []


def test_a_registered_model_is_served_from_its_registry() -> None:
    command = serve_command("http://mlflow:5000", "models:/tiny@challenger")
    assert command.startswith("MLFLOW_TRACKING_URI=http://mlflow:5000 mlflow models serve ")
