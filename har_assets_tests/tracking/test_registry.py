"""What the model registry keeps from being pruned, read from a real one."""

from pathlib import Path

import pytest

from har_assets.errors import HarError
from har_assets.tracking.registry import Registered, registered_versions


def test_aliases_are_read_from_a_real_registry(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    assert registered_versions("") == []
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert registered_versions(uri) == []
    assert not (tmp_path / "mlflow.db").exists(), "looking makes no database"
    client = MlflowClient(uri)
    client.create_registered_model("har_video_action")
    for number in (1, 2, 3):
        tags = {"har.onnx_model": f"onnx{number}", **({"har.champion_before": "1"} if number == 2 else {})}
        client.create_model_version("har_video_action", str(tmp_path), tags=tags)
    client.set_registered_model_alias("har_video_action", "champion", "2")
    client.set_registered_model_alias("har_video_action", "challenger", "3")
    assert set(registered_versions(uri)) == {
        Registered("har_video_action", "2", "onnx2", "champion"),
        Registered("har_video_action", "1", "onnx1", "before champion"),
        Registered("har_video_action", "3", "onnx3", "challenger"),
    }
    client.delete_model_version("har_video_action", "1")
    assert len(registered_versions(uri)) == 2


def test_a_registry_that_does_not_answer_forbids_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(HarError, match=r"does not answer .* must not be pruned: start it") as error:
        registered_versions("http://127.0.0.1:9")
    assert "\n" not in str(error.value)
