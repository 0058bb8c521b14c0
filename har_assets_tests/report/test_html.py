"""The page: complete, escaped, self-contained; and as a browser shows it, wide, narrow and printed."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from har_assets.dataset.classes import HMDB51_CLASSES
from har_assets.dataset.groups import INFERRED, KNOWN, UNKNOWN
from har_assets.report.content import Report
from har_assets.report.html import render_page
from har_assets_tests.report import made
from har_assets_tests.test_web_ui import CHROMIUM, FLAGS

HOSTILE = ("<b>bold</b>", 'a"b', "c & d", "<script>alert(1)</script>")


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


PAGES: dict[str, Report] = {
    "usual": made.report(("run", "walk", "sit", "stand")),
    "all of HMDB51": made.report(HMDB51_CLASSES, per_class=30, right=0.4),
    "all right": made.report(("run", "walk"), right=1.0),
    "all wrong": made.report(("run", "walk"), right=-1.0),
    "classes without a test video": made.report(("run", "walk", "sit", "wave"), without_clips=("sit", "wave")),
    "one video": made.report(("run", "walk"), per_class=1, without_clips=("walk",)),
    "nothing decodable": made.report(
        ("run", "walk"), undecodable=100, cards=False, quarantine=[("run/a.avi", "test", "no <frame>")] * 300
    ),
    "names of one's own": made.report(HOSTILE, tagged=False),
}


@pytest.fixture(params=PAGES, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[Report, Page]:
    report = PAGES[request.param]
    return report, Page(render_page(report))


def test_every_picture_has_a_text_and_comes_with_the_page(case: tuple[Report, Page]) -> None:
    _, page = case
    for image in page.all("img"):
        assert image["alt"]
        assert (image["src"] or "").startswith("data:image/")
    assert not page.all("script", "iframe", "object", "embed", "video", "source")
    for link in page.all("link", "base"):
        assert link["href"] == "data:,"


def test_headings_go_down_a_level_at_a_time_and_links_on_the_page_lead_somewhere(case: tuple[Report, Page]) -> None:
    _, page = case
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [(link["href"] or "")[1:] for link in page.all("a") if (link["href"] or "").startswith("#")]
    assert set(targets) <= set(ids)
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("table")) == len(page.all("caption"))


def test_no_name_becomes_markup(case: tuple[Report, Page]) -> None:
    report, page = case
    assert not page.all("b", "frame", "script")
    for label, _ in report.evaluation.classes:
        assert label.replace("_", " ") in page.text


def test_figures_on_the_page_are_those_of_the_evaluation(case: tuple[Report, Page]) -> None:
    report, page = case
    for estimate in (report.evaluation.top1, report.evaluation.top5, report.evaluation.mean_class):
        assert f"{100 * estimate.value:.1f}\u00a0%".replace("\u00a0", " ") in page.text
        assert f"{100 * estimate.low:.1f} % to {100 * estimate.high:.1f} %" in page.text


def test_what_is_special_is_said() -> None:
    texts = {name: Page(render_page(report)).text for name, report in PAGES.items()}
    assert "No class was taken for another" in texts["all right"]
    assert "Without a test video, and so without a figure: sit, wave." in texts["classes without a test video"]
    assert "No test video could be decoded" in texts["nothing decodable"]
    assert "The other 100 are in quarantine.csv" in texts["nothing decodable"]
    assert "None of the file names follows HMDB51's scheme" in texts["names of one's own"]
    assert all("Synthetic data" not in text for text in texts.values())


@pytest.mark.parametrize("groups", [KNOWN, INFERRED, UNKNOWN])
def test_words_follow_what_is_known_of_the_recordings(groups: str) -> None:
    report = made.report(("run", "walk", "sit"))
    found = dataclasses.replace(report.evaluation, groups=groups, groups_found="by part 1 of the file names")
    page = Page(render_page(dataclasses.replace(report, evaluation=found))).text
    assert ("On videos from other films expect between" in page) == (groups == KNOWN)
    assert ("On videos from other recordings expect between" in page) == (groups == INFERRED)
    assert ("Recordings are inferred by part 1 of the file names." in page) == (groups == INFERRED)
    box = "Split by file: clips of one recording may be on both sides. Expect less on new recordings."
    assert (box in page) == (groups == UNKNOWN)
    assert ("from 9 films" in page) == (groups == KNOWN)
    assert ("from 9 recordings" in page) == (groups == INFERRED)
    assert ("come from 9" in page) == (groups != UNKNOWN)


def test_undecodable_videos_count_as_wrong() -> None:
    whole, lost = (
        made.evaluation(("run", "walk"), right=1.0),
        made.evaluation(("run", "walk"), right=1.0, undecodable=3),
    )
    assert (whole.wrong, whole.quarantined, lost.wrong, lost.quarantined) == (0, 0, 3, 3)
    assert lost.top1.value == pytest.approx(9 / 12)
    assert lost.top5.value == pytest.approx(9 / 12)
    assert lost.confusion_KK.sum() == 9
    assert sum(each.accuracy.videos for each in lost.bins) == 9


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no Chromium: install it (apt-get install chromium) or name it in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def look_at(browser: Any, file: Path, width: int, picture: Path | None = None) -> None:
    """Open a page at a width: it says nothing to the console, asks for nothing, shows every picture, and fits."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_load_state("load")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
    assert broken == 0
    if picture:
        page.screenshot(path=picture)
    page.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser(browser: Any, tmp_path: Path, name: str, width: int) -> None:
    file = tmp_path / "page.html"
    file.write_text(render_page(PAGES[name]), encoding="utf-8")
    look_at(browser, file, width)


def test_moving_pictures_can_be_stopped_and_are_not_printed(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(render_page(PAGES["usual"]), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    moving = page.locator("img.moving").first
    assert moving.is_visible()
    page.get_by_label("Show moving pictures").uncheck()
    assert not moving.is_visible()
    page.get_by_label("Show moving pictures").check()
    for media in ({"media": "print"}, {"media": "screen", "reduced_motion": "reduce"}):
        page.emulate_media(**media)
        assert not moving.is_visible()
        assert page.locator("img.strip").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()


def test_the_report_of_the_sample_in_a_browser(browser: Any, sample_road: Any, tmp_path: Path) -> None:
    page = sample_road.latest("evaluation_report").folder / "evaluation_report.html"
    for width in (360, 1280):
        look_at(browser, page, width, tmp_path / f"{width}.png")
        assert (tmp_path / f"{width}.png").stat().st_size > 20_000
    assert page.stat().st_size < 5_000_000
