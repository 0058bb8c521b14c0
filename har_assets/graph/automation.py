"""What follows by itself when something has changed, how old a product may be, and with which configuration.

Applied once to the whole graph by `automated`; nothing of it acts before `automation_sensor` is switched on. What has
changed before that is left to the next run by hand or by schedule.
"""

import warnings
import zoneinfo
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorExecutionData

from har_assets import settings
from har_assets.errors import HarError
from har_assets.graph.resources.store import ArtifactStore

FOLLOWS = {
    "video_clips": ("raw_archive", "data_dvc"),
    "train_manifest": ("video_clips",),
    "val_manifest": ("video_clips",),
    "test_manifest": ("video_clips",),
    "class_index": ("video_clips",),
    "frame_cache": ("train_manifest", "val_manifest", "test_manifest"),
    "onnx_model": ("trained_checkpoint",),
    "trt_engine": ("onnx_model",),
    "serving_model": ("onnx_model",),
    "test_predictions": ("onnx_model",),
    "evaluation_report": ("test_predictions",),
}
"""Asset to the inputs that it follows: when one of them has changed, it is made again.

What is deployed follows its model alone: on new data it waits for the model that was trained on them, and refuses the
old one. Not among them: raw_archive and pretrained_weights, which have no input; trained_checkpoint, which the weekly
retraining makes; benchmarks, which want an idle machine."""

MADE_WEEKLY = frozenset({"trained_checkpoint", "onnx_model", "trt_engine", "test_predictions"})
"""Assets whose age is watched: the weekly retraining makes or confirms them."""


def time_zone() -> str:
    """The time zone of schedules, by HAR_TIME_ZONE; UTC without it. HarError for a name that does not exist."""
    name = settings.TIME_ZONE.get() or "UTC"
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise HarError(
            f"There is no time zone {name!r}: set {settings.TIME_ZONE} to an IANA name (Europe/Berlin), or unset it."
        ) from None
    return name


def when_changed(inputs: tuple[str, ...]) -> dg.AutomationCondition:
    """True once when the data version of one of these inputs has changed.

    What was made again and came out the same sets nothing off; a run that fails is not repeated; nothing is asked for
    while a run that makes the asset or an input is on its way, nor on inputs that were not made yet.
    """
    changed: Any = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed())
    missing = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.missing())
    condition: Any = (
        changed.allow(dg.AssetSelection.assets(*inputs)).since_last_handled()
        & ~missing
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    )
    labelled: dg.AutomationCondition = condition.with_label(f"{' or '.join(inputs)} has changed")
    return labelled


_AN_HOUR_HAS_BEGUN: Any = dg.AutomationCondition.cron_tick_passed("0 * * * *")
HOURLY: dg.AutomationCondition = (
    _AN_HOUR_HAS_BEGUN.since_last_handled() & ~dg.AutomationCondition.in_progress()
).with_label("every hour")
"""For data_dvc: is data.dvc still what it was? A `git pull` brings another one."""

A_WEEK_OLD = dg.FreshnessPolicy.time_window(warn_window=timedelta(days=8), fail_window=timedelta(days=15))
"""A warning when one weekly retraining is overdue by a day, a failure when two are."""


def automated(
    assets: Iterable[dg.AssetsDefinition | dg.SourceAsset],
) -> list[dg.AssetsDefinition | dg.SourceAsset]:
    """The same assets with automation conditions and freshness policies."""

    def with_automation(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in FOLLOWS:
            spec = spec.replace_attributes(automation_condition=when_changed(FOLLOWS[name]))
        return spec.replace_attributes(freshness_policy=A_WEEK_OLD) if name in MADE_WEEKLY else spec

    return [
        asset.map_asset_specs(with_automation) if isinstance(asset, dg.AssetsDefinition) else asset for asset in assets
    ]


def last_configuration(
    store: ArtifactStore, repository: dg.RepositoryDefinition, keys: Iterable[dg.AssetKey]
) -> dict[str, Any]:
    """Run configuration with which each asset of a selection was last made, `force` left out.

    A run that nobody starts has nobody to give it a configuration: with the defaults it would replace the model of
    conf/hmdb51.yaml by one for the sample. An asset that was not made yet gets the defaults.
    """
    ops = {}
    nodes = [repository.asset_graph.get(key) for key in keys]
    for definition in {id(node.assets_def): node.assets_def for node in nodes if node.is_materializable}.values():
        found = [made for key in definition.keys if (made := store.folder.find_latest(key.to_user_string()))]
        field = definition.op.config_field
        if not found or field is None:
            continue
        newest = max(found, key=lambda artifact: artifact.record.created)
        known = getattr(field.config_type, "fields", {}).keys() - {"force"}  # the code may have lost a field since
        config = {name: value for name, value in newest.record.config.items() if name in known}
        ops[definition.op.name] = {"config": config}
    return {"ops": ops} if ops else {}


class ContinuingSensor(dg.AutomationConditionSensorDefinition):
    """Evaluates automation conditions; the runs that it asks for go on with the last configuration of each asset."""

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        """The requests of a tick, each with a configuration."""
        tick = super().evaluate_tick(context)
        if not tick.run_requests:
            return tick
        assert context.repository_def is not None
        store = context.repository_def.get_top_level_resources()["store"]
        with dg.build_resources({"store": store}, instance=context.instance) as made:
            requests = [
                request.with_replaced_attrs(
                    run_config=last_configuration(made.store, context.repository_def, request.asset_selection or ())
                )
                for request in tick.run_requests
            ]
        return SensorExecutionData(
            run_requests=requests,
            skip_message=tick.skip_message,
            cursor=tick.cursor,
            dagster_run_reactions=tick.dagster_run_reactions,
            log_key=tick.log_key,
            dynamic_partitions_requests=tick.dynamic_partitions_requests,
            asset_events=tick.asset_events,
            automation_condition_evaluations=tick.automation_condition_evaluations,
        )


def _automation_sensor() -> ContinuingSensor:
    with warnings.catch_warnings():
        # Beta in dagster 1.13. In the daemon, where it is evaluated otherwise, nobody could add a configuration.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return ContinuingSensor(
            "automation_sensor",
            target=dg.AssetSelection.all(include_sources=True),  # data_dvc is one
            use_user_code_server=True,
            default_status=dg.DefaultSensorStatus.STOPPED,
            minimum_interval_seconds=60,
            description="Every minute: what has a changed input is made again, with the configuration it was last made "
            "with. New data goes on to manifests and frame_cache, a new checkpoint to the ONNX model, the engine, the "
            "serving model, predictions and report; data.dvc is looked at every hour. It trains nothing and builds "
            "nothing that has unmade inputs. A tick costs some queries, an hour one short run; a new data set costs "
            "its unpacking and decoding, a new model its conversion and evaluation on the GPU.",
        )


automation_sensor = _automation_sensor()

AUTOMATION_SENSORS: Sequence[dg.SensorDefinition] = [automation_sensor]
