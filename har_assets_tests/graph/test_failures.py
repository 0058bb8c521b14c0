"""A failure is one sentence in every asset, wherever in it an error is raised."""

from pathlib import Path

import pytest

from har_assets.definitions import ASSETS
from har_assets.graph.stage import STAGES
from har_assets_tests.project import Project, materialize_here


def made_together() -> list[str]:
    """The first asset of each function."""
    return sorted({min(key.to_user_string() for key in each.keys) for each in ASSETS if hasattr(each, "keys")})


def test_every_stage_is_made_by_a_function() -> None:
    assert set(made_together()) <= STAGES.keys()
    assert len(made_together()) > 10


@pytest.mark.parametrize("asset", [name for name in made_together() if not STAGES[name].partitioned])
def test_a_setting_that_is_impossible_is_said_by_every_asset(
    asset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAR_STORE_QUOTA", "a lot")
    (said,) = materialize_here(Project.make(tmp_path), f"key:{asset}", {})
    assert said.startswith("HAR_STORE_QUOTA is 'a lot': write a number"), said
    assert "\n" not in said
