"""What is tried again, and what is not."""

import functools
import http.server
import socket
import threading
from pathlib import Path

import dagster as dg
import pytest

from har_assets import defs, errors
from har_assets.dataset.dvc import files_of
from har_assets.errors import HarError, PassingError
from har_assets.graph import failures
from har_assets.graph.failures import RETRY_PAUSES_S, failures_in_words
from har_assets.graph.resources.dvc import Dvc
from har_assets_tests.dataset.test_dvc import add, fill, make_project, quiet
from har_assets_tests.project import Project, make_own_videos, materialize_here


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_PAUSES_S", (0.0,) * len(RETRY_PAUSES_S))


def attempts(*errors_: BaseException | None) -> tuple[int, dg.ExecuteInProcessResult]:
    """Materialize an asset whose attempts end with these errors, the last one again and again."""
    count = 0

    @dg.asset
    def fragile() -> dg.MaterializeResult:
        nonlocal count
        count += 1
        with failures_in_words():
            if error := errors_[min(count, len(errors_)) - 1]:
                raise error
        return dg.MaterializeResult()

    result = dg.materialize([fragile], raise_on_error=False)
    return count, result


@pytest.mark.usefixtures("no_pause")
def test_what_may_pass_is_tried_again_until_it_has_passed() -> None:
    away = PassingError("The server is away: wait.")
    count, result = attempts(away, away, None)
    assert result.success
    assert count == 3


@pytest.mark.usefixtures("no_pause")
def test_what_does_not_pass_fails_in_its_sentence_at_last() -> None:
    count, result = attempts(PassingError("The server is away: wait."))
    assert count == 1 + len(RETRY_PAUSES_S)
    (failure,) = result.get_step_failure_events()
    assert failure.step_failure_data.user_failure_data.description == "The server is away: wait."
    assert "Traceback" not in failure.step_failure_data.error_display_string


@pytest.mark.parametrize(
    "error",
    [
        *(
            kind("No.")
            for kind in vars(errors).values()
            if isinstance(kind, type) and not issubclass(kind, PassingError)
        ),
        OSError(28, "No space left on device"),
        RuntimeError("a fault of the code"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_bad_data_a_full_disk_and_faults_of_the_code_fail_at_once(error: Exception) -> None:
    # A DownloadError too: the download has made its own attempts by then.
    count, result = attempts(error)
    assert count == 1
    assert not result.success


def test_pauses_grow_and_nothing_else_tries_again() -> None:
    assert list(RETRY_PAUSES_S) == sorted(RETRY_PAUSES_S)
    assert RETRY_PAUSES_S[-1] >= 2 * RETRY_PAUSES_S[0]
    for key in defs.resolve_asset_graph().get_all_asset_keys():
        definition = defs.resolve_asset_graph().get(key).assets_def
        assert definition.op.retry_policy is None, key


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A project without its data, whose remote was a folder, `remote` beside it."""
    project = make_project(tmp_path / "project", tmp_path / "remote")
    fill(project / "data")
    add(project)
    Dvc().push(project, quiet)
    clone = make_project(tmp_path / "clone")
    (clone / "data.dvc").write_text((project / "data.dvc").read_text())
    (clone / "target").mkdir()
    return clone


def point_to(project: Path, url: str) -> None:
    """Make `url` the remote of a project."""
    config = (project / ".dvc" / "config").read_text()
    if "remote = r" not in config:
        config = config.replace("[core]", "[core]\n    remote = r") + "['remote \"r\"']\n    url = here\n"
        (project / ".dvc" / "config").write_text(config)
    lines = [f"    url = {url}" if "url =" in line else line for line in config.splitlines()]
    (project / ".dvc" / "config").write_text("\n".join(lines) + "\n")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def port() -> int:
    """A port at which nobody listens."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        number = server.server_port
    return number


def serve(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Files of a folder over HTTP."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_remote_that_is_away_may_come_back_and_one_that_lacks_the_data_may_not(clone: Path, port: int) -> None:
    point_to(clone, f"http://127.0.0.1:{port}")
    with pytest.raises(PassingError, match=rf"remote 'r' at 127.0.0.1:{port} does not answer"):
        Dvc().restore(clone, clone / "target", quiet)
    server = serve(clone / "target", port)  # empty
    try:
        with pytest.raises(HarError, match="neither sound in the cache nor on the remote") as refused:
            Dvc().restore(clone, clone / "target", quiet)
        assert not isinstance(refused.value, PassingError)
    finally:
        server.shutdown()
        server.server_close()


def test_a_push_to_a_remote_that_is_away_may_be_tried_again(clone: Path, port: int) -> None:
    fill(clone / "data")
    Dvc().add(clone, "mine", files_of(clone / "data"), quiet)
    point_to(clone, f"http://127.0.0.1:{port}")
    with pytest.raises(PassingError):
        Dvc().push(clone, quiet)


def test_a_remote_whose_name_is_misspelt_is_not_tried_again(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_host(*arguments: object, **options: object) -> None:
        raise socket.gaierror(fault, "Name or service not known")

    point_to(clone, "http://no-such-host.invalid/data")
    monkeypatch.setattr(socket, "create_connection", no_such_host)
    fault = socket.EAI_NONAME
    Dvc()._say_if_away(clone)
    fault = socket.EAI_AGAIN  # the name server is away
    with pytest.raises(PassingError):
        Dvc()._say_if_away(clone)


@pytest.mark.usefixtures("no_pause")
def test_video_clips_comes_from_a_remote_that_came_back(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Project.make(tmp_path / "here"), Project.make(tmp_path / "there")
    make_project(here.folder, tmp_path / "remote")
    config = {"raw_archive": {"source": str(make_own_videos(tmp_path / "own", 2))}, "video_clips": {"dvc": "push"}}
    assert materialize_here(here, "key:raw_archive or key:video_clips", config) == []

    make_project(there.folder)
    (there.folder / "data.dvc").write_text((here.folder / "data.dvc").read_text())
    point_to(there.folder, f"http://127.0.0.1:{port}")
    servers: list[http.server.ThreadingHTTPServer] = []
    ask = Dvc._say_if_away

    def back_after_the_first_question(self: Dvc, project: Path) -> None:
        try:
            ask(self, project)
        except PassingError:
            servers.append(serve(tmp_path / "remote", port))
            raise

    monkeypatch.setattr(Dvc, "_say_if_away", back_after_the_first_question)
    try:
        assert materialize_here(there, "video_clips", {"video_clips": {"dvc": "pull"}}) == []
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
    assert len(servers) == 1, "the first attempt met a remote"
    assert there.latest("video_clips").record.data_version == here.latest("video_clips").record.data_version
