"""Saving and registering without the graph, against a real MLflow server that goes away."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from har_assets.errors import HarError
from har_assets.serving import package
from har_assets.serving.package import RegistryError, Version, compare_answer, is_registered, register, save_model
from har_assets.tracking.tags import ONNX_VERSION_TAG
from har_assets_tests.mlflow_server import MlflowServer
from har_assets_tests.serving.server import ModelServer, encoded

CONFIG = {"runtime": "onnxruntime_cpu", "workers": 1}


def test_the_saved_model_answers_as_predict_video(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = save_model(tiny_onnx, tmp_path / "model", CONFIG, {"dataset": "tiny"})
    assert compare_answer(folder) == 0
    wanted = package.requirements()
    assert (folder / "requirements.txt").read_text().split() == wanted
    assert any(line.startswith("onnxruntime-gpu==") for line in wanted)


def test_impossible_limits_are_refused_where_the_model_is_loaded(tiny_onnx: Path, tmp_path: Path) -> None:
    folder = save_model(tiny_onnx, tmp_path / "model", {**CONFIG, "max_rows": 0}, {})
    with pytest.raises(HarError, match="max_rows is 0 in the configuration of the model: choose a number above 0"):
        compare_answer(folder)


def test_what_registered_models_import_of_this_package_stays() -> None:
    # MLflow keeps a copy of pyfunc_model.py in each registered model and runs that copy, however old it is.
    from har_assets.errors import HarError
    from har_assets.serving.limits import ServingLimits
    from har_assets.serving.service import FOLDER_VARIABLE, BusyError, RequestError, VideoRow, VideoService

    assert FOLDER_VARIABLE == "HAR_SERVING_FOLDER"
    assert issubclass(BusyError, HarError)
    assert issubclass(RequestError, HarError)
    assert VideoRow("text", None).video == "text"
    assert ServingLimits.from_config({"max_rows": 3, "runtime": "auto"}).max_rows == 3
    assert {"runtime", "workers", "folder"} <= inspect.signature(VideoService).parameters.keys()


@pytest.mark.slow
def test_a_server_keeps_the_model_and_its_absence_is_one_sentence(
    tiny_onnx: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    server = MlflowServer(tmp_path / "mlflow")
    server.start()
    clip = next((tiny_cache / "videos" / "sit").iterdir())
    try:
        client = MlflowClient(server.uri)
        run_id = client.create_run(client.create_experiment("served")).info.run_id

        def save(folder: Path, model: Any) -> Path:
            return save_model(tiny_onnx, folder, CONFIG, {}, model)

        def registered(folder: str, **options: Any) -> Version:
            tags = {package.ORIGIN_TAG: "one", ONNX_VERSION_TAG: "v1"}
            return register(server.uri, run_id, "tiny", tmp_path / folder, save, tags, **options)

        first = registered("first")
        assert registered("second") == first
        assert registered("third", again=True).number == "2"
        assert is_registered(server.uri, first)
        assert not is_registered(server.uri, Version("tiny", "9"))
        assert client.get_registered_model("tiny").aliases == {"challenger": "2"}
        served = ModelServer("models:/tiny@challenger", tmp_path, {"MLFLOW_TRACKING_URI": server.uri})
        try:
            status, answer = served.wait().ask([{"video": encoded(clip)}])
            assert (status, len(answer["predictions"][0]["labels"])) == (200, 3)
        finally:
            served.stop()
        server.kill()
        with pytest.raises(RegistryError, match=r"The model registry at .* does not do as asked .* start it"):
            registered("fourth", again=True)
        with pytest.raises(RegistryError):
            is_registered(server.uri, first)
    finally:
        server.kill()
