"""Values that belong to one asset's configuration and that an asset before it has to know in the same run.

    video_clips.dvc              raw_archive fetches no archive where DVC restores the videos (`pull`)
    trained_checkpoint.network   pretrained_weights fetches the weights of the network that is to be trained,
    trained_checkpoint.pretrained    and none for a training from scratch

A value is written once in the YAML of a run, at the asset that owns it. Each of the two upstream assets also has a
field of its own that says the same, `source: dvc` and `network`, for a run of that asset alone; it goes before what is
found here.
"""

from typing import Any

import dagster as dg

from har_assets.graph.asset import CONFIGS

SHARED = frozenset({("video_clips", "dvc"), ("trained_checkpoint", "network"), ("trained_checkpoint", "pretrained")})
"""(asset, field) of all that may be read from elsewhere."""


def shared_value(context: dg.AssetExecutionContext, asset: str, field: str, default: Any) -> Any:
    """The value of a field in SHARED in this run's configuration; `default` where it leaves the field out."""
    if (asset, field) not in SHARED:
        raise ValueError(f"{asset}.{field} is not in SHARED: an asset reads its own configuration alone")
    run_config: dict[str, Any] = dict(context.run.run_config)
    return CONFIGS[asset].find(run_config.get("ops", {}).get(asset, {}).get("config", {}), field, default)
