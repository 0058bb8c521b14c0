"""`har init`: the databases of Dagster and MLflow."""

import os
from pathlib import Path


def init() -> None:
    """Create the databases of Dagster and MLflow in this folder, so that first runs do not race to do so."""
    from dagster import DagsterInstance

    from har_assets.graph.dagster_private import make_pool
    from har_assets.graph.running.dead_runs import release_dead_runs
    from har_assets.tracking.run import Tracking

    # The dagster commands read ./dagster.yaml by themselves; its Python interface wants to be told.
    os.environ.setdefault("DAGSTER_HOME", str(Path.cwd()))
    with DagsterInstance.get() as instance:
        released = release_dead_runs(instance)
        # On PostgreSQL, one of two runs that both make the pool at once fails.
        make_pool(instance, "gpu")
    if released:
        print(f"Runs whose process had died, now marked failed: {', '.join(released)}")
    Tracking().create_database(Path.cwd())
