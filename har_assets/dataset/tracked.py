"""The project's data by `data.dvc`, beside the version that video_clips has published."""

from __future__ import annotations

from pathlib import Path

from har_assets.dataset.dvc import DvcRepository
from har_assets.errors import HarError
from har_assets.store.protocol import Store

SAMPLE = "sample"
"""Name of the synthetic data set, which anything may replace."""

UNNAMED = "unnamed"
"""Name of the data set of a data.dvc that was not written by har_assets."""


def tracked_real(project: Path, store: Store, dvc: DvcRepository) -> str | None:
    """Name of the data set that data.dvc tracks, or None where it tracks nothing or the sample."""
    tracked = dvc.tracked_version(project)
    if tracked is None:
        return None
    name = dvc.tracked_dataset(project)
    if name is None and tracked == published_version(store):
        # What was published here is tracked, and the process was killed before it had written the name.
        name = store.latest("video_clips").record.lineage["dataset"]
    return None if name == SAMPLE else name or UNNAMED


def tracked_version(project: Path, dvc: DvcRepository) -> str:
    """The version of `data/` that data.dvc names; HarError where there is no data.dvc."""
    version = dvc.tracked_version(project)
    if version is None:
        raise HarError(
            f"There is no data.dvc in {project} to restore data/ by: bring it from where the data was "
            "tracked, or name another source on raw_archive and set dvc: add on video_clips."
        )
    return version


def published_version(store: Store) -> str:
    """The version of `data/` that video_clips has published; empty where it has not."""
    published = store.find_latest("video_clips")
    return published.record.data_version if published else ""
