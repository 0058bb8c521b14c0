"""data_dvc: the file `data.dvc` as Dagster sees it, so that a changed one marks video_clips as stale."""

import warnings

import dagster as dg

from har_assets.graph.automation import HOURLY
from har_assets.graph.dagster_private import look_up_input_version_again
from har_assets.graph.failures import failures_in_words
from har_assets.graph.resources.dvc import Dvc
from har_assets.graph.resources.store import ArtifactStore

DATA_DVC = "data_dvc"
UNTRACKED = "untracked"
"""Version while there is no data.dvc."""

with warnings.catch_warnings():
    # Beta in dagster 1.13, and the only asset that is observed without being made.
    warnings.simplefilter("ignore", dg.BetaWarning)

    @dg.observable_source_asset(
        name=DATA_DVC,
        group_name="dataset",
        automation_condition=HOURLY,
        description="`data.dvc`: the version of data/ that git and DVC know. Observe it after a `git pull`: when it "
        "has changed, video_clips is shown as stale; materialize that with dvc: pull to take the new data.",
        tags={"dagster/kind/dvc": ""},
    )
    def data_dvc(store: ArtifactStore, dvc: Dvc) -> dg.DataVersion:
        """The md5 in `data.dvc`."""
        with failures_in_words():
            return dg.DataVersion(dvc.tracked_version(store.project_folder) or UNTRACKED)


def observed_by(context: dg.AssetExecutionContext, version: str | None) -> None:
    """Note that this step has itself read or written `data.dvc`, which now has this version.

    Without it a video_clips that has just tracked its data would be shown as stale at the next observation.
    """
    context.log_event(dg.AssetObservation(DATA_DVC, tags={"dagster/data_version": version or UNTRACKED}))
    # Dagster looks versions of inputs up before a step starts; it has to look again for this one.
    look_up_input_version_again(context, dg.AssetKey(DATA_DVC))
