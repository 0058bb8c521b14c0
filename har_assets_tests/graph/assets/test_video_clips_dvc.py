"""video_clips and data_dvc in project folders of their own, with the real dvc and a remote that is a folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.definitions.observe import observe
from dagster._core.loader import LoadingContextForTest

from har_assets import defs
from har_assets.graph.assets.data_dvc import data_dvc
from har_assets.graph.assets.dataset import data_unspoiled, raw_archive, video_clips
from har_assets.graph.resources.dvc import Dvc
from har_assets.graph.resources.store import ArtifactStore
from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import Artifact
from har_assets_tests.dataset.swap import KILLED_SWAP
from har_assets_tests.project import REPOSITORY, Project, log_of

ASSETS = [raw_archive, video_clips, data_unspoiled]


def archive(folder: Path, name: str = "mine", clips: tuple[str, ...] = ("a.avi", "b!#&()+;@[]~.avi")) -> Path:
    """A ZIP of two class folders. What the clips hold is no matter before frame_cache."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as file:
        for label in ("jump", "sit"):
            for clip in clips:
                file.writestr(f"{label}/{clip}", f"{name} {label} {clip}")
    return path


@pytest.fixture(autouse=True)
def tiny_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The built-in sample as a ZIP of one clip: rendering the real one takes long and changes nothing here."""

    def write(folder: Path, **options: Any) -> SimpleNamespace:
        lists = folder / "lists.zip"
        with zipfile.ZipFile(lists, "w") as file:
            file.writestr("jump_test_split1.txt", "a.avi 1\n")
        return SimpleNamespace(archive=archive(folder, "clips", ("a.avi",)), split_lists=lists)

    monkeypatch.setattr("har_assets.dataset.sample.write_sample", write)
    monkeypatch.delenv("HAR_SOURCE", raising=False)


def make_project(folder: Path, remote: Path | None = None) -> Path:
    """What a clone of the repository holds: the configuration of DVC, no data."""
    (folder / ".dvc").mkdir(parents=True)
    config = (REPOSITORY / ".dvc" / "config").read_text()
    if remote is not None:
        config = config.replace("[core]", "[core]\n    remote = there") + f"['remote \"there\"']\n    url = {remote}\n"
    (folder / ".dvc" / "config").write_text(config)
    for name in (".dvc/.gitignore", ".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def run(
    project: Path,
    selection: Any = None,
    *,
    instance: dg.DagsterInstance | None = None,
    raw: dict[str, Any] | None = None,
    **clips: Any,
) -> dg.ExecuteInProcessResult:
    """Materialize raw_archive and video_clips, or a selection, with their configuration."""
    ops: dict[str, Any] = {"video_clips": {"config": clips}} if clips else {}
    if raw:
        ops["raw_archive"] = {"config": raw}
    return dg.materialize(
        ASSETS,
        selection=selection,
        run_config={"ops": ops},
        raise_on_error=False,
        instance=instance,
        resources={"store": ArtifactStore(project=str(project)), "dvc": Dvc()},
    )


def made(project: Path, selection: list[Any] | None = None, **options: Any) -> Artifact:
    """The same, asserted to work; the published video_clips."""
    result = run(project, selection, **options)
    assert result.success, refusal(result)
    return ArtifactFolder(project / "artifacts").latest("video_clips")


def refusal(result: dg.ExecuteInProcessResult) -> str:
    """What a failed run says."""
    return " ".join(
        event.step_failure_data.user_failure_data.description or ""
        if event.step_failure_data.user_failure_data
        else event.step_failure_data.error_display_string
        for event in result.all_events
        if event.is_step_failure
    )


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def videos(project: Path) -> dict[str, str]:
    return {
        path.relative_to(project / "data").as_posix(): path.read_text()
        for path in sorted((project / "data" / "videos").rglob("*.avi"))
    }


@pytest.fixture(scope="module")
def first_tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the real data set `mine` in data/, tracked. To be copied, not written to."""
    folder = tmp_path_factory.mktemp("tracked")
    project = make_project(folder / "project")
    made(project, raw={"source": str(archive(folder / "own"))})
    return project


@pytest.fixture
def tracked(first_tracked: Path, tmp_path: Path) -> Path:
    """A copy of it, in which data/ and DVC's cache share their files as in the first."""
    subprocess.run(["cp", "--archive", str(first_tracked), str(tmp_path / "project")], check=True)
    return tmp_path / "project"


@pytest.mark.parametrize("in_git", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_clone_pulls_what_was_pushed(tmp_path: Path, in_git: bool) -> None:
    first = make_project(tmp_path / "first", tmp_path / "remote")
    if in_git:
        git(first, "init", "--quiet")
    pushed = made(first, raw={"source": str(archive(tmp_path / "own"))}, dvc="push")
    second = tmp_path / "second"
    if in_git:
        git(first, "add", ".")
        git(first, "commit", "--quiet", "-m", "data")
        assert git(first, "status", "--short") == ""
        git(tmp_path, "clone", "--quiet", str(first), str(second))
        assert not (second / "data").exists()
    else:
        make_project(second, tmp_path / "remote")
        shutil.copy(first / "data.dvc", second)
    shutil.rmtree(tmp_path / "own")  # nobody needs the archive again

    pulled = made(second, [video_clips, data_unspoiled], dvc="pull")  # raw_archive was never made here
    assert pulled.record.data_version == pushed.record.data_version
    assert pulled.record.lineage == pushed.record.lineage
    assert videos(second) == videos(first)
    for path in (second / "data").rglob("*.*"):
        assert path.stat().st_nlink == 2
        assert path.stat().st_mode & 0o777 == 0o444

    # The whole pipeline afterwards: data.dvc is the source of the project from now on, and nothing is done again.
    again = made(second)
    assert again.folder == pulled.folder
    assert ArtifactFolder(second / "artifacts").latest("raw_archive").record.metadata["source"] == "dvc"
    if in_git:
        assert git(second, "status", "--short") == ""


def test_a_run_that_pulls_needs_no_archive(tracked: Path) -> None:
    before = made(tracked)
    shutil.rmtree(tracked / "data")
    shutil.rmtree(tracked / "artifacts")
    after = made(tracked, dvc="pull")  # with raw_archive, from the cache
    assert after.record.data_version == before.record.data_version
    record = ArtifactFolder(tracked / "artifacts").latest("raw_archive").record
    assert (record.metadata["source"], record.lineage) == ("dvc", {"dataset": "mine", "synthetic": False})


def test_pull_without_data_dvc_is_a_sentence(tmp_path: Path) -> None:
    result = run(make_project(tmp_path / "project"), [video_clips], dvc="pull")
    assert "There is no data.dvc in" in refusal(result)
    assert "choose off, add, push, pull" in refusal(run(tmp_path, [video_clips], dvc="maybe"))
    assert "raw_archive has not been materialized" in refusal(run(tmp_path, [video_clips]))


def test_pull_without_a_remote_leaves_the_data_as_it_was(tracked: Path) -> None:
    shutil.rmtree(tracked / ".dvc" / "cache")
    before = videos(tracked)
    result = run(tracked, [video_clips], dvc="pull", force=True)
    assert "no remote is configured" in refusal(result)
    assert videos(tracked) == before
    assert not list(tracked.glob(".data.*"))


def test_push_without_a_remote_is_a_sentence(tracked: Path) -> None:
    said = refusal(run(tracked, dvc="push"))
    assert "no remote specified" in said
    assert "dvc remote add --default NAME URL" in said


def test_off_leaves_dvc_alone(tmp_path: Path) -> None:
    published = made(tmp_path, raw={"source": str(archive(tmp_path / "own"))}, dvc="off")
    assert not (tmp_path / "data.dvc").exists()
    assert not (tmp_path / ".dvc").exists()
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert modes == {0o444}
    assert made(tmp_path).record.data_version == published.record.data_version  # tracked later, the same version
    assert Dvc().tracked_version(tmp_path) == published.record.data_version


@pytest.mark.slow
def test_a_foreign_folder_of_dvc_does_not_become_data(tmp_path: Path) -> None:
    """The data/ of the original project: tracked, without dataset.json."""
    project = make_project(tmp_path / "project")
    (project / "data" / "jump").mkdir(parents=True)
    (project / "data" / "jump" / "a.avi").write_text("a")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], cwd=project, check=True)
    assert "was not made by har_assets" in refusal(run(project, raw={"source": "sample"}))
    shutil.rmtree(project / "data")
    assert "was not made by har_assets" in refusal(run(project, [video_clips], dvc="pull"))
    assert "data.dvc tracks the data set 'unnamed'" in refusal(run(project, raw={"source": "sample"}))
    assert not (project / "data").exists()


# --- Spoiled clips -------------------------------------------------------------------------------------------------


def evaluation(result: dg.ExecuteInProcessResult) -> Any:
    (found,) = result.get_asset_check_evaluations()
    return found


def test_a_clip_that_was_written_through_is_named_and_mended(tracked: Path) -> None:
    assert evaluation(run(tracked)).passed
    before = videos(tracked)
    clip = tracked / "data" / "videos" / "jump" / "a.avi"
    mode = clip.stat().st_mode
    clip.chmod(0o644)
    with clip.open("r+") as file:
        file.write("MINE")  # as long as before
    clip.chmod(mode)
    result = run(tracked)
    assert not result.success  # the check is blocking
    found = evaluation(result)
    assert not found.passed
    assert found.metadata["changed"].value == ["videos/jump/a.avi"]
    assert "force: true" in found.description

    made(tracked, force=True)  # from the archive
    assert videos(tracked) == before
    shutil.rmtree(tracked / "data")
    made(tracked, dvc="pull")  # from the cache, which was spoiled too
    assert videos(tracked) == before
    assert evaluation(run(tracked)).passed


def test_a_clip_of_its_own_is_seen(tracked: Path) -> None:
    (tracked / "data" / "videos" / "jump" / "mine.txt").write_text("note")
    found = evaluation(run(tracked, dg.AssetSelection.checks(data_unspoiled)))
    assert not found.passed
    assert found.metadata["new"].value == ["videos/jump/mine.txt"]


# --- Replacing a data set ------------------------------------------------------------------------------------------


def test_the_sample_does_not_replace_a_real_data_set(tracked: Path) -> None:
    before, version = videos(tracked), Dvc().tracked_version(tracked)
    said = refusal(run(tracked, raw={"source": "sample"}))
    assert "data/ holds the data set 'mine', the archive is 'sample': set force: true" in said
    assert videos(tracked) == before
    assert Dvc().tracked_version(tracked) == version
    made(tracked, raw={"source": "sample"}, force=True)
    assert len(videos(tracked)) == 2
    assert Dvc().tracked_dataset(tracked) == "sample"


def test_another_real_data_set_needs_force_even_under_the_same_name(tracked: Path, tmp_path: Path) -> None:
    before = videos(tracked)
    other = archive(tmp_path / "elsewhere", clips=("z.avi",))
    said = refusal(run(tracked, raw={"source": str(other)}))
    assert "the archive of that name is now" in said
    assert "'mine', the archive is 'other'" in refusal(
        run(tracked, raw={"source": str(archive(tmp_path / "elsewhere", "other"))})
    )
    assert videos(tracked) == before
    made(tracked, raw={"source": str(other)}, force=True)
    assert len(videos(tracked)) == 2


def test_a_source_that_grows_is_followed_without_force(tmp_path: Path) -> None:
    tracked = make_project(tmp_path / "project")
    made(tracked, raw={"source": str(archive(tmp_path / "own"))})
    before = Dvc().tracked_version(tracked)
    archive(tmp_path / "own", clips=("a.avi", "b.avi", "c.avi"))
    after = made(tracked)
    assert len(videos(tracked)) == 6
    assert before != after.record.data_version == Dvc().tracked_version(tracked)


@pytest.mark.slow
def test_the_sample_is_replaced_by_a_real_data_set_without_force(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    made(project)
    assert Dvc().tracked_dataset(project) == "sample"
    made(project, raw={"source": str(archive(tmp_path / "own", "sample"))})  # a name that is not the sample's
    assert Dvc().tracked_dataset(project) == "own_sample"
    assert "'own_sample', the archive is 'sample'" in refusal(run(project, raw={"source": "sample"}))


def test_a_tracked_real_data_set_that_is_absent_is_not_replaced_by_the_sample(tracked: Path) -> None:
    before, version = videos(tracked), Dvc().tracked_version(tracked)
    for name in ("data", "artifacts"):
        shutil.rmtree(tracked / name)
    said = refusal(run(tracked, raw={"source": "sample"}))
    assert "data.dvc tracks the data set 'mine', the archive is 'sample': set dvc: pull" in said
    assert not (tracked / "data").exists()
    shutil.rmtree(tracked / "artifacts")
    made(tracked)  # no source named: data.dvc is the source
    assert videos(tracked) == before
    assert Dvc().tracked_version(tracked) == version


def test_a_data_dvc_that_others_have_changed_is_not_overwritten(tracked: Path) -> None:
    text = (tracked / "data.dvc").read_text()
    ours = Dvc().tracked_version(tracked)
    assert ours is not None
    theirs = text.replace(ours, f"{'0' * 32}.dir")
    (tracked / "data.dvc").write_text(theirs)
    said = refusal(run(tracked))
    assert "data.dvc names version 00000000, which was not made here" in said
    assert (tracked / "data.dvc").read_text() == theirs
    made(tracked, force=True)
    assert (tracked / "data.dvc").read_text() == text


# --- data_dvc ------------------------------------------------------------------------------------------------------


def test_a_changed_data_dvc_shows_at_its_observation(tracked: Path) -> None:
    resources = {"store": ArtifactStore(project=str(tracked)), "dvc": Dvc()}
    with dg.DagsterInstance.ephemeral() as instance:

        def status() -> StaleStatus:
            graph = defs.resolve_asset_graph()
            resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
            return resolver.get_status(dg.AssetKey("video_clips"))

        assert run(tracked, instance=instance).success
        assert status() == StaleStatus.FRESH
        assert observe([data_dvc], instance=instance, resources=resources).success
        assert status() == StaleStatus.FRESH
        text = (tracked / "data.dvc").read_text()
        (tracked / "data.dvc").write_text(text.replace(str(Dvc().tracked_version(tracked)), f"{'0' * 32}.dir"))
        assert observe([data_dvc], instance=instance, resources=resources).success
        assert status() == StaleStatus.STALE
        (tracked / "data.dvc").unlink()
        assert observe([data_dvc], instance=instance, resources=resources).success
        event = instance.get_latest_data_version_record(dg.AssetKey("data_dvc"))
        assert event is not None
        assert event.asset_observation is not None
        assert event.asset_observation.tags["dagster/data_version"] == "untracked"


# --- Kills and races -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2])
def test_a_kill_in_the_middle_of_the_swap_is_mended(tracked: Path, steps: int) -> None:
    """After the first rename there is no data/; after the second the new one is there and the old one too."""
    before = videos(tracked)
    killed = subprocess.run([sys.executable, "-c", KILLED_SWAP, str(tracked / "data"), str(steps)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tracked / "data").exists() == (steps == 2)
    assert (tracked / ".data.replaced").exists()
    if steps == 2:  # the new folder of the script has nothing of a data set: it is filled again
        shutil.rmtree(tracked / "data")
        (tracked / "data").mkdir()
    published = made(tracked)
    assert videos(tracked) == before
    assert Dvc().tracked_version(tracked) == published.record.data_version
    assert not list(tracked.glob(".data.*"))


def test_a_kill_between_tracking_and_naming_is_mended(tracked: Path) -> None:
    """`dvc add` has written data.dvc, and the name of the data set is not in it yet."""
    whole = (tracked / "data.dvc").read_text()
    (tracked / "data.dvc").write_text(whole.split("meta:")[0])
    assert Dvc().tracked_dataset(tracked) is None
    version = made(tracked).record.data_version
    assert (tracked / "data.dvc").read_text() == whole
    assert Dvc().tracked_version(tracked) == version
    # An unnamed data.dvc of something else is nobody's to replace.
    (tracked / "data.dvc").write_text(whole.split("meta:")[0].replace(version, "0" * 32 + ".dir"))
    assert "data.dvc tracks the data set 'unnamed'" in refusal(run(tracked))


@pytest.mark.slow
def test_two_runs_at_once_wait_for_each_other(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    source = archive(tmp_path / "own")
    code = (
        "import sys, dagster as dg\n"
        "from har_assets.graph.assets.dataset import raw_archive, video_clips\n"
        "from har_assets.graph.resources.dvc import Dvc\n"
        "from har_assets.graph.resources.store import ArtifactStore\n"
        "dg.materialize([raw_archive, video_clips], run_config={'ops': {'raw_archive': {'config': "
        "{'source': sys.argv[2]}}}}, resources={'store': ArtifactStore(project=sys.argv[1]), 'dvc': Dvc()})\n"
    )
    command = [sys.executable, "-c", code, str(project), str(source)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 0], errors
    published = ArtifactFolder(project / "artifacts").latest("video_clips")
    assert Dvc().tracked_version(project) == published.record.data_version
    assert len(videos(project)) == 4
    assert not list(project.glob(".data.*"))


@pytest.mark.slow
def test_kills_at_any_moment_are_mended_by_the_same_command(tmp_path: Path) -> None:
    project = Project(make_project(tmp_path / "project"))
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, project.folder)
    config = {"raw_archive": {"source": str(archive(tmp_path / "own"))}, "video_clips": {"force": True}}
    arguments = project.materialize_arguments("+key:video_clips", config)
    started = time.monotonic()
    done = project.run(*arguments)
    seconds = time.monotonic() - started
    assert done.returncode == 0, log_of(done)
    version, before = Dvc().tracked_version(project.folder), videos(project.folder)
    for moment in range(6):
        process = subprocess.Popen(
            project.command(*arguments),
            cwd=project.folder,
            env=project.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds * (0.4 + 0.1 * moment))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = project.materialize("+key:video_clips", config)
    assert done.returncode == 0, log_of(done)
    assert (Dvc().tracked_version(project.folder), videos(project.folder)) == (version, before)
    assert not list(project.folder.glob(".data.*"))
    files = json.loads(project.latest("video_clips").file("clips.json").read_text())
    assert len(files) == 5


@pytest.mark.slow
def test_the_command_line_pulls_and_observes(tmp_path: Path) -> None:
    """`'+key:video_clips'` with nothing but `dvc: pull`, as a user types it; data_dvc by its name."""
    first = make_project(tmp_path / "first", tmp_path / "remote")
    pushed = made(first, raw={"source": str(archive(tmp_path / "own"))}, dvc="push")
    second = Project.make(make_project(tmp_path / "second", tmp_path / "remote"))
    shutil.copy(first / "data.dvc", second.folder)
    done = second.materialize("+key:video_clips", {"video_clips": {"dvc": "pull"}})
    assert done.returncode == 0, log_of(done)
    assert second.latest("video_clips").record.data_version == pushed.record.data_version
    done = second.run("dagster", "asset", "materialize", "-m", "har_assets", "--select", "data_dvc")
    assert done.returncode == 0, log_of(done)
    (second.folder / "data.dvc").unlink()
    shutil.rmtree(second.folder / "artifacts")
    done = second.materialize("key:video_clips", {"video_clips": {"dvc": "pull"}})
    assert done.returncode != 0
    assert "There is no data.dvc" in log_of(done)
