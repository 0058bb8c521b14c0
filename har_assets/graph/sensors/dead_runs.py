"""dead_run_sensor: runs whose process was killed end as failed."""

import dagster as dg

from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.dead_runs import release_dead_runs
from har_assets.tracking.outbox import settle


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Every half minute: runs on this machine whose process was killed are marked failed, give their pool "
    "slots back, and end in MLflow. Costs a few queries.",
)
def dead_run_sensor(context: dg.SensorEvaluationContext, store: ArtifactStore, mlflow: MlflowTracking) -> dg.SkipReason:
    """End the runs of dead processes."""
    released = release_dead_runs(context.instance)
    # The code server has marked most runs failed by now, and it does not end their MLflow runs.
    settle(mlflow.outbox_folder(store.project_folder))
    return dg.SkipReason(f"marked failed: {', '.join(released)}" if released else "no dead runs")
