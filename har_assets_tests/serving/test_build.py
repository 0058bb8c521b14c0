"""The product of serving_model without Dagster and without MLflow's server."""

from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError
from har_assets.model.files import ONNX
from har_assets.serving.build import build_serving_model, serve_command, still_registered
from har_assets.store.product import Build, Product
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
