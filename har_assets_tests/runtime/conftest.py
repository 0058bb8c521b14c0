"""Shared memory that tests of the runtime must not leave behind."""

from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def left_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Ask for the blocks of shared memory that this test made and that are still there."""
    made: list[str] = []
    original = SharedMemory.__init__

    def remember(self: SharedMemory, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        made.append(self.name)

    def left() -> list[str]:
        assert made
        return [name for name in made if Path("/dev/shm", name).exists()]

    monkeypatch.setattr(SharedMemory, "__init__", remember)
    return left
