"""The picture of the README: the top of an evaluation report beside its mistakes, by a headless Chromium.

    dagster asset materialize -m har_assets --select '+key:evaluation_report' \\
        --config-json '{"ops": {"trained_checkpoint": {"config": {"epochs": 6}}}}'
    python -m benchmarks.report_picture \\
        artifacts/evaluation_report/latest/evaluation_report.html docs/evaluation_report.png

Six epochs leave mistakes to show; the default of 30 makes none.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from har_assets_tests.test_web_ui import CHROMIUM, FLAGS

WIDTH, HEIGHT = 1120, 1450
SCALE = 0.66


def main(page_file: Path, target: Path) -> None:
    """Take both parts of the page, put them side by side, and reduce them to 256 colours."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_file.absolute().as_uri())
        tops = [0, page.evaluate("document.getElementById('mistakes').getBoundingClientRect().top") - 24]
        parts = [
            Image.open(
                io.BytesIO(page.screenshot(clip={"x": 0, "y": top, "width": WIDTH, "height": HEIGHT}, full_page=True))
            )
            for top in tops
        ]
        browser.close()
    both = Image.new("RGB", (2 * WIDTH + 12, HEIGHT), "#d5dce4")
    both.paste(parts[0], (0, 0))
    both.paste(parts[1], (WIDTH + 12, 0))
    small = both.resize((round(both.width * SCALE), round(both.height * SCALE)), Image.Resampling.LANCZOS)
    # k-means after the median cut: without it the few bright colours are lost among the many pale ones.
    small.quantize(256, kmeans=4, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {small.width}x{small.height}, {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
