"""Values of one asset's configuration that an asset before it reads."""

from typing import Any

import dagster as dg
import pytest

from har_assets import defs
from har_assets.graph.run_config import SHARED, shared_value


def found(field: tuple[str, str], config: dict[str, Any]) -> Any:
    """What an upstream asset reads in a run of this configuration."""
    seen = []

    class Options(dg.Config):
        dvc: str = "add"
        network: str = ""

    @dg.asset
    def upstream(context: dg.AssetExecutionContext) -> None:
        seen.append(shared_value(context, *field, "default"))

    @dg.asset(deps=[upstream])
    def video_clips(config: Options) -> None: ...

    run_config = {"ops": {"video_clips": {"config": config}}} if config else {}
    assert dg.materialize([upstream, video_clips], run_config=run_config).success
    return seen[0]


def test_a_shared_value_is_what_the_run_says_else_the_default() -> None:
    assert found(("video_clips", "dvc"), {"dvc": "pull"}) == "pull"
    assert found(("video_clips", "dvc"), {"network": "x"}) == "default"
    assert found(("video_clips", "dvc"), {}) == "default"


def test_only_declared_values_are_read() -> None:
    with pytest.raises(ValueError, match=r"video_clips\.network is not in SHARED"):
        found(("video_clips", "network"), {"network": "x"})


def test_every_shared_value_is_an_option_of_its_asset() -> None:
    for asset, field in SHARED:
        definition = defs.get_assets_def(asset).node_def
        assert isinstance(definition, dg.OpDefinition)
        schema = definition.config_schema.as_field().config_type
        assert field in schema.fields, (asset, field)
