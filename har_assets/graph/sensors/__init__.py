"""Every sensor of the graph."""

from har_assets.graph.automation import AUTOMATION_SENSORS
from har_assets.graph.sensors.alerts import alert_sensor
from har_assets.graph.sensors.dead_runs import dead_run_sensor
from har_assets.graph.sensors.incoming import INCOMING_SENSORS

SENSORS = [dead_run_sensor, *AUTOMATION_SENSORS, alert_sensor, *INCOMING_SENSORS]
