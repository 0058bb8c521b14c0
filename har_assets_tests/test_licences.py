"""The list of licences is current, and somebody has decided on every one of them."""

from pathlib import Path

import pytest

from har_assets_tests.project import REPOSITORY
from tools import licences


def test_the_page_is_current() -> None:
    assert (REPOSITORY / "docs" / "licences.md").read_text() == licences.page(), "run `make licences`"


def test_a_package_that_the_page_lacks_is_noticed(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"{licences.LOCK.read_text()}\npip==1.0\n")
    page = licences.page(lock)
    assert page != (REPOSITORY / "docs" / "licences.md").read_text()
    assert "| pip | 1.0 | MIT |" in page


def test_every_licence_is_allowed() -> None:
    bad = {name: licences.licence_of(name) for name in licences.packages()}
    assert {name: found for name, found in bad.items() if licences.unallowed(found)} == {}


@pytest.mark.parametrize(
    ("expression", "bad"),
    [
        ("MIT", []),
        ("Apache-2.0 AND MIT", []),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", []),
        ("AGPL-3.0", ["AGPL-3.0"]),
        ("Apache-2.0 WITH LLVM-exception", []),
        ("MIT OR GPL-3.0-only", ["GPL-3.0-only"]),
        ("unknown", ["unknown"]),
    ],
)
def test_what_nobody_has_decided_on_is_found(expression: str, bad: list[str]) -> None:
    assert licences.unallowed(expression) == bad


def test_a_package_that_brings_another_licence_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "site" / "copyleft-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: copyleft\nVersion: 1.0\nLicense: AGPL-3.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    lock = tmp_path / "requirements.lock"
    lock.write_text("copyleft==1.0\n")
    monkeypatch.setattr(licences.packages, "__defaults__", (lock,))
    monkeypatch.setattr(licences.page, "__defaults__", (lock,))
    assert licences.main() == 1
    assert "copyleft: AGPL-3.0 is not in ALLOWED" in capsys.readouterr().err
