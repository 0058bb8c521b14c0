"""New videos as a person meets them: the switch, the run, the answer, in a real browser at a running `dagster dev`."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from har_assets.incoming.folder import partition_key
from har_assets_tests.graph.assets.test_incoming import make_video
from har_assets_tests.incoming.server import DagsterDev, current, dagster_dev, publish_model, wait_for
from har_assets_tests.project import Project, log_of
from har_assets_tests.test_web_ui import CHROMIUM, FLAGS

INTERVAL_S = 5
"""The least that Dagster's daemon looks."""


@pytest.fixture
def server(tmp_path: Path, tiny_onnx: Path) -> Iterator[DagsterDev]:
    if not CHROMIUM:
        pytest.skip("no Chromium: install it (apt-get install chromium) or name it in CHROMIUM")
    project = Project.make(tmp_path / "project")
    publish_model(project, tiny_onnx)
    (project.folder / "incoming").mkdir()
    done = project.run("har_assets.cli", "init")
    assert done.returncode == 0, log_of(done)
    with dagster_dev(project, INTERVAL_S) as server:
        yield server


@pytest.fixture
def page(server: DagsterDev) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1500, "height": 1000})
        browser.close()


def test_switch_the_sensor_on_drop_videos_see_the_run_and_the_answer(
    server: DagsterDev, page: Any, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("HAR_WEB_UI_PICTURES", tmp_path))
    page.goto(f"{server.address}/locations/har_assets/sensors/new_video_sensor")
    switch = page.locator("input[type=checkbox]")
    switch.wait_for(state="attached", timeout=60_000)
    assert not switch.is_checked(), "the sensor is off until someone wants it"
    switch.locator("xpath=..").click()
    wait_for(switch.is_checked, 30, "the switch")
    page.screenshot(path=pictures / "new_videos_sensor.png")

    incoming = server.project.folder / "incoming"
    for number in range(3):
        make_video(tmp_path / "made.avi", number, frames=40)
        shutil.move(tmp_path / "made.avi", incoming / f"clip #{number}.avi")
    (incoming / "empty.avi").touch()
    dropped = time.monotonic()
    page.goto(f"{server.address}/runs")
    page.get_by_text("new_video_sensor").first.wait_for(timeout=60_000)
    page.get_by_text("Success").first.wait_for(timeout=90_000)
    print(f"from drop to success: {time.monotonic() - dropped:.1f} s")
    page.screenshot(path=pictures / "new_videos_run.png")
    assert page.get_by_text("har/videos: 4").count() == 1, "one run for all"

    found = wait_for(lambda: current(server.project), 10, "the table")
    row = found["clip #1.avi"]
    key = partition_key(b"clip #1.avi")
    page.goto(f"{server.address}/assets/incoming_video_predictions?view=partitions&partition={key}")
    page.get_by_text(f"{row['label']} ({float(row['score']):.3f})").wait_for(timeout=60_000)
    page.get_by_text("Show Markdown").click()
    # Not `wait_for_function`, which evaluates text within the page: its content security policy forbids that.
    sheet = page.locator("img[src^='data:image/jpeg']").first
    sheet.wait_for(timeout=30_000)
    wait_for(lambda: sheet.evaluate("image => image.naturalHeight") == 96, 30, "the contact sheet")
    page.screenshot(path=pictures / "new_videos_sheet.png")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Close").wait_for(state="hidden", timeout=30_000)
    page.get_by_text("rank", exact=True).first.wait_for(timeout=30_000)
    page.screenshot(path=pictures / "new_videos_answer.png")
    assert page.get_by_text("Unsynced").count() == 0, "the lineage that Dagster was told of does not fit onnx_model"

    bad = partition_key(b"empty.avi")
    page.goto(f"{server.address}/assets/incoming_video_predictions?view=partitions&partition={bad}")
    page.get_by_text("none: the file is empty (0 bytes)").wait_for(timeout=60_000)
