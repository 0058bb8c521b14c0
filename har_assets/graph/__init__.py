"""All that knows Dagster: assets and what they have in common, resources, sensors, schedules, jobs, executors."""
