"""`har doctor` and `har check`: each check passing and failing, in situations made for real."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._daemon.types import DaemonHeartbeat
from typer.testing import CliRunner

from har_assets import settings
from har_assets.cli.app import app
from har_assets.cli.doctor import environment, examine, finding, services
from har_assets.cli.doctor import project as project_checks
from har_assets.cli.doctor.finding import Finding
from har_assets.errors import HarError
from har_assets.graph.running.dead_runs import HOST_TAG, PROCESS_TAG
from har_assets.store.folder import ArtifactFolder
from har_assets.system.files import size_of
from har_assets.system.processes import process_name, this_host
from har_assets_tests.project import REPOSITORY
from har_assets_tests.published import make_record
from har_assets_tests.store.test_folder import publish
from har_assets_tests.videos import write_video


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("HAR_SOURCE", raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", folder)
    monkeypatch.chdir(folder)  # what dagster.yaml names is below the working folder
    return folder


def state(finding: Finding | list[Finding]) -> str:
    assert isinstance(finding, Finding)
    assert (finding.state == "ok") == (finding.remedy == ""), finding
    return finding.state


def states(findings: Finding | list[Finding]) -> dict[str, str]:
    assert isinstance(findings, list)
    return {finding.check: state(finding) for finding in findings}


# --- The store -----------------------------------------------------------------------------------------------------


def test_quota(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.STORE_QUOTA, raising=False)
    assert state(project_checks.check_quota(project)) == "ok"
    publish(ArtifactFolder(project / "artifacts"), make_record(), "x" * 10_000)
    used = size_of(project / "artifacts")
    for quota, expected in ((used * 20, "ok"), (used + 100, "warning"), (used - 1, "problem"), (10**18, "warning")):
        monkeypatch.setenv(settings.STORE_QUOTA, str(quota))
        assert state(project_checks.check_quota(project)) == expected, quota
    monkeypatch.setenv(settings.STORE_QUOTA, "much")
    with pytest.raises(HarError, match="HAR_STORE_QUOTA is 'much': write a number and a unit"):
        project_checks.check_quota(project)


def test_pruning_candidates(project: Path) -> None:
    store = ArtifactFolder(project / "artifacts")
    publish(store, make_record(key="0" * 64))
    found = project_checks.check_pruning(project)
    assert isinstance(found, Finding)
    assert found.found == "nothing may go, 1 versions are kept"
    for key in "abc":
        publish(store, make_record(key=key * 64))
    found = project_checks.check_pruning(project)
    assert isinstance(found, Finding)
    assert state(found) == "ok"
    assert "`har prune` would remove 1 old versions" in found.found


# --- Machine and environment ---------------------------------------------------------------------------------------


def test_python(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(environment.check_python(project)) == "ok"
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert state(environment.check_python(project)) == "problem"
    monkeypatch.setattr(sys, "version_info", namedtuple("V", "major minor")(3, 10))
    assert "3.11" in environment.check_python(project).remedy  # type: ignore[union-attr]


def test_the_lock_of_the_source_tree_counts_where_the_project_has_none(project: Path) -> None:
    assert not (project / "requirements.lock").exists()
    found = environment.check_packages(project)
    assert isinstance(found, Finding)
    assert "no requirements.lock" not in found.found


def fake_distribution(folder: Path, name: str, version: str) -> None:
    """Installed metadata of another version, found before the real one."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_packages(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = project / "requirements.lock"
    lock.write_text("# comment\npytest==1.0  # old\nabsent-package==2.0\n")
    found = environment.check_packages(project)
    assert isinstance(found, Finding)
    assert state(found) == "warning"
    assert "locked 1.0" in found.found
    assert "absent-package is missing" in found.found
    lock.write_text(f"pytest=={pytest.__version__}\n")
    assert state(environment.check_packages(project)) == "ok"
    fake_distribution(tmp_path / "site", "decord", "0.5.0")
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = environment.check_packages(project)
    assert isinstance(found, Finding)
    assert (state(found), found.found) == ("problem", "decord is 0.5.0, not ==0.6.0")


def test_the_antlr_trap(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(environment.check_asset_selection(project)) == "ok"
    (tmp_path / "broken" / "antlr4").mkdir(parents=True)
    (tmp_path / "broken" / "antlr4" / "__init__.py").write_text("raise TypeError('ord() expected a character')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    found = environment.check_asset_selection(project)
    assert isinstance(found, Finding)
    assert "ord() expected" in found.found
    monkeypatch.delenv("PYTHONPATH")
    fake_distribution(tmp_path / "site", "antlr4-python3-runtime", "4.9.3")
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = environment.check_asset_selection(project)
    assert isinstance(found, Finding)
    assert state(found) == "problem"
    assert "hydra-core==1.4.0rc3" in found.remedy


def shadow(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    """Modules of these names for the processes that the doctor starts."""
    folder.mkdir(exist_ok=True)
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_gpu(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("har_assets.system.gpu.gpu_compute_capability", lambda: None)
    assert state(environment.check_gpu(project)) == "ok"
    monkeypatch.setattr("har_assets.system.gpu.gpu_compute_capability", lambda: (8, 9))
    torch = (
        "class cuda:\n    is_available = staticmethod(lambda: {})\n    get_device_name = staticmethod(lambda: 'L4')\n"
    )
    shadow(tmp_path / "site", monkeypatch, torch=torch.format(True))
    assert environment.check_gpu(project) == Finding("gpu", "ok", "L4, compute capability 8.9")
    shadow(tmp_path / "site", monkeypatch, torch=torch.format(False))
    assert state(environment.check_gpu(project)) == "problem"


def test_tensorrt(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("har_assets.system.gpu.gpu_compute_capability", lambda: None)
    assert state(environment.check_tensorrt(project)) == "ok"
    broken = "raise ImportError('libnvinfer.so is missing')"
    shadow(tmp_path / "site", monkeypatch, tensorrt=broken, tensorrt_rtx="__version__ = '1'")
    assert state(environment.check_tensorrt(project)) == "ok"
    monkeypatch.setattr("har_assets.system.gpu.gpu_compute_capability", lambda: (9, 0))  # Hopper
    assert state(environment.check_tensorrt(project)) == "warning"
    shadow(tmp_path / "site", monkeypatch, tensorrt="__version__ = '11'")
    assert state(environment.check_tensorrt(project)) == "ok"
    shadow(tmp_path / "site", monkeypatch, tensorrt=broken, tensorrt_rtx="import os; os.abort()")
    found = environment.check_tensorrt(project)
    assert isinstance(found, Finding)
    assert (state(found), found.found) == ("problem", "no builder of engines: the process died (status -6)")


def test_onnxruntime(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(environment.check_onnxruntime(project)) == "ok"
    fake = "__version__ = '1'\ndef get_available_providers(): return ['CPUExecutionProvider']\n"
    shadow(tmp_path / "site", monkeypatch, onnxruntime=fake)
    monkeypatch.setattr("har_assets.system.gpu.gpu_compute_capability", lambda: (8, 9))
    assert state(environment.check_onnxruntime(project)) == "warning"
    fake_distribution(tmp_path / "both", "onnxruntime", "1.0")
    monkeypatch.syspath_prepend(tmp_path / "both")
    found = environment.check_onnxruntime(project)
    assert isinstance(found, Finding)
    assert "overwrite each other" in found.found
    shadow(tmp_path / "site", monkeypatch, onnxruntime="raise ImportError('no')")
    assert state(environment.check_onnxruntime(project)) == "problem"


def test_decoders(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(environment.check_decoders(project)) == "ok"
    shadow(tmp_path / "site", monkeypatch, decord="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert state(environment.check_decoders(project)) == "problem"
    other = (
        "import numpy\nclass Frame:\n    asnumpy = lambda self: numpy.zeros((48, 64, 3), 'uint8')\n"
        "class VideoReader:\n    def __init__(self, *a, **k): pass\n    __len__ = lambda self: 21\n"
        "    next = lambda self: Frame()\n"
    )
    shadow(tmp_path / "site", monkeypatch, decord=other)
    found = environment.check_decoders(project)
    assert isinstance(found, Finding)
    assert "disagree on a clip of 20 frames (21, 20)" in found.found


# --- Project folder ------------------------------------------------------------------------------------------------


def test_disk(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")

    def free(count: float) -> str:
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(0, 0, int(count)))
        return state(project_checks.check_disk(project))

    assert free(100e9) == "ok"
    assert free(10e9) == "warning"
    assert free(0.1e9) == "problem"
    monkeypatch.setenv("HAR_SOURCE", "hmdb51")
    assert free(10e9) == "problem"
    assert free(30e9) == "ok"


def test_folders(project: Path) -> None:
    assert state(project_checks.check_folders(project)) == "ok"
    (project / "artifacts").symlink_to("/proc/self/fdinfo")  # nothing can be written there, root or not
    found = project_checks.check_folders(project)
    assert isinstance(found, Finding)
    assert state(found) == "problem"
    assert str(project / "artifacts") in found.found


def test_working_folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(services.check_working_folder(project)) == "ok"
    assert state(services.check_working_folder(tmp_path)) == "problem"
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert state(services.check_working_folder(project)) == "warning"
    monkeypatch.setenv("DAGSTER_HOME", str(project))
    assert state(services.check_working_folder(project)) == "ok"
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "absent"))
    assert state(services.check_working_folder(project)) == "problem"


@dg.job
def nothing() -> None:
    """A job to make runs of."""


def test_dagster_database_and_dead_runs(project: Path, tmp_path: Path) -> None:
    assert states(services.check_dagster_database(tmp_path)) == {"dagster database": "ok"}
    assert states(services.check_dagster_database(project)) == {"dagster database": "warning"}
    with DagsterInstance.from_config(str(project)) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        assert states(services.check_dagster_database(project)) == {"dagster database": "ok", "dead runs": "ok"}
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        tags = {HOST_TAG: this_host(), PROCESS_TAG: str(process_name(child.pid))}
        child.send_signal(signal.SIGKILL)
        child.wait()
        run_id = instance.create_run_for_job(nothing, status=DagsterRunStatus.STARTED, tags=tags).run_id
        assert instance.event_log_storage.claim_concurrency_slot("gpu", run_id, "train").is_claimed
        assert states(services.check_dagster_database(project)) == {"dagster database": "ok", "dead runs": "problem"}
        staging = project / "artifacts" / "onnx_model" / f".staging-{child.pid}-x"
        staging.mkdir(parents=True)
        assert state(project_checks.check_leftovers(project)) == "warning"

        assert "1 dead runs marked failed, 1 staging folders removed" in examine.repair(project).found
        assert states(services.check_dagster_database(project)) == {"dagster database": "ok", "dead runs": "ok"}
        assert state(project_checks.check_leftovers(project)) == "ok"
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status == DagsterRunStatus.FAILURE
        assert not instance.event_log_storage.get_concurrency_run_ids()


def test_runs_that_wait_for_a_daemon_that_is_not_there(project: Path) -> None:
    with DagsterInstance.from_config(str(project)) as instance:
        code = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("module", "defs"))
        origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("a location"), "a repository")
        instance.create_run_for_job(
            nothing,
            status=DagsterRunStatus.QUEUED,
            remote_job_origin=origin.get_job_origin("nothing"),
            job_code_origin=JobPythonOrigin("nothing", code),
        )
        (found,) = (found for found in services.check_dagster_database(project) if found.check == "run queue")
        assert (found.state, found.found) == ("problem", "1 runs wait and no daemon starts them")
        for seconds_ago, check in ((services.DAEMON_SILENT_S + 1, "problem"), (0, None)):
            beat = DaemonHeartbeat(time.time() - seconds_ago, "QUEUED_RUN_COORDINATOR", "a daemon", [])
            instance.add_daemon_heartbeat(beat)
            assert states(services.check_dagster_database(project)).get("run queue") == check


def test_a_broken_dagster_database(project: Path) -> None:
    with DagsterInstance.from_config(str(project)):
        pass
    for database in (project / ".dagster").rglob("*.db"):
        database.write_bytes(b"not a database" * 1000)
    (found,) = services.check_dagster_database(project)
    assert state(found) == "problem"
    assert "move .dagster aside" in found.remedy


def test_what_mlflow_lacks_is_named_with_the_command_that_sends_it(project: Path) -> None:
    from har_assets.tracking.outbox import Address, opened

    assert state(services.check_mlflow_outbox(project)) == "ok"
    with opened(project / "mlflow_outbox/onnx_model-1", Address("http://127.0.0.1:9", "run", "onnx_model")) as outbox:
        outbox.metrics({"loss": 1.0}, 1)
        outbox.enter_state("FINISHED")
        assert state(services.check_mlflow_outbox(project)) == "ok", "a step at work is not to be warned of"
    found = services.check_mlflow_outbox(project)
    assert isinstance(found, finding.Finding)
    assert (found.state, found.remedy) == ("warning", "har mlflow-sync")


@pytest.mark.slow
def test_mlflow_database(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state(services.check_mlflow_database(project)) == "ok"
    database = project / "mlflow.db"
    database.write_bytes(b"not a database" * 1000)
    assert state(services.check_mlflow_database(project)) == "problem"
    database.unlink()
    sqlite3.connect(database).executescript("create table mine (x)").close()
    assert state(services.check_mlflow_database(project)) == "problem"
    database.unlink()
    connection = sqlite3.connect(database)
    connection.executescript(
        "create table alembic_version (version_num text); insert into alembic_version values ('0123456789ab')"
    ).close()
    connection.close()
    found = services.check_mlflow_database(project)
    assert isinstance(found, Finding)
    assert state(found) == "problem"
    assert found.remedy.startswith("mlflow db upgrade")


@pytest.mark.slow
def test_an_mlflow_server_that_is_away_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from har_assets.tracking.run import Tracking

    monkeypatch.setattr(Tracking, "uri", lambda self, project: "http://127.0.0.1:9")
    found = services.check_mlflow_database(project)
    assert isinstance(found, Finding)
    assert state(found) == "warning"
    assert found.found == "http://127.0.0.1:9 does not answer (ConnectionError): steps keep what they log"


def test_a_sound_mlflow_database(project: Path) -> None:
    from har_assets.tracking.run import Tracking

    Tracking().create_database(project)
    found = services.check_mlflow_database(project)
    assert isinstance(found, Finding)
    assert state(found) == "ok"
    assert found.found.endswith("opens, 2 experiments")  # and MLflow's `Default`


def test_data(project: Path, tmp_path: Path) -> None:
    from har_assets.graph.assets.dataset import raw_archive, video_clips
    from har_assets.graph.resources.dvc import Dvc
    from har_assets.graph.resources.store import ArtifactStore

    assert states(project_checks.check_data(project)) == {"dvc": "ok"}
    archive = tmp_path / "mine.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("jump/a.avi", "a" * 2_000_000)
        file.writestr("sit/b.avi", "b")
    dg.materialize(
        [raw_archive, video_clips],
        run_config={"ops": {"raw_archive": {"config": {"source": str(archive)}}}},
        resources={"store": ArtifactStore(project=str(project)), "dvc": Dvc()},
    )
    assert states(project_checks.check_data(project)) == {"dvc": "ok", "data": "ok"}

    clip = project / "data" / "videos" / "jump" / "a.avi"
    shutil.copy(clip, tmp_path / "copy")
    (tmp_path / "copy").replace(clip)  # no link of the cache any more
    assert states(project_checks.check_data(project)) == {"dvc": "ok", "data": "ok", "disk": "warning"}

    clip.chmod(0o644)
    clip.write_text("x" * 2_000_000)
    found = project_checks.check_data(project)
    assert isinstance(found, list)
    assert states(found) == {"dvc": "ok", "data": "problem"}
    assert "videos/jump/a.avi (changed)" in found[1].found

    text = (project / "data.dvc").read_text()
    (project / "data.dvc").write_text(text.replace(str(Dvc().tracked_version(project)), f"{'0' * 32}.dir"))
    assert states(project_checks.check_data(project))["dvc"] == "warning"
    (project / ".dvc").rename(project / ".dvc.away")
    assert states(project_checks.check_data(project)) == {"dvc": "problem"}
    (project / ".dvc.away").rename(project / ".dvc")
    shutil.rmtree(project / "artifacts")
    assert states(project_checks.check_data(project)) == {"data": "warning"}
    shutil.rmtree(project / "data")
    assert states(project_checks.check_data(project)) == {"dvc": "warning"}
    (project / "data.dvc").write_text("outs: [")
    with pytest.raises(HarError, match="not readable YAML"):
        project_checks.check_data(project)


def test_leftovers(project: Path) -> None:
    assert state(project_checks.check_leftovers(project)) == "ok"
    (project / "artifacts" / "onnx_model" / f".staging-{os.getpid()}-x").mkdir(parents=True)  # alive
    (project / "artifacts" / "onnx_model" / ".work-0123").mkdir()
    assert state(project_checks.check_leftovers(project)) == "ok"
    (project / ".data.replaced").mkdir()
    found = project_checks.check_leftovers(project)
    assert isinstance(found, Finding)
    assert (state(found), found.remedy) == ("warning", "materialize video_clips")


# --- Commands ------------------------------------------------------------------------------------------------------


def run_doctor(monkeypatch: pytest.MonkeyPatch, *checks: finding.Check) -> tuple[int, str]:
    monkeypatch.setattr(examine, "CHECKS", checks)
    table, listed = CliRunner().invoke(app, ["doctor"]), CliRunner().invoke(app, ["doctor", "--json"])
    assert table.exit_code == listed.exit_code
    assert {finding["state"] for finding in json.loads(listed.stdout)} <= {"ok", "warning", "problem"}
    return table.exit_code, table.stdout


def test_only_a_problem_makes_the_exit_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_fine(folder: Path) -> Finding:
        return Finding("fine", "ok", "as it should be")

    def check_odd(folder: Path) -> Finding:
        return Finding("odd", "warning", "a [red]name[/red] with \x1b[31m", "look at it")

    def check_broken(folder: Path) -> Finding:
        raise RuntimeError("two\nlines")

    def check_refused(folder: Path) -> Finding:
        raise HarError("this is so: do that.")

    status, said = run_doctor(monkeypatch, check_fine, check_odd)
    assert status == 0
    assert "→ look at it" in said
    assert "a [red]name[/red] with \\x1b[31m" in said
    assert run_doctor(monkeypatch, check_broken)[0] == 1
    assert "the check itself failed: RuntimeError: two lines" in run_doctor(monkeypatch, check_broken)[1]
    assert "this is so: do that." in run_doctor(monkeypatch, check_refused)[1]


@pytest.mark.slow
def test_the_whole_examination(project: Path) -> None:
    har = [sys.executable, "-m", "har_assets.cli"]
    subprocess.run([*har, "init"], cwd=project, check=True, capture_output=True)
    done = subprocess.run([*har, "doctor", "--json"], cwd=project, capture_output=True, text=True, check=False)
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == any(finding["state"] == "problem" for finding in findings.values())
    assert len(findings) >= len(examine.CHECKS)
    assert findings["dagster database"]["state"] == findings["mlflow database"]["state"] == "ok"
    assert done.stderr == ""


AWKWARD_NAMES = ("[red] -rf & {x}.avi", "new\nline \x1b[31m.avi", "\u00fc \u65e5\u672c.avi", "bad\udcff byte.avi")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    write_video(folder / "a" / "sound.avi", np.zeros((4, 32, 32, 3), np.uint8))
    for name in AWKWARD_NAMES:
        (folder / name).write_bytes(b"not a video")
    return folder


def har(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "har_assets.cli", *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def test_check_lists_what_is_wrong(videos: Path) -> None:
    done = har("check", str(videos), "--workers", "1")
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(AWKWARD_NAMES) + 1
    assert lines[-1] == "5 videos: 1 sound, 4 without a frame, 0 with something odd."
    assert "[red] -rf & {x}.avi: " in done.stdout.decode()
    assert "new\\nline \\x1b[31m.avi: " in done.stdout.decode()
    assert "bad\\udcff byte.avi: " in done.stdout.decode()
    assert b"\x1b" not in done.stdout + done.stderr  # no progress bar outside a terminal
    assert done.stderr == b""


def test_check_gives_json_in_any_encoding(videos: Path) -> None:
    done = har("check", str(videos), "--json", "--workers", "1", environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {Path(video["video"]).name for video in found} == {"sound.avi", *AWKWARD_NAMES}
    (sound,) = [video for video in found if video["ok"]]
    assert (sound["frames"], sound["height"], sound["width"], sound["problem"]) == (4, 32, 32, "")


def test_check_of_sound_videos_and_of_none(videos: Path, tmp_path: Path) -> None:
    assert har("check", str(videos / "a"), environment={"PYTHONIOENCODING": "ascii"}).returncode == 0
    done = har("check", str(tmp_path / "absent"))
    assert (done.returncode, done.stderr.decode().splitlines()) == (
        1,
        [f"error: There is no folder {tmp_path}/absent."],
    )
