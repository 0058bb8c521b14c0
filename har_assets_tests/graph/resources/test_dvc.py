"""DVC as a Dagster resource."""

import dagster as dg

from har_assets.dataset.dvc import DvcRepository
from har_assets.graph.resources.dvc import Dvc


def test_the_resource_is_the_repository_with_the_configured_remote() -> None:
    seen = []

    @dg.asset
    def uses(dvc: Dvc) -> None:
        assert isinstance(dvc, DvcRepository)
        seen.append(dvc.remote)

    config = {"resources": {"dvc": {"config": {"remote": "there"}}}}
    assert dg.materialize([uses], resources={"dvc": Dvc.configure_at_launch()}, run_config=config).success
    assert dg.materialize([uses], resources={"dvc": Dvc()}).success
    assert seen == ["there", ""]
