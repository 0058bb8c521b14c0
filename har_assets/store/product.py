"""Input and result of the function that builds a product."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from har_assets.store.record import Artifact
from har_assets.tracking.run_log import RunLog


@dataclass(frozen=True)
class Build:
    """Input of a build function."""

    folder: Path
    """Empty folder: what is written here is published."""
    inputs: dict[str, Artifact]
    """Latest versions of the upstream assets."""
    work: Path
    """Folder for unfinished work on this very product, not made yet: kept when the run is killed, removed when the
    product is published."""
    run: RunLog
    """The MLflow run of the model that the inputs belong to; writes nowhere where there is none."""


@dataclass
class Product:
    """Result of a build function: facts about the files that it has written."""

    headline: str
    """One line for people: `test top-1 0.93 on 80 videos`."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON-ready figures."""
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of a check to `passed`, `warning` (no more than that when it fails) and figures; names as in the
    asset's `check_specs`."""
    pictures: tuple[str, ...] = ()
    """Names of PNG files to show in the web UI."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """Added to the lineage of the inputs."""
    data_version: str = ""
    """Content hash where the content is reproducible; empty takes the key."""
    linked: dict[str, Artifact] = field(default_factory=dict)
    """File name to the version of the store whose file of that name becomes part of this product."""
    clips: int = 0
    """Clips that this build went through, for clips a second; 0 where it does not count in clips."""
