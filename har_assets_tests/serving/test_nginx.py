"""The nginx block of the README in a real nginx, in front of a server on this machine."""

import http.client
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from har_assets_tests.mlflow_server import free_port
from har_assets_tests.project import REPOSITORY


class Behind(BaseHTTPRequestHandler):
    """Counts what arrives."""

    arrived: list[int]

    def do_POST(self) -> None:
        left = size = int(self.headers["Content-Length"])
        while left and (part := self.rfile.read(min(left, 2**20))):
            left -= len(part)
        self.arrived.append(size)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of an nginx with the README's location in an otherwise empty server."""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.skip("no nginx program: apt-get install nginx-light")
    (block,) = re.findall(r"```nginx\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    Behind.arrived = []
    behind = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    Thread(target=behind.serve_forever, daemon=True).start()
    location = block.replace("127.0.0.1:5001", f"127.0.0.1:{behind.server_address[1]}")
    assert location != block, "the README names another address of the model server"
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    paths = " ".join(f"{name}_temp_path {folder};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}; {paths}\n"
        f"server {{ listen 127.0.0.1:{port};\n{location} }} }}\n"
    )
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")])
    try:
        deadline = time.monotonic() + 20
        while ask(port, "GET", "/") is None:
            log = folder / "log"
            assert process.poll() is None, log.read_text() if log.exists() else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()
        behind.shutdown()
        behind.server_close()


def ask(
    port: int, method: str, path: str = "/invocations", size: int = 0, content_type: str = "application/json"
) -> int | None:
    """Status of the answer; None where there is no server yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, path)
        if method == "POST":
            connection.putheader("Content-Type", content_type)
            connection.putheader("Content-Length", str(size))
        try:
            connection.endheaders()
            if size < 1_000_000:
                connection.send(b"x" * size)
            else:
                for _ in range(size // 1_000_000):
                    connection.send(b"x" * 1_000_000)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused by its length, before all of it was sent
        return connection.getresponse().status
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def test_json_goes_through_and_nothing_else(port: int) -> None:
    assert ask(port, "POST", size=1000) == 200
    assert ask(port, "POST", size=1000, content_type="application/json; charset=utf-8") == 200
    for content_type in ("text/csv", "application/x-parquet", "text/plain", ""):
        assert ask(port, "POST", size=1000, content_type=content_type) == 415
    for method in ("DELETE", "PUT"):
        assert ask(port, method) in (403, 415)
    assert ask(port, "GET", "/ping") == 404
    assert ask(port, "POST", "/invocations/../admin", size=10) == 404


def test_a_body_over_the_limit_ends_there(port: int) -> None:
    assert ask(port, "POST", size=44_000_000) == 200
    Behind.arrived.clear()
    assert ask(port, "POST", size=48_000_000) == 413
    assert Behind.arrived == []
