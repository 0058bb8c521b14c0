"""Schedules, off by default. They count hours in the time zone HAR_TIME_ZONE."""

import dagster as dg

from har_assets import settings
from har_assets.graph.automation import last_configuration
from har_assets.graph.dagster_private import assets_of_job
from har_assets.graph.resources.store import ArtifactStore

TIME_ZONE = settings.read().time_zone
EVALUATION = ("test_predictions", "evaluation_report")


@dg.schedule(
    job_name="whole_road",
    cron_schedule="0 3 * * 1",
    execution_timezone=TIME_ZONE,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Mondays at 03:00: the job whole_road, each asset with the configuration it was last made with. What "
    "is unchanged is skipped, so new data costs its decoding, a training and all that follows, and nothing new costs "
    "seconds. The source stays the one that the project has: the sample never replaces a real data set.",
)
def weekly_retraining(context: dg.ScheduleEvaluationContext, store: ArtifactStore) -> dg.RunRequest:
    """Ask for a run of the job whole_road."""
    assert context.repository_def is not None
    keys = assets_of_job(context.repository_def, "whole_road")
    return dg.RunRequest(run_config=last_configuration(store, context.repository_def, keys))


@dg.schedule(
    target=dg.AssetSelection.assets(*EVALUATION),
    cron_schedule="0 2 * * *",
    execution_timezone=TIME_ZONE,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every night at 02:00: the latest model on every test video, again although nothing has changed, and "
    "the report, with the configuration of the last time. Costs seconds on the sample, minutes on HMDB51.",
)
def nightly_evaluation(context: dg.ScheduleEvaluationContext, store: ArtifactStore) -> dg.RunRequest:
    """Ask for test_predictions, by force, and the report of them."""
    assert context.repository_def is not None
    config = last_configuration(store, context.repository_def, map(dg.AssetKey, EVALUATION))
    ops = config.setdefault("ops", {})
    ops.setdefault("test_predictions", {"config": {}})["config"]["force"] = True
    return dg.RunRequest(run_config=config)


weekly_pruning = dg.ScheduleDefinition(
    name="weekly_pruning",
    job_name="prune_artifacts",
    cron_schedule="0 5 * * 0",
    execution_timezone=TIME_ZONE,
    run_config={"ops": {"prune_store": {"config": {"remove": True}}}},
    description="Sundays at 05:00: removes old versions from the store, three of each asset and all that is needed "
    "excepted; in a bucket only what was superseded a day ago. Costs a look at every record, in a bucket a listing "
    "and a request for each record that this machine has no copy of.",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)

SCHEDULES = [weekly_retraining, nightly_evaluation, weekly_pruning]
