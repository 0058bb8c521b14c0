"""Sensors."""

import dagster as dg

from har_assets.alerts import alert_sensor
from har_assets.automation import AUTOMATION_SENSORS
from har_assets.incoming_sensor import INCOMING_SENSORS
from har_assets.runs import release_dead_runs


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Every minute: runs on this machine whose process was killed are marked failed and give their pool "
    "slots back. Costs one query.",
)
def dead_run_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """End the runs of dead processes."""
    released = release_dead_runs(context.instance)
    return dg.SkipReason(f"marked failed: {', '.join(released)}" if released else "no dead runs")


SENSORS = [dead_run_sensor, *AUTOMATION_SENSORS, alert_sensor, *INCOMING_SENSORS]
