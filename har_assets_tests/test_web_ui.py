"""The web UI of a running `dagster dev`, seen by a real browser."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from har_assets_tests.graph.test_definitions import DEPENDENCIES
from har_assets_tests.project import Project

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def web_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `dagster dev` in a new project folder."""
    if not CHROMIUM:
        pytest.skip("no Chromium: install it (apt-get install chromium) or name it in CHROMIUM")
    folder = os.environ.get("HAR_WEB_UI_PROJECT")  # a project with a finished pipeline, for a picture
    project = Project(Path(folder)) if folder else Project.make(tmp_path_factory.mktemp("web"))
    port = free_port()
    server = subprocess.Popen(
        project.command("dagster", "dev", "-h", "127.0.0.1", "-p", str(port)),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/server_info", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, "dagster dev ended"
                assert time.monotonic() < deadline, "dagster dev did not answer"
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture
def page(web_ui: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 2000, "height": 2400})
        page.goto(f"{web_ui}/asset-groups")
        yield page
        browser.close()


def test_the_asset_graph_shows_every_asset(page: Any, tmp_path: Path) -> None:
    page.get_by_text("Materialize all").wait_for(timeout=60_000)
    page.keyboard.press("Alt+e")  # expand all groups
    for asset in DEPENDENCIES:
        # Long names are shown shortened in the middle.
        shown = re.compile(rf"^({asset}|{asset[:5]}\w*…\w*{asset[-8:]})$")
        page.get_by_text(shown).first.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)
    picture = Path(os.environ.get("HAR_WEB_UI_PICTURE", tmp_path / "graph.png"))
    page.screenshot(path=picture)
    assert picture.stat().st_size > 20_000
