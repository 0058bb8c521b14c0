"""Fixtures shared by all tests: the folder of real clips and archives, and a project folder of its own."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real HMDB51 clips, official lists and awkward files; not part of the repository."""
    folder = Path(os.environ.get("HAR_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "hmdb51_mini.rar").is_file():
        pytest.skip(f"no real clips at {folder}: set HAR_SHARED_DATA to a folder with hmdb51_mini.rar")
    return folder
