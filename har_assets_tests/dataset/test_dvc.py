"""The DVC repository of a project, with the real dvc and remotes that are local folders."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from har_assets.dataset.dvc import DvcRepository, differences, files_of, version_of
from har_assets.errors import HarError
from har_assets_tests.project import REPOSITORY

FILES = {"dataset.json": "{}", "videos/jump/a.avi": "first", "videos/jump/b.avi": "second", "videos/sit/c.avi": "third"}


def quiet(line: str) -> None:
    """Drop a log line."""


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def fill(data: Path) -> None:
    for name, text in FILES.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)


def make_project(folder: Path, remote: Path | None = None) -> Path:
    """A folder with the DVC configuration of the repository and, if given, a remote."""
    (folder / ".dvc").mkdir(parents=True)
    config = (REPOSITORY / ".dvc" / "config").read_text()
    if remote is not None:
        config = config.replace("[core]", "[core]\n    remote = there") + f"['remote \"there\"']\n    url = {remote}\n"
    (folder / ".dvc" / "config").write_text(config)
    shutil.copy(REPOSITORY / ".dvcignore", folder)
    return folder


def add(project: Path) -> str:
    return DvcRepository().add(project, "mine", files_of(project / "data"), quiet)


def cached(project: Path) -> list[Path]:
    return [path for path in (project / ".dvc" / "cache").rglob("*") if path.is_file() and path.suffix != ".dir"]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data is tracked and on its remote, `remote` beside it. To be copied, not written to."""
    folder = tmp_path_factory.mktemp("pushed")
    project = make_project(folder / "project", folder / "remote")
    fill(project / "data")
    add(project)
    DvcRepository().push(project, quiet)
    return project


@pytest.fixture
def clone(pushed: Path, tmp_path: Path) -> Path:
    """What git would bring of `pushed`: no data, no cache."""
    shutil.copytree(pushed.with_name("remote"), tmp_path / "remote")
    clone = make_project(tmp_path / "clone", tmp_path / "remote")
    shutil.copy(pushed / "data.dvc", clone)
    return clone


def test_the_data_is_tracked_once_on_the_disk_and_read_only(pushed: Path) -> None:
    assert DvcRepository().tracked_dataset(pushed) == "mine"
    assert DvcRepository().tracked_version(pushed) == version_of(files_of(pushed / "data"))
    for path in (pushed / "data" / name for name in FILES):
        assert path.stat().st_nlink == 2
        assert path.stat().st_mode & 0o777 == 0o444
    assert len(cached(pushed)) == len(FILES)


def test_the_way_back_gives_the_same_version_and_shares_its_bytes(clone: Path, pushed: Path, tmp_path: Path) -> None:
    target = tmp_path / "clone" / "target"
    target.mkdir()
    files = DvcRepository().restore(clone, target, quiet)
    assert version_of(files) == DvcRepository().tracked_version(pushed)
    assert {name: (target / name).read_text() for name in FILES} == FILES
    assert {(path.stat().st_nlink, path.stat().st_mode & 0o777) for path in target.rglob("*.*")} == {(2, 0o444)}


@pytest.mark.slow
def test_a_spoiled_file_of_the_cache_is_fetched_again(clone: Path) -> None:
    (clone / "one").mkdir()
    DvcRepository().restore(clone, clone / "one", quiet)
    spoiled = clone / "one" / "videos/sit/c.avi"
    spoiled.chmod(0o644)
    spoiled.write_text("THIRD")  # the cache's file is the same one
    spoiled.chmod(0o444)
    (clone / "two").mkdir()
    said: list[str] = []
    DvcRepository().restore(clone, clone / "two", said.append)
    assert (clone / "two" / "videos/sit/c.avi").read_text() == "third"
    assert any("no longer has the bytes" in line for line in said)


def test_a_spoiled_file_of_the_cache_is_replaced_by_add(pushed: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(pushed, project)  # copies: data and cache no longer share
    spoiled = next(path for path in cached(project) if path.read_text() == "third")
    spoiled.chmod(0o644)
    spoiled.write_text("THIRD")
    spoiled.chmod(0o444)
    add(project)
    assert spoiled.read_text() == "third"
    assert all((project / "data" / name).stat().st_nlink == 2 for name in FILES)  # copies have become links


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev, reason="no second disk"
)
def test_a_cache_on_another_disk_gets_copies(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    cache = Path(f"/dev/shm/har-test-cache-{os.getpid()}")
    with (project / ".dvc" / "config").open("a") as config:
        config.write(f"    dir = {cache}\n")
    try:
        fill(project / "data")
        version = add(project)
        (project / "target").mkdir()
        assert version_of(DvcRepository().restore(project, project / "target", quiet)) == version
        assert {path.stat().st_mode & 0o777 for path in (project / "target").rglob("*.avi")} == {0o444}
        assert DvcRepository().objects_folder(project) == cache / "files" / "md5"
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def test_without_a_remote_there_is_a_sentence_and_nothing_is_written(clone: Path) -> None:
    shutil.copy(REPOSITORY / ".dvc" / "config", clone / ".dvc" / "config")
    (clone / "target").mkdir()
    with pytest.raises(HarError, match=r"no remote is configured: name one, `dvc remote add --default NAME URL`"):
        DvcRepository().restore(clone, clone / "target", quiet)
    with pytest.raises(HarError, match=r"no remote specified.*: name one"):
        DvcRepository().push(clone, quiet)
    assert list((clone / "target").iterdir()) == []


@pytest.mark.slow
def test_a_wrong_remote_is_named(clone: Path) -> None:
    (clone / "target").mkdir()
    with pytest.raises(HarError, match=r"remote 'elsewhere' doesn't exist.*`dvc remote list`"):
        DvcRepository(remote="elsewhere").restore(clone, clone / "target", quiet)


def test_a_remote_that_lacks_files_is_named(clone: Path) -> None:
    (clone / "target").mkdir()
    lost = next(path for path in clone.with_name("remote").rglob("*") if path.is_file() and path.suffix != ".dir")
    lost.unlink()
    with pytest.raises(HarError, match=r"the remote lacks that file") as caught:
        DvcRepository().restore(clone, clone / "target", quiet)
    assert "\n" not in str(caught.value)
    shutil.rmtree(clone.with_name("remote"))
    shutil.rmtree(clone / ".dvc" / "cache")
    with pytest.raises(HarError, match=r"neither sound in the cache nor on the remote|failed to"):
        DvcRepository().restore(clone, clone / "target", quiet)


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    import hashlib
    import json

    project = make_project(tmp_path / "project")
    objects = project / ".dvc" / "cache" / "files" / "md5"
    content = hashlib.md5(b"x").hexdigest()
    listing = json.dumps([{"md5": content, "relpath": "../../out.avi"}]).encode()
    version = hashlib.md5(listing).hexdigest()
    for digest, data in ((content, b"x"), (f"{version}.dir", listing)):
        (objects / digest[:2]).mkdir(parents=True, exist_ok=True)
        (objects / digest[:2] / digest[2:]).write_bytes(data)
    (project / "data.dvc").write_text(
        f"outs:\n- md5: {version}.dir\n  size: 1\n  nfiles: 1\n  hash: md5\n  path: data\n"
    )
    (project / "target").mkdir()
    with pytest.raises(HarError, match=r"outside data/|failed"):
        DvcRepository().restore(project, project / "target", quiet)
    assert not list(tmp_path.rglob("out.avi"))


@pytest.mark.slow
def test_a_project_without_dvc_gets_one(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    assert add(tmp_path) == version_of(files_of(tmp_path / "data"))
    assert (tmp_path / "data" / "dataset.json").stat().st_nlink == 2
    assert DvcRepository().tracked_version(tmp_path / "elsewhere") is None


@pytest.mark.slow
@pytest.mark.parametrize("scm", [True, False])
def test_inside_git_nothing_of_the_data_is_to_be_committed(tmp_path: Path, scm: bool) -> None:
    """With the repository's `no_scm` and with an ordinary `dvc init`."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    if scm:
        dvc(tmp_path, "init", "--quiet")
    else:
        make_project_here(tmp_path)
    fill(tmp_path / "data")
    add(tmp_path)
    status = subprocess.run(
        ["git", "status", "--short", "-uall"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "data/" not in status.stdout
    assert "cache" not in status.stdout


def make_project_here(folder: Path) -> None:
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, folder / name)


@pytest.mark.slow
def test_a_dvc_of_git_outside_git_is_explained(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    fill(tmp_path / "data")
    with pytest.raises(HarError, match="no_scm = true"):
        add(tmp_path)


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\nouts: {", "outs: 3", "outs: [x]", "- a", "", "\xff\xfe"])
def test_an_odd_data_dvc_is_no_traceback(tmp_path: Path, content: str) -> None:
    (tmp_path / "data.dvc").write_text(content, encoding="latin-1")
    with contextlib.suppress(HarError):
        assert DvcRepository().tracked_version(tmp_path) is None
        assert DvcRepository().tracked_dataset(tmp_path) is None


def test_a_data_dvc_of_dvc_2_is_explained(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(f"outs:\n- md5: {'0' * 32}.dir\n  path: data\n")
    with pytest.raises(HarError, match="format of DVC 3"):
        DvcRepository().restore(tmp_path, tmp_path / "target", quiet)


def test_differences_are_named(tmp_path: Path) -> None:
    fill(tmp_path)
    before = files_of(tmp_path)
    assert differences(tmp_path, before) == {"changed": [], "missing": [], "new": []}
    (tmp_path / "videos/jump/a.avi").write_text("FIRST")
    (tmp_path / "videos/jump/b.avi").unlink()
    (tmp_path / "videos/jump/z.avi").touch()
    assert differences(tmp_path, before) == {
        "changed": ["videos/jump/a.avi"],
        "missing": ["videos/jump/b.avi"],
        "new": ["videos/jump/z.avi"],
    }


@pytest.mark.slow
def test_a_remote_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvc_s3", reason="no dvc-s3: `pip install 'har_assets[cluster]'`")
    pytest.importorskip("moto", reason="no moto, whose server speaks S3: `pip install 'har_assets[dev]'`")
    from har_assets_tests.s3_server import BUCKET, s3_server

    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_CONFIG_FILE")  # dvc opens it, and /dev/null is no file to it
        first, second = (make_project(tmp_path / name) for name in ("first", "second"))
        for project in (first, second):
            dvc(project, "remote", "add", "--default", "team", f"s3://{BUCKET}/dvc")
        fill(first / "data")
        version = add(first)
        DvcRepository().push(first, quiet)
        shutil.copy(first / "data.dvc", second)
        (second / "target").mkdir()
        assert version_of(DvcRepository().restore(second, second / "target", quiet)) == version
        assert {name: (second / "target" / name).read_text() for name in FILES} == FILES
