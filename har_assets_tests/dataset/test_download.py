"""Downloads from a real HTTP server on this machine that misbehaves on demand."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from har_assets.dataset.download import download
from har_assets.dataset.fetch import DownloadResult
from har_assets.dataset.sources import hmdb51
from har_assets.errors import DownloadError, HarError
from har_assets.system import files as _files

CONTENT = random.Random(3).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers each request by the next of `plan`, soundly once the plan is used up."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[str] = []
        self.ranges: list[str | None] = []
        self.content = CONTENT
        self.etag: str | None = '"one"'
        self.bytes_a_second: float | None = None
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hmdb51_org.rar"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:  # noqa: PLR0912
        server = self.server
        server.ranges.append(self.headers.get("Range"))
        step = server.plan.pop(0) if server.plan else "sound"
        word, _, number = step.partition(" ")
        content = server.content
        if word == "to":
            self.send_response(302)
            self.send_header("Location", number)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if word.isdecimal():
            self.send_response(int(word))
            if number:
                self.send_header("Retry-After", number)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if word == "hang":
            server.released.wait(20)
            self.close_connection = True
            return
        if word in ("changed", "changed-unconditionally"):
            server.content = content = content[::-1]
            server.etag = '"two"'
        if word == "wrong":
            content = b"\0" * len(content)
        if word == "short":
            content = content[: int(number)]
        if word == "changed-unconditionally":
            del self.headers["If-Range"]
        start = self.start_of_range(len(content)) if word != "ignores-range" else 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            sent_start = start + 1 if word == "shifted" else start
            self.send_header("Content-Range", f"bytes {sent_start}-{len(content) - 1}/{len(content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if word == "page":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if word in ("chunked", "endless"):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if word not in ("cut", "stalls") else min(start + int(number), len(content))
        self.send_content(content[start:end], chunked=word in ("chunked", "endless"))
        if word == "endless":
            self.send_content(content, chunked=True)
        if word == "stalls":
            server.released.wait(20)
        if word == "chunked":
            self.wfile.write(b"0\r\n\r\n")
        if word in ("cut", "stalls", "endless"):
            self.close_connection = True

    def start_of_range(self, length: int) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if match is None or condition not in (None, self.server.etag):
            return 0
        return int(match[1])

    def send_content(self, data: bytes, *, chunked: bool) -> None:
        block = 50_000
        for at in range(0, len(data), block):
            part = data[at : at + block]
            try:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            except OSError:
                self.close_connection = True
                return
            if self.server.bytes_a_second:
                time.sleep(block / self.server.bytes_a_second)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client was killed
            super().handle()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as made:
        yield made


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        made.shutdown()
        made.server_close()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "hmdb51_org.rar"


def fetch(source: str | list[str], target: Path, **options: object) -> DownloadResult:
    settings: dict[str, object] = {"backoff_s": 0.01, "timeout_s": 5.0, "attempts": 4} | options
    return download(source, target, **settings)  # type: ignore[arg-type]


def is_complete(target: Path, content: bytes = CONTENT) -> bool:
    return target.read_bytes() == content and os.listdir(target.parent) == [target.name]


def test_a_sound_server(server: Server, target: Path):
    result = fetch(server.url, target, sha256=SHA256.upper(), md5=MD5, size=len(CONTENT))
    assert result == DownloadResult(target, len(CONTENT), SHA256, MD5, server.url, already_there=False)
    assert is_complete(target)
    assert server.ranges == [None]


def test_a_file_that_is_there_is_not_fetched_again(server: Server, target: Path):
    fetch(server.url, target)
    again = fetch(server.url, target, sha256=SHA256)
    assert again.already_there
    assert again.sha256 == SHA256
    assert len(server.ranges) == 1


def test_a_file_that_is_there_but_wrong_is_fetched_again(server: Server, target: Path):
    target.parent.mkdir()
    target.write_bytes(b"an older version")
    lines: list[str] = []
    assert not fetch(server.url, target, sha256=SHA256, log=lines.append).already_there
    assert is_complete(target)
    assert "it is fetched again" in lines[0]


def test_cut_connections_are_resumed(server: Server, target: Path):
    server.plan = ["cut 500000", "cut 700000", "cut 1"]
    result = fetch(server.url, target)
    assert result.sha256 == SHA256
    assert is_complete(target)
    assert server.ranges == [None, "bytes=500000-", "bytes=1200000-", "bytes=1200001-"]


def test_attempts_that_bring_much_do_not_count(server: Server, target: Path):
    server.plan = ["cut 1100000", "503", "cut 1100000", "503"]
    assert fetch(server.url, target, attempts=3).sha256 == SHA256


def test_a_server_that_ignores_ranges(server: Server, target: Path):
    server.plan = ["cut 500000", "ignores-range"]
    assert fetch(server.url, target).sha256 == SHA256
    assert is_complete(target)


@pytest.mark.parametrize("with_hash", [False, True])
@pytest.mark.parametrize("step", ["changed", "changed-unconditionally"])
def test_a_file_that_changes_between_attempts(server: Server, target: Path, step: str, with_hash: bool):
    server.plan = ["cut 500000", step]
    expected = hashlib.sha256(CONTENT[::-1]).hexdigest()
    result = fetch(server.url, target, sha256=expected if with_hash else None)
    assert result.sha256 == expected
    assert is_complete(target, CONTENT[::-1])


def test_a_file_that_changes_without_an_etag(server: Server, target: Path):
    """Nothing tells the versions apart: without a hash it starts over, with one the mixture is found out."""
    server.etag = None
    server.plan = ["cut 500000"]
    assert fetch(server.url, target).sha256 == SHA256
    assert server.ranges == [None, None]
    target.unlink()
    server.plan = ["cut 500000"]
    with pytest.raises(DownloadError):
        fetch(server.url, target, attempts=1, sha256=SHA256)
    server.content = CONTENT[::-1]
    server.ranges.clear()
    expected = hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert fetch(server.url, target, sha256=expected).sha256 == expected
    assert server.ranges == ["bytes=500000-", None]


def test_a_weak_etag_is_not_used_for_resuming(server: Server, target: Path):
    server.etag = 'W/"weak"'
    server.plan = ["cut 500000"]
    fetch(server.url, target)
    assert server.ranges == [None, None]


def test_a_wrong_content_range_starts_over(server: Server, target: Path):
    server.plan = ["cut 500000", "shifted"]
    assert fetch(server.url, target).sha256 == SHA256
    assert server.ranges == [None, "bytes=500000-", None]


def test_the_next_call_goes_on(server: Server, target: Path):
    server.plan = ["cut 500000"]
    with pytest.raises(DownloadError, match=r"goes on where it stopped"):
        fetch(server.url, target, attempts=1)
    assert not target.exists()
    assert fetch(server.url, target).sha256 == SHA256
    assert server.ranges == [None, "bytes=500000-"]
    assert is_complete(target)


def test_a_partial_file_that_is_whole_already(server: Server, target: Path):
    server.plan = ["cut 500000"]
    with pytest.raises(DownloadError):
        fetch(server.url, target, attempts=1)
    (target.parent / ".hmdb51_org.rar.partial").write_bytes(CONTENT)
    assert fetch(server.url, target, sha256=SHA256).sha256 == SHA256
    assert is_complete(target)


def test_a_partial_file_that_is_too_long_is_dropped(server: Server, target: Path):
    server.plan = ["cut 500000"]
    with pytest.raises(DownloadError):
        fetch(server.url, target, attempts=1)
    (target.parent / ".hmdb51_org.rar.partial").write_bytes(CONTENT + b"more")
    assert fetch(server.url, target).sha256 == SHA256


def test_a_damaged_partial_file_is_found_out_by_the_hash(server: Server, target: Path):
    server.plan = ["cut 500000"]
    with pytest.raises(DownloadError):
        fetch(server.url, target, attempts=1)
    (target.parent / ".hmdb51_org.rar.partial").write_bytes(b"?" * 500_000)
    assert fetch(server.url, target, md5=MD5).sha256 == SHA256
    assert is_complete(target)


@pytest.mark.parametrize("step", ["500", "503", "429 1", "cut 0"])
def test_passing_faults_are_retried(server: Server, target: Path, step: str):
    server.plan = [step]
    started = time.monotonic()
    assert fetch(server.url, target).sha256 == SHA256
    assert (time.monotonic() - started >= 1) == step.startswith("429")  # Retry-After is obeyed


@pytest.mark.parametrize("status", ["403", "404", "410"])
def test_lasting_faults_are_not_retried(server: Server, target: Path, status: str):
    server.plan = [status] * 9
    with pytest.raises(DownloadError, match=f"it answers {status} "):
        fetch(server.url, target)
    assert len(server.ranges) == 1
    assert os.listdir(target.parent) == []


def test_giving_up_names_the_remedy_in_one_sentence(server: Server, target: Path):
    server.plan = ["503"] * 9
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, target)
    message = str(caught.value)
    assert "it answers 503 Service Unavailable (attempt 4 of 4)" in message
    assert "run it again" in message
    assert "\n" not in message
    assert len(server.ranges) == 4


@pytest.mark.parametrize("step", ["hang", "stalls 500000"])
def test_a_server_that_falls_silent(server: Server, target: Path, step: str):
    server.plan = [step]
    lines: list[str] = []
    assert fetch(server.url, target, timeout_s=0.3, log=lines.append).sha256 == SHA256
    assert "no answer in time; attempt 2 of 4" in lines[0]
    assert server.ranges[1] == (None if step == "hang" else "bytes=500000-")


@pytest.mark.parametrize(
    ("step", "match"),
    [
        ("wrong", "its SHA-256 is"),
        ("short 1000", r"its file has 1,000 bytes instead of 3,000,000"),
        ("page", "a web page"),
        ("endless", "more than the expected 3,000,000"),
    ],
)
def test_wrong_bytes_never_take_the_name(server: Server, target: Path, step: str, match: str):
    server.plan = [step]
    with pytest.raises(DownloadError, match=match):
        fetch(server.url, target, sha256=SHA256, size=len(CONTENT))
    assert not target.exists()


def test_wrong_bytes_leave_an_old_file_alone(server: Server, target: Path):
    target.parent.mkdir()
    target.write_bytes(b"an older version")
    server.plan = ["wrong"]
    with pytest.raises(DownloadError, match="its MD5 is"):
        fetch(server.url, target, md5=MD5)
    assert target.read_bytes() == b"an older version"


def test_a_length_that_is_not_told(server: Server, target: Path):
    server.plan = ["chunked"]
    assert fetch(server.url, target).sha256 == SHA256


def test_mirrors_are_tried_in_order(server: Server, target: Path):
    server.plan = ["404", "wrong", "sound"]
    lines: list[str] = []
    mirrors = [f"{server.url}?{number}" for number in range(3)]
    result = fetch(["http://127.0.0.1:9/refused", *mirrors], target, sha256=SHA256, log=lines.append)
    assert result.url == mirrors[2]
    assert is_complete(target)


def test_another_mirror_goes_on_where_the_first_stopped(server: Server, target: Path):
    server.plan = ["cut 500000", "404", "sound"]
    mirrors = [f"{server.url}?{number}" for number in range(2)]
    assert fetch(mirrors, target).url == mirrors[1]
    assert server.ranges == [None, "bytes=500000-", "bytes=500000-"]


@pytest.mark.parametrize(
    "address", ["ftp://example.org/x.rar", "http://", "http://[::1", "https://exa mple/x", "nowhere.rar"]
)
def test_addresses_that_cannot_be_fetched(address: str, target: Path):
    with pytest.raises(DownloadError, match=r"hmdb51_org.rar could not be downloaded"):
        fetch(address, target, attempts=1)
    assert os.listdir(target.parent) == []
    with pytest.raises(DownloadError, match="no address"):
        fetch([], target)


def test_a_redirect_within_the_named_hosts_is_followed(server: Server, target: Path):
    server.plan = [f"to {server.url}?again", "to /hmdb51_org.rar"]
    assert fetch(server.url, target, sha256=SHA256).sha256 == SHA256
    server.plan = [f"to {server.url.replace('127.0.0.1', 'localhost')}"]
    target.unlink()
    assert fetch(server.url, target, redirect_hosts=["localhost"]).sha256 == SHA256


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://localhost:{port}/x", "redirects to another host, localhost:[0-9]+: add that to download_hosts"),
        ("http://169.254.169.254/latest/meta-data/", "another host, 169.254.169.254: add that"),
        ("//[::1]:{port}/x", r"another host, \[::1\]:[0-9]+: add that"),
        ("http://127.0.0.1:1/x", "another host, 127.0.0.1:1: add that"),
        ("http://127.0.0.1:{port}@evil.example/x", "another host, evil.example: add that"),
        ("file:///etc/passwd", "redirects to a file address, which is never followed"),
        ("ftp://127.0.0.1:{port}/x", "redirects to a ftp address, which is never followed"),
        ("http://[::1/x", "redirects to what is no address"),
    ],
)
def test_a_redirect_to_anywhere_else_is_refused(location: str, words: str, server: Server, target: Path):
    server.plan = [f"to {location.format(port=server.server_address[1])}"]
    with pytest.raises(DownloadError, match=words) as error:
        fetch(server.url, target, sha256=SHA256)
    assert "\n" not in str(error.value)
    assert server.ranges == [None], "nothing was asked of the other place"
    assert os.listdir(target.parent) == []


def test_only_the_hosts_of_the_deployment_are_asked(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAR_DOWNLOAD_HOSTS", "mirror.example, localhost")
    with pytest.raises(DownloadError, match="its host is not among those that HAR_DOWNLOAD_HOSTS allows"):
        fetch(server.url, target, redirect_hosts=["127.0.0.1"])
    assert server.ranges == []
    local = server.url.replace("127.0.0.1", "localhost")
    server.plan = [f"to {server.url}"]
    with pytest.raises(DownloadError, match=r"another host, 127.0.0.1"):
        fetch(local, target, redirect_hosts=["127.0.0.1"])
    assert fetch(local, target, sha256=SHA256).sha256 == SHA256


def test_tls_that_cannot_be_verified_is_refused(server: Server, target: Path, tmp_path: Path):
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make a certificate with")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with pytest.raises(DownloadError, match="its TLS certificate is not valid"):
        fetch(server.url.replace("http://", "https://"), target)
    assert server.ranges == []


def test_files_and_paths(tmp_path: Path, target: Path):
    source = tmp_path / "with space & hash#.rar"
    source.write_bytes(CONTENT)
    assert fetch(source.as_uri(), target, sha256=SHA256).sha256 == SHA256
    assert is_complete(target)
    target.unlink()
    assert fetch(str(source), target, md5=MD5, size=len(CONTENT)).url == str(source)
    assert is_complete(target)
    target.unlink()
    with pytest.raises(DownloadError, match="its MD5 is"):
        fetch(str(source), target, md5="0" * 32)
    with pytest.raises(DownloadError, match="there is no such file"):
        fetch((tmp_path / "absent.rar").as_uri(), target)
    assert os.listdir(target.parent) == []
    assert source.read_bytes() == CONTENT


def test_a_full_disk_is_told_before_anything_is_written(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(_files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match=r"needs 3.0 MB in .* and 1.0 MB are free"):
        fetch(server.url, target)
    assert not target.exists()


def test_a_folder_that_cannot_be_written_to(server: Server, tmp_path: Path):
    (tmp_path / "downloads").write_text("a file, not a folder")
    with pytest.raises(HarError, match="nothing can be written to"):
        fetch(server.url, tmp_path / "downloads" / "x.rar")


def test_a_target_that_is_a_folder(server: Server, target: Path):
    target.mkdir(parents=True)
    with pytest.raises(DownloadError, match="is a folder"):
        fetch(server.url, target)


def test_progress_tells_rate_and_time_left(server: Server, target: Path):
    server.bytes_a_second = 10_000_000
    lines: list[str] = []
    fetch(server.url, target, log=lines.append, log_every_s=0.05)
    progress = [line for line in lines if line.startswith("downloading")]
    assert len(progress) >= 3
    assert re.fullmatch(
        r"downloading hmdb51_org.rar: [\d.]+ [kM]?B of 3.0 MB \(\d+ %\), [\d.]+ [kM]?B/s, \d+ s left",
        progress[0],
    )


def test_headers_of_a_session_are_sent(server: Server, target: Path):
    with requests.Session() as session:
        session.headers["Range"] = "bytes=0-"
        fetch(server.url, target, session=session)
    assert server.ranges == ["bytes=0-"]


def test_several_at_once_fetch_once(server: Server, target: Path):
    server.bytes_a_second = 10_000_000
    results: list[DownloadResult] = []
    threads = [threading.Thread(target=lambda: results.append(fetch(server.url, target))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.already_there for result in results) == [False, True, True, True]
    assert len(server.ranges) == 1
    assert is_complete(target)


def test_units():
    assert [_files.format_bytes(count) for count in (0, 999, 1000, 123_456, 2_100_000_000, 3e13)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "123 kB",
        "2.1 GB",
        "30.0 TB",
    ]
    assert [_files.format_seconds(seconds) for seconds in (0.4, 59, 61, 3700)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 01 min",
    ]


def test_the_official_addresses_begin_with_https():
    for urls in (hmdb51.ARCHIVE_URLS, hmdb51.SPLITS_URLS):
        assert urls[0].startswith("https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/")


@pytest.mark.parametrize("times", [pytest.param(3, id="quick"), pytest.param(20, id="long", marks=pytest.mark.slow)])
def test_killed_at_random_moments(times: int, server: Server, target: Path):
    server.bytes_a_second = 3_000_000
    kill_repeatedly(server, target, times)
    server.bytes_a_second = None
    assert_goes_on(server, target)


def kill_repeatedly(server: Server, target: Path, times: int) -> list[float]:
    """kill -9 a download at random moments; what has the target's name is always complete.

    Returns the percentage that had arrived at each.
    """
    code = (
        "import sys; from pathlib import Path; from har_assets.dataset.download import download\n"
        "print('started', flush=True); download(sys.argv[1], Path(sys.argv[2]))"
    )
    chance = random.Random(5)
    arrived = []
    for number in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", code, server.url, str(target)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        partial = target.parent / f".{target.name}.partial"
        if number % 2:  # the others may be killed before the first byte
            while process.poll() is None and not (partial.exists() and partial.stat().st_size):
                time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
        arrived.append(100 * (partial.stat().st_size if partial.exists() else 0) / len(CONTENT))
        if target.exists():
            assert target.read_bytes() == CONTENT
            target.unlink()
            arrived[-1] = 100.0
    return arrived


def assert_goes_on(server: Server, target: Path) -> None:
    assert fetch(server.url, target).sha256 == SHA256
    assert is_complete(target)
    assert any(asked for asked in server.ranges)  # at least one went on where a killed one had stopped
