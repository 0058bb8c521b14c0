"""The sensor that makes again whatever has a changed input, and the configuration of runs that nobody starts.

Which input each asset follows is in the table of stages. Nothing acts before `automation_sensor` is switched on; what
has changed before that is left to the next run by hand or by schedule.
"""

import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from har_assets.graph.asset import CONFIGS
from har_assets.graph.dagster_private import SensorExecutionData, with_run_config
from har_assets.graph.resources.store import ArtifactStore

logger = logging.getLogger(__name__)


_AN_HOUR_HAS_BEGUN: Any = dg.AutomationCondition.cron_tick_passed("0 * * * *")
HOURLY: dg.AutomationCondition = (
    _AN_HOUR_HAS_BEGUN.since_last_handled() & ~dg.AutomationCondition.in_progress()
).with_label("every hour")
"""For data_dvc: is data.dvc still what it was? A `git pull` brings another one."""


def last_configuration(
    store: ArtifactStore, repository: dg.RepositoryDefinition, keys: Iterable[dg.AssetKey]
) -> dict[str, Any]:
    """Run configuration with which each asset of a selection was last made, `force` left out.

    A run that nobody starts has nobody to give it a configuration: with the defaults it would replace the model of
    conf/hmdb51.yaml by one for the sample. An asset that was not made yet gets the defaults.
    """
    ops = {}
    definitions = [repository.assets_defs_by_key[key] for key in keys if key in repository.assets_defs_by_key]
    for definition in {id(definition): definition for definition in definitions}.values():
        found = [made for key in definition.keys if (made := store.folder.find_latest(key.to_user_string()))]
        if not found:
            continue
        newest = max(found, key=lambda artifact: artifact.record.created).record
        config = CONFIGS[newest.asset].from_recorded(newest.config, logger.warning)
        ops[definition.op.name] = {"config": config.model_dump(exclude_unset=True, exclude={"force"})}
    return {"ops": ops} if ops else {}


class ContinuingSensor(dg.AutomationConditionSensorDefinition):
    """Evaluates automation conditions; the runs that it asks for go on with the last configuration of each asset."""

    @property
    def required_resource_keys(self) -> set[str]:
        """The store, which holds the last configurations."""
        return {"store"}

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        """The requests of a tick, each with a configuration."""
        tick = super().evaluate_tick(context)
        if not tick.run_requests:
            return tick
        repository, store = context.repository_def, context.resources.store
        assert repository is not None
        return with_run_config(tick, lambda keys: last_configuration(store, repository, keys))


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
