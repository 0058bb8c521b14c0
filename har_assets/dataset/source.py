"""Where the videos come from: the table of sources, and the choice among them.

A source is one row of SOURCES and one module in har_assets.dataset.sources. What is no name of the table is the path of
an archive or folder of one's own.
"""

from __future__ import annotations

from pathlib import Path

from har_assets import settings
from har_assets.dataset.dvc import DvcRepository
from har_assets.dataset.known import HMDB51
from har_assets.dataset.sources import hmdb51, own, restored, sample
from har_assets.dataset.sources.restored import DVC
from har_assets.dataset.sources.source import Source
from har_assets.dataset.tracked import SAMPLE, tracked_real
from har_assets.errors import HarError
from har_assets.store.protocol import Store
from har_assets.system.confinement import confined

SOURCES: dict[str, Source] = {SAMPLE: sample.SOURCE, HMDB51.name: hmdb51.SOURCE, DVC: restored.SOURCE}


def source_of(source: str) -> Source:
    """The row of a chosen source."""
    return SOURCES.get(source, own.SOURCE)


def choose_source(wanted: str, project: Path, store: Store, dvc: DvcRepository, *, pulled: bool = False) -> str:
    """A name of the table, or an absolute path; HarError for anything else.

    Args:
        wanted: what the configuration says; empty takes, in this order, DVC where `pulled`, the source that the
            project has, HAR_SOURCE, DVC where data.dvc tracks a real data set, the sample.
        project: project folder.
        store: where raw_archive is published.
        dvc: the project's repository.
        pulled: the videos are taken from DVC, so that no archive is needed unless one is named.
    """
    published = store.find_latest("raw_archive")
    source = (
        wanted
        or (DVC if pulled else "")
        or (published.record.metadata["source"] if published else "")
        or settings.read().source
        or (DVC if tracked_real(project, store, dvc) else SAMPLE)
    )
    if source in SOURCES:
        return str(source)
    path = project / Path(source.removeprefix("file://")).expanduser()
    confined(path, project, "source of raw_archive")
    if not path.exists():
        raise HarError(
            f"There is no source {source!r}: choose {', '.join(SOURCES)}, or the path of an existing archive or folder."
        )
    return str(path)
