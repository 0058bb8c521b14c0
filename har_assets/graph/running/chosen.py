"""Which executor the deployment has."""

from __future__ import annotations

import dagster as dg

from har_assets import settings
from har_assets.graph.running.executor import surviving_executor


def chosen_executor() -> dg.ExecutorDefinition:
    """The executor of the deployment: a process a step here, or Ray jobs where HAR_RAY is set."""
    if settings.read().ray:
        from har_assets.graph.running.ray_executor import surviving_ray_executor

        return surviving_ray_executor
    # Steps fork from a process that has imported the graph already: 0.1 s a step instead of 3.
    return surviving_executor.configured(
        {"start_method": {"forkserver": {"preload_modules": ["har_assets.definitions"]}}}
    )
