"""Schedules; all off until they are switched on."""

import dagster as dg

weekly_retraining = dg.ScheduleDefinition(
    name="weekly_retraining",
    job_name="whole_road",
    cron_schedule="0 3 * * 1",
    description="Mondays at 03:00: the whole road. What is unchanged is skipped, so new data or a new configuration "
    "costs a training and nothing new costs seconds.",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)

nightly_evaluation = dg.ScheduleDefinition(
    name="nightly_evaluation",
    target=dg.AssetSelection.assets("test_predictions", "evaluation_report"),
    cron_schedule="0 2 * * *",
    run_config={"ops": {"test_predictions": {"config": {"force": True}}}},
    description="Every night at 02:00: the latest model on every test video, again although nothing has changed.",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)

weekly_pruning = dg.ScheduleDefinition(
    name="weekly_pruning",
    job_name="prune_artifacts",
    cron_schedule="0 5 * * 0",
    run_config={"ops": {"prune_store": {"config": {"remove": True}}}},
    description="Sundays at 05:00: removes old versions from the store, three of each asset and all that is needed "
    "excepted. Costs a look at every record.",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)

SCHEDULES = [weekly_retraining, nightly_evaluation, weekly_pruning]
