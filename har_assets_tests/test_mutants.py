"""The list of faults is of lines that there are; whether tests notice them is asked by `python -m tools.mutants`."""

import shutil
from pathlib import Path

import pytest

from har_assets_tests.project import REPOSITORY
from tools.mutants import MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_changes_one_line_that_there_is(tmp_path: Path, name: str) -> None:
    mutant = MUTANTS[name]
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / mutant.file, copy)
    mutant.apply(tmp_path)
    compile(copy.read_text(), mutant.file, "exec")
    assert copy.read_text() != (REPOSITORY / mutant.file).read_text()
    assert (REPOSITORY / mutant.tests.split()[0]).is_file()
