"""Sources: which is chosen, what identifies it, and what raw_archive becomes. No Dagster."""

import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from har_assets.dataset import source as source_module
from har_assets.dataset.dvc import DvcRepository
from har_assets.dataset.source import SOURCES, choose_source, source_of
from har_assets.dataset.sources import hmdb51, own
from har_assets.dataset.sources.own import dataset_name
from har_assets.dataset.sources.source import Request
from har_assets.errors import DownloadError, HarError
from har_assets.store.folder import ArtifactFolder
from har_assets.store.product import Product
from har_assets.store.record import Artifact
from har_assets.system.files import hash_of
from har_assets_tests.dataset.publishing import publish
from har_assets_tests.dataset.test_download import Server, running_server

TRACKED = "outs:\n- md5: {version}.dir\n  hash: md5\n  path: data\nmeta:\n  dataset: {name}\n"


@pytest.fixture
def request_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """A request in an empty project."""
    monkeypatch.delenv("HAR_SOURCE", raising=False)
    project = tmp_path / "project"
    project.mkdir()
    return Request("", project, ArtifactFolder(project / "artifacts"), DvcRepository())


def chosen(request: Request, wanted: str = "", *, pulled: bool = False) -> str:
    return choose_source(wanted, request.project, request.store, request.dvc, pulled=pulled)


def raw_archive(request: Request) -> Artifact:
    return publish(request.store, "raw_archive", partial(source_of(request.source).build, request=request))


def track(request: Request, name: str) -> None:
    (request.project / "data.dvc").write_text(TRACKED.format(version="0" * 32, name=name))


# --- the choice ---------------------------------------------------------------------------------------------


def test_what_is_named_goes_before_everything(request_here: Request) -> None:
    track(request_here, "mine")
    assert [chosen(request_here, name, pulled=True) for name in SOURCES] == list(SOURCES)


def test_a_run_that_pulls_goes_before_what_the_project_had(request_here: Request) -> None:
    publish(request_here.store, "raw_archive", lambda build: Product("x", metadata={"source": "hmdb51"}))
    assert chosen(request_here) == "hmdb51"
    assert chosen(request_here, pulled=True) == "dvc"


def test_an_empty_project_takes_the_environment_then_what_is_tracked_then_the_sample(
    request_here: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(request_here) == "sample"
    track(request_here, "sample")
    assert chosen(request_here) == "sample"
    track(request_here, "mine")
    assert chosen(request_here) == "dvc"
    monkeypatch.setenv("HAR_SOURCE", "hmdb51")
    assert chosen(request_here) == "hmdb51"


def test_a_path_is_absolute_or_below_the_project(request_here: Request, tmp_path: Path) -> None:
    (request_here.project / "own").mkdir()
    (tmp_path / "other.zip").touch()
    assert chosen(request_here, "own") == str(request_here.project / "own")
    assert chosen(request_here, f"file://{tmp_path / 'other.zip'}") == str(tmp_path / "other.zip")
    with pytest.raises(HarError, match=f"There is no source 'kinetics': choose {', '.join(SOURCES)}, or the path"):
        chosen(request_here, "kinetics")


def test_a_path_outside_the_allowed_folders_is_refused(
    request_here: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.zip").touch()
    (tmp_path / "lists").mkdir()
    (request_here.project / "own").mkdir()
    monkeypatch.setenv("HAR_ALLOWED_FOLDERS", "")
    with pytest.raises(HarError, match="source of raw_archive names"):
        chosen(request_here, str(tmp_path / "other.zip"))
    within = replace(request_here, source=chosen(request_here, "own"), split_lists=str(tmp_path / "lists"))
    with pytest.raises(HarError, match="split_lists of raw_archive names"):
        own.identity(within)
    mirror = replace(request_here, source="hmdb51", archive_urls=[str(tmp_path / "other.zip")])
    with pytest.raises(HarError, match="a mirror of raw_archive names"):
        raw_archive(mirror)


def test_a_source_is_added_by_a_row_of_the_table(request_here: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(source_module.SOURCES, "kinetics", own.SOURCE)
    assert chosen(request_here, "kinetics") == "kinetics"


# --- a source of one's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/mine.tar.gz", "mine"), ("/a/folder", "folder"), ("sample.zip", "own_sample"), ("dvc", "own_dvc")],
)
def test_the_name_of_a_data_set_is_that_of_its_source(path: str, name: str) -> None:
    assert dataset_name(Path(path)) == name


def test_an_archive_of_ones_own_stays_where_it_is_and_is_known_by_its_bytes(
    request_here: Request, tmp_path: Path
) -> None:
    archive, lists = tmp_path / "mine.zip", tmp_path / "lists"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("run/a.avi", "a")
    lists.mkdir()
    request = replace(request_here, source=str(archive), split_lists=str(lists))
    first = own.identity(request)
    assert own.identity(request) == first
    (lists / "run_test_split1.txt").write_text("a.avi 1")
    second = own.identity(request)
    archive.write_bytes(archive.read_bytes() + b"x")
    third = own.identity(request)
    assert {key for key in first if first[key] != second[key]} == {"split_lists_hash"}
    assert {key for key in first if second[key] != third[key]} == {"archive_hash", "bytes"}

    published = raw_archive(request)
    assert published.record.metadata["archive"] == str(archive)
    assert published.record.lineage == {"dataset": "mine", "synthetic": False}
    assert published.record.files == {}
    with pytest.raises(HarError, match="There are no split lists"):
        own.identity(replace(request, split_lists="nowhere"))


# --- what DVC restores --------------------------------------------------------------------------------------


def test_the_identity_of_a_folder_is_that_of_earlier_versions_and_knows_what_lies_behind_links(
    request_here: Request, tmp_path: Path
) -> None:
    folder, pool = tmp_path / "own", tmp_path / "pool"
    for path in (folder / "b!" / "1.avi", folder / "b" / "2.avi", folder / "b" / "README", pool / "3.avi"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12")
    request = replace(request_here, source=str(folder))

    def identity() -> str:
        return str(own.identity(request)["archive_hash"])

    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    plain = identity()
    assert plain == hash_of([[name, about.st_size, about.st_mtime_ns] for name, about in stats])
    (folder / "b" / "Thumbs.db").write_bytes(b"made by looking at it")
    (folder / "loop").symlink_to(folder)
    assert identity() == plain
    (folder / "c").symlink_to(pool)
    linked = identity()
    (pool / "4.avi").write_bytes(b"1")
    more = identity()
    (pool / "4.avi").write_bytes(b"123")
    assert len({plain, linked, more, identity()}) == 4
    assert own.identity(request)["bytes"] == 2 * 4 + 3


def test_what_dvc_restores_has_no_archive(request_here: Request) -> None:
    request = replace(request_here, source="dvc")
    with pytest.raises(HarError, match=r"There is no data\.dvc"):
        source_of("dvc").identity(request)
    track(request, "mine")
    assert source_of("dvc").identity(request) == {"dvc": f"{'0' * 32}.dir"}
    published = raw_archive(request)
    assert published.record.headline == "mine: no archive, DVC restores version 00000000"
    assert published.record.metadata["archive"] == ""


# --- HMDB51 from a server -----------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as made:
        yield made


def test_a_download_is_recorded_trusted_once_and_verified_from_then_on(
    server: Server, request_here: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "lists.rar"
    lists.write_bytes(b"lists")
    monkeypatch.setattr(hmdb51, "SPLITS_MD5", "e6dbca21d4865b265ca2780205b19305")
    warnings: list[str] = []
    request = replace(request_here, source="hmdb51", split_lists_urls=[str(lists)], warn=warnings.append)

    # The default addresses must give the archive that is known.
    monkeypatch.setattr(hmdb51, "ARCHIVE_URLS", (server.url,))
    with pytest.raises(DownloadError, match=f"instead of {hmdb51.ARCHIVE_MD5}"):
        raw_archive(request)
    assert request.store.find_latest("raw_archive") is None

    # A mirror of one's own is trusted the first time, and its hashes are recorded.
    request = replace(request, archive_urls=[server.url])
    first = raw_archive(request)
    archive, _ = first.record.metadata["downloads"]
    assert archive["url"] == server.url
    assert archive["bytes"] == len(server.content)
    assert archive["sha256"] == first.record.files["hmdb51_org.rar"]["sha256"]
    assert warnings == [f"hmdb51_org.rar is not the archive of 2013: its SHA-256 is {archive['sha256']}"]

    # Later it must be the same, wherever it comes from.
    shutil.rmtree(request.store.root / "raw_archive" / ".downloads")
    server.content = server.content[::-1]
    with pytest.raises(DownloadError, match=f"instead of {archive['sha256']}"):
        raw_archive(request)
    assert request.store.latest("raw_archive").folder == first.folder
    server.content = server.content[::-1]
    assert raw_archive(request).folder != first.folder
