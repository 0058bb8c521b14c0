"""serving_model on the sample's pipeline, registered and served by a real `mlflow models serve`."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

from har_assets.runtime import open_model
from har_assets.runtime.video import predict_video
from har_assets_tests.project import Project, execute_here, log_of, materialize_here
from har_assets_tests.serving.malformed import malformed_requests
from har_assets_tests.serving.server import ModelServer, encoded
from har_assets_tests.video.conftest import unpack_real_clips

RUNTIME = "onnxruntime_cpu"
"""Named, so that server and test compute the same numbers: `auto` may choose otherwise in each."""


@pytest.fixture(scope="module")
def registered(sample_road: Project) -> Project:
    """The sample's pipeline with serving_model, by the job that users run."""
    config = sample_road.folder / "serving.yaml"
    limits = {"max_video_bytes": 5_000_000, "max_rows": 4}
    config.write_text(
        json.dumps(
            {"ops": {"serving_model": {"config": {"runtime": RUNTIME, **limits}}, "video_clips": {"config": {}}}}
        )
    )
    done = sample_road.run(
        "dagster", "job", "execute", "-m", "har_assets", "-j", "train_ml_flow_server_dvc", "-c", str(config)
    )
    assert done.returncode == 0, log_of(done)[-4000:]
    return sample_road


def uri_of(project: Project) -> str:
    return f"sqlite:///{project.folder}/mlflow.db"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("allowed")


@pytest.fixture(scope="module")
def server(registered: Project, videos: Path) -> Iterator[ModelServer]:
    """`mlflow models serve -m models:/har_video_action@challenger`."""
    started = ModelServer(
        "models:/har_video_action@challenger",
        registered.folder,
        {"MLFLOW_TRACKING_URI": uri_of(registered), "HAR_SERVING_FOLDER": str(videos)},
    )
    try:
        yield started.wait()
    finally:
        started.stop()


@pytest.fixture(scope="module")
def clips(registered: Project) -> list[Path]:
    return [sorted(folder.iterdir())[0] for folder in sorted((registered.folder / "data" / "videos").iterdir())]


def expected_of(project: Project, clip: Path, **arguments: Any) -> dict[str, Any]:
    model = open_model(project.latest("onnx_model").file("video_action_model.onnx"), RUNTIME)
    found = predict_video(model, clip, **arguments)
    return {
        "labels": list(found.labels),
        "scores": list(found.scores),
        "windows": found.windows,
        "frames": found.frames,
        "note": found.note,
    }


def test_a_version_is_registered_in_the_run_of_the_training(registered: Project) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri_of(registered))
    record = registered.latest("serving_model").record
    version = client.get_model_version_by_alias("har_video_action", "challenger")
    assert record.metadata["registered"] == {"name": "har_video_action", "version": str(version.version)}
    assert version.run_id == registered.latest("trained_checkpoint").record.lineage["mlflow_run_id"]
    assert version.tags["har.onnx_model"] == registered.latest("onnx_model").record.data_version
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["registered_as"] == f"har_video_action version {version.version}"
    assert any(output.model_id in version.source for output in run.outputs.model_outputs)
    assert record.checks["answers_like_predict"]["passed"] is True


def test_the_registered_model_is_the_published_folder(registered: Project) -> None:
    from mlflow import MlflowClient

    folder = registered.latest("serving_model").folder / "model"
    version = MlflowClient(uri_of(registered)).get_model_version_by_alias("har_video_action", "challenger")
    there = Path(version.source.removeprefix("file://"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "pyfunc_model.py", "requirements.txt", "input_example.json"} <= names
    for name in names:
        assert (there / name).read_bytes() == (folder / name).read_bytes(), name
    assert f"har_assets=={metadata.version('har_assets')}\n" in (folder / "requirements.txt").read_text()


def test_it_answers_as_predict_video_does(registered: Project, server: ModelServer, clips: list[Path]) -> None:
    answers = server.predict(*clips[:4], top_k=8, windows=3)
    assert answers == [expected_of(registered, clip, top=8, windows=3) for clip in clips[:4]]
    assert [answer["labels"][0] for answer in answers] == [clip.parent.name for clip in clips[:4]]
    assert server.predict(clips[0]) == [expected_of(registered, clips[0])]


def test_it_answers_real_clips(registered: Project, server: ModelServer, shared_data: Path, tmp_path: Path) -> None:
    for clip in unpack_real_clips(shared_data / "hmdb51_mini.rar", tmp_path)[:3]:
        assert server.predict(clip) == [expected_of(registered, clip)]


def test_a_path_is_taken_below_the_folder(
    registered: Project, server: ModelServer, videos: Path, clips: list[Path]
) -> None:
    (videos / "clip.avi").write_bytes(clips[0].read_bytes())
    assert server.ask([{"path": "clip.avi"}]) == (200, {"predictions": [expected_of(registered, clips[0])]})
    (videos / "link.avi").symlink_to(clips[1])
    for path in ("../clip.avi", str(clips[0]), "link.avi"):
        status, answer = server.ask([{"path": path}])
        assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert "is not below the folder of videos of this server" in answer["message"]


def test_eight_clients_at_once_get_their_own_answers(
    registered: Project, server: ModelServer, clips: list[Path]
) -> None:
    expected = [expected_of(registered, clip) for clip in clips]
    with ThreadPoolExecutor(8) as clients:
        for _ in range(3):
            answers = clients.map(server.predict, clips)
            assert [answer for (answer,) in answers] == expected


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "The request has no rows with `video` or `path`: send 1 to 4 videos."),
        ([{"vidoe": "eA=="}], "The request has no rows with `video` or `path`"),
        ([{"video": None}], "Row 1 of 1: give either `video`, a file as base64, or `path`"),
        ([{"video": "eA=="}] * 5, "The request has 5 rows with `video` or `path`: send 1 to 4 videos."),
        ([{"video": "no base64"}], "Row 1 of 1: `video` is not base64: encode the file with `base64 -w0`."),
        ([{"video": 3}], "`video` is of type int"),
        ([{"video": "aGVsbG8="}], "Row 1 of 1: the file is not a video that can be opened"),
        ([{"video": "eA==", "path": "x"}], "both `video` and `path` are given"),
        ([{"video": "A" * 8_000_000}], "the video has 6,000,000 bytes, the limit is 5,000,000"),
    ],
)
def test_a_bad_row_is_400_with_a_sentence(server: ModelServer, rows: list[Any], words: str) -> None:
    status, answer = server.ask(rows)
    assert status == 400
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    assert words in answer["message"]
    assert "stack_trace" not in answer
    assert "Traceback" not in answer["message"]


def test_what_mlflow_itself_refuses_is_400_too(server: ModelServer, clips: list[Path]) -> None:
    good = json.dumps({"video": encoded(clips[0])})
    for body in (
        "{",
        "",
        "[1]",
        "null",
        '{"dataframe_records": 5}',
        '{"inputs": 5}',
        f'{{"dataframe_records": [{good}], "params": {{"top_k": "many"}}}}',
        f'{{"dataframe_records": [{good}], "params": {{"windows": 0}}}}',
    ):
        status, text = server.post(body.encode())
        assert status == 400, body[:80]
        assert json.loads(text)["message"]
        assert "Traceback" not in text


def test_a_killed_decoder_is_replaced(registered: Project, server: ModelServer, clips: list[Path]) -> None:
    below = psutil.Process(server.process.pid).children(recursive=True)
    decoders = [process for process in below if "spawn_main" in " ".join(process.cmdline())]
    assert decoders
    for process in decoders:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(decoders, timeout=10)
    assert server.predict(clips[0]) == [expected_of(registered, clips[0])]


def test_the_same_model_is_registered_once_and_again_by_force(registered: Project) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri_of(registered))

    def versions() -> set[str]:
        return {str(version.version) for version in client.search_model_versions("name = 'har_video_action'")}

    def materialize(**config: Any) -> list[str]:
        config = {"runtime": RUNTIME, "max_video_bytes": 5_000_000, "max_rows": 4, **config}
        return materialize_here(registered, "key:serving_model", {"serving_model": config}, tracked=True)

    before = versions()
    assert materialize() == []
    assert versions() == before
    # Registered, and killed before it was published.
    latest = registered.latest("serving_model")
    (latest.folder / "artifact.json").rename(latest.folder / "hidden.json")
    assert materialize() == []
    assert versions() == before
    # Deleted in the registry, it is made again; and by force.
    deleted = latest.record.metadata["registered"]["version"]
    client.delete_model_version("har_video_action", deleted)
    assert materialize() == []
    assert registered.latest("serving_model").record.metadata["registered"]["version"] in versions() - {deleted}
    there = versions()
    assert materialize(force=True) == []
    assert len(versions()) == len(there) + 1


def test_without_mlflow_the_folder_alone_is_made(registered: Project, tmp_path: Path, clips: list[Path]) -> None:
    import mlflow.pyfunc
    import pandas as pd

    project = Project.make(tmp_path / "project")
    shutil.copytree(
        registered.folder / "artifacts" / "onnx_model", project.folder / "artifacts" / "onnx_model", symlinks=True
    )
    assert execute_here(project, "key:serving_model", {"serving_model": {"runtime": RUNTIME}}).success
    artifact = project.latest("serving_model")
    assert "not registered, as MLflow is off; the folder can be served as it is" in artifact.record.headline
    loaded = mlflow.pyfunc.load_model(str(artifact.folder / "model"))
    try:
        assert loaded.predict(pd.DataFrame({"video": [encoded(clips[0])]})) == [expected_of(registered, clips[0])]
    finally:
        loaded.unwrap_python_model().service.close()


def test_a_failed_parity_is_refused(registered: Project, tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    shutil.copytree(
        registered.folder / "artifacts" / "onnx_model", project.folder / "artifacts" / "onnx_model", symlinks=True
    )
    record = project.latest("onnx_model").folder / "artifact.json"
    record.write_text(record.read_text().replace('"passed": true', '"passed": false'))
    (said,) = materialize_here(project, "key:serving_model", {})
    assert "onnx_model did not pass its parity gate" in said
    assert project.store.find_latest("serving_model") is None


@pytest.mark.slow
def test_two_hundred_malformed_requests_end_nothing(
    registered: Project, server: ModelServer, clips: list[Path]
) -> None:
    for what, body, content_type in malformed_requests(clips[:3], 200):
        status, text = server.post(body, content_type)
        # What MLflow itself makes of a request that never reaches the model.
        own = {
            "no content type": 500,
            "deep": 500,
            "plain text": 415,
            "another encoding": 415,
            "empty content type": 415,
        }
        assert status == own.get(what, 400), (what, status, text[:300])
        if content_type == "application/json":
            assert "Traceback" not in text, what
    assert server.predict(clips[0]) == [expected_of(registered, clips[0])]
