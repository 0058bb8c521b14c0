"""The house can be seen: few loose files, none too long, thin assets."""

import ast
from pathlib import Path

import pytest

from har_assets_tests.project import REPOSITORY

PACKAGE = REPOSITORY / "har_assets"

LONGEST_FILE = 450
LONGEST_ASSET = 60


def sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert len(found) > 5
    return found


def test_at_most_seven_files_lie_beside_the_rooms() -> None:
    loose = [path.name for path in PACKAGE.iterdir() if path.is_file()]
    assert len(loose) <= 7, loose


def test_no_file_is_too_long_to_be_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(PACKAGE)}
    assert {str(path.relative_to(PACKAGE)): n for path, n in lengths.items() if n > LONGEST_FILE} == {}


@pytest.mark.parametrize("path", sources(PACKAGE / "graph" / "assets"), ids=lambda path: path.stem)
def test_an_asset_says_what_from_what_to_where(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            assert node.end_lineno is not None
            assert node.end_lineno - first < LONGEST_ASSET, node.name


def test_every_package_says_what_it_is() -> None:
    for folder in {path.parent for path in sources(PACKAGE)}:
        doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert doc, folder
        assert doc != f"{folder.name}.", folder
