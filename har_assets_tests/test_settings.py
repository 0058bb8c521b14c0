"""The settings of a deployment are named and read in one module."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import har_assets
from har_assets import settings

PACKAGE = Path(har_assets.__file__).parent
SOURCE = (PACKAGE / "settings.py").read_text()


def named_in(source: str) -> list[str]:
    """Texts of a module that are the name of a setting and nothing else."""
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [text for text in texts if isinstance(text, str) and re.fullmatch("HAR_[A-Z_]+", text)]


@pytest.mark.parametrize(
    "line", ['value = os.environ["HAR_RAY"]', 'RAY = "HAR_RAY"', 'option(envvar=["HAR_RAY"])', 'env = {"HAR_RAY": ""}']
)
def test_the_search_finds_each_way_of_naming_one(line: str) -> None:
    assert named_in(line) == ["HAR_RAY"]
    assert named_in('"""Empty takes HAR_RAY."""') == []


def test_no_other_module_names_a_setting() -> None:
    naming = {
        str(path.relative_to(PACKAGE)): names
        for path in PACKAGE.rglob("*.py")
        if path.name != "settings.py" and (names := named_in(path.read_text()))
    }
    assert naming == {}


def test_every_setting_is_there_once_and_has_a_docstring() -> None:
    body = ast.parse(SOURCE).body
    found = [
        (node.targets[0].id, following)
        for node, following in zip(body, [*body[1:], None], strict=True)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]
    assert len(found) == 27
    for name, following in found:
        assert getattr(settings, name) == f"HAR_{name}"
        assert isinstance(following, ast.Expr), f"{name} has no docstring"
        assert isinstance(following.value, ast.Constant)
    assert len(named_in(SOURCE)) == len(set(named_in(SOURCE))) == 27


def test_a_setting_is_read_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HAR_RAY", raising=False)
    assert settings.RAY.get() is None
    assert settings.RAY.get("none") == "none"
    monkeypatch.setenv("HAR_RAY", "")
    assert settings.RAY.get("none") == ""
    monkeypatch.setenv("HAR_RAY", "http://head:8265")
    assert settings.RAY.get() == "http://head:8265"
    assert f"unset {settings.RAY}" == "unset HAR_RAY"


def test_the_module_brings_nothing_of_the_project_along() -> None:
    code = (
        "import har_assets, sys; before = set(sys.modules)\n"
        "import har_assets.settings; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [name for name in done.stdout.split() if name.startswith("har_assets")] == ["har_assets.settings"]
