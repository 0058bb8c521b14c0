"""Which files and hosts a configuration may name where the deployment draws a border."""

import os
from pathlib import Path

import pytest

from har_assets import settings
from har_assets.errors import HarError
from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import Artifact
from har_assets.system.confinement import confined, hosts_of, is_among
from har_assets_tests.project import Project
from har_assets_tests.published import make_record
from har_assets_tests.store.test_folder import publish


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, a folder that is allowed besides, and one that is not."""
    for name in ("project", "incoming", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.avi").write_bytes(b"x")
    monkeypatch.setenv(settings.ALLOWED_FOLDERS, str(tmp_path / "incoming"))
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.parametrize("name", ["a.avi", "sub/../a.avi", "../incoming/a.avi", "not-there-yet.avi"])
def test_paths_below_the_folders_are_taken(name: str, project: Path) -> None:
    assert confined(project / name, project, "video") == project / name


@pytest.mark.parametrize(
    "name",
    [
        "../secret/a.avi",
        "/etc/passwd",
        "sub/../../secret/a.avi",
        "/proc/self/environ",
        "../incoming/../secret/a.avi",
        "../incoming-too/a.avi",
        "link/a.avi",
        "loop",
        "nul\0byte",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(name: str, project: Path, tmp_path: Path) -> None:
    (project / "link").symlink_to(tmp_path / "secret")
    (project / "loop").symlink_to(project / "loop")
    with pytest.raises(HarError, match=r"video names .* outside the folders that this deployment may read") as error:
        confined(project / name, project, "video")
    assert "\n" not in str(error.value)


def test_without_the_variable_any_path_may_be_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.ALLOWED_FOLDERS)
    assert confined(Path("/etc/passwd"), project, "video") == Path("/etc/passwd")


@pytest.mark.parametrize(
    ("job", "op", "config"),
    [
        ("infer", "predict_from_checkpoint", {"video": "../secret/a.avi", "model": "model.ckpt"}),
        ("infer", "predict_from_checkpoint", {"video": "a.avi", "model": "/etc/passwd"}),
        ("infer_from_onnx", "predict_from_onnx", {"video": "/etc/passwd", "model": "model.onnx"}),
    ],
)
def test_jobs_that_name_a_video_or_a_model_are_confined(
    job: str, op: str, config: dict[str, str], project: Path
) -> None:
    import dagster as dg

    from har_assets.definitions import defs
    from har_assets.graph.resources.store import ArtifactStore

    result = defs.resolve_job_def(job).execute_in_process(
        run_config={"ops": {op: {"config": config}}},
        resources={"store": ArtifactStore(project=str(project)), "io_manager": dg.mem_io_manager},
        raise_on_error=False,
    )
    (failure,) = result.get_step_failure_events()
    assert "outside the folders that this deployment may read" in str(failure.step_failure_data.error_display_string)


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "/etc"},
        {"source": "file:///etc/passwd"},
        {"source": "data", "split_lists": "../secret"},
        {"source": "hmdb51", "archive_urls": ["file:///etc/passwd"]},
        {"source": "hmdb51", "archive_urls": ["../secret/a.avi"]},
    ],
)
def test_sources_are_confined(fields: dict[str, object], project: Path) -> None:
    from har_assets_tests.project import materialize_here

    (project / "data").mkdir()
    (failure,) = materialize_here(Project(project), "key:raw_archive", {"raw_archive": fields})
    assert "outside the folders that this deployment may read" in failure
    assert not list((project / "artifacts").glob("raw_archive/[!.]*"))


@pytest.mark.parametrize("change", [{"project": "/etc"}, {"root": "../secret"}, {"root": "/etc/x"}])
def test_a_run_moves_no_store(change: dict[str, str], project: Path) -> None:
    from har_assets.graph.resources.store import ArtifactStore

    assert ArtifactStore().folder.root == project / "artifacts"
    with pytest.raises(HarError, match="outside the folders"):
        _ = ArtifactStore(**change).folder


def test_a_run_names_no_other_folder_of_new_videos(project: Path) -> None:
    from har_assets.graph.resources.incoming import IncomingVideos

    allowed = project.parent / "incoming"
    assert IncomingVideos(folder=str(allowed)).videos(project, project).address == str(allowed)
    with pytest.raises(HarError, match="outside the folders"):
        IncomingVideos(folder="/etc").videos(project, project)


def test_nor_another_bucket(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from har_assets.graph.resources.incoming import IncomingVideos

    monkeypatch.setenv("HAR_INCOMING", "s3://camera/new")
    assert IncomingVideos(folder="s3://camera/new").videos(project, project).address == "s3://camera/new"
    with pytest.raises(HarError, match=r"must not be set to .* in this deployment"):
        IncomingVideos(folder="s3://other/new").videos(project, project)


def test_a_run_names_no_other_mlflow(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from har_assets.graph.resources.mlflow import MlflowTracking

    monkeypatch.setenv("HAR_MLFLOW_URI", "http://mlflow:5000")
    for uri in ("http://mlflow:5000", "sqlite:///mlflow.db", ""):
        MlflowTracking(tracking_uri=uri).uri(project)
    for uri in ("http://evil.example", "sqlite:////etc/x.db", "file:///etc"):
        with pytest.raises(HarError, match=r"must not be set to .* in this deployment"):
            MlflowTracking(tracking_uri=uri).uri(project)
    monkeypatch.delenv("HAR_MLFLOW_URI")
    with pytest.raises(HarError, match="outside the folders"):
        MlflowTracking(outbox="../secret").outbox_folder(project)
    with pytest.raises(HarError, match="outside the folders"):
        MlflowTracking(tracking_uri="sqlite:///mlflow.db", artifact_root="../secret").artifact_location(project)


@pytest.mark.parametrize("name", ["../onnx_model", "/etc", "a/b", "", ".", "..", ".hidden", "a\0b", "a\nb", "-rf"])
def test_names_of_assets_lead_nowhere_else(name: str, tmp_path: Path) -> None:
    store = ArtifactFolder(tmp_path / "artifacts")
    for ask in (
        store.latest,
        store.find_latest,
        lambda asset: store.find(asset, "a" * 64),
        lambda asset: publish(store, make_record(asset)),
    ):
        with pytest.raises(HarError, match="is no name of an asset"):
            ask(name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link"])
def test_names_of_files_stay_in_their_artifact(name: str, tmp_path: Path) -> None:
    artifact = publish(ArtifactFolder(tmp_path), make_record())
    (tmp_path / "onnx_model" / "secret").write_text("x")
    (artifact.folder / "link").symlink_to(tmp_path / "onnx_model" / "secret")
    with pytest.raises(HarError, match="leads out of"):
        artifact.file(name)
    assert isinstance(artifact, Artifact)
    assert artifact.file("model.onnx").is_file()


def test_hosts() -> None:
    assert hosts_of(["https://user:word@A.example:8443/x", "b.example", " c.example:80 ", ""]) == {
        "a.example:8443",
        "b.example",
        "c.example:80",
    }
    allowed = {"a.example", "b.example:8443", "[::1]"}
    for address in ("https://a.example/x", "http://A.EXAMPLE:99/x", "https://b.example:8443", "http://[::1]/x"):
        assert is_among(address, allowed), address
    for address in (
        "https://b.example/x",
        "https://a.example.evil.org/",
        "https://a.example@evil.org/",
        "file:///a",
        "https:///x",
        "https://evil.org/a.example",
    ):
        assert not is_among(address, allowed), address
