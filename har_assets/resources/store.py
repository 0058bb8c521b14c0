"""The artifact store as a Dagster resource."""

from pathlib import Path

import dagster as dg

from har_assets.artifacts import Artifact, ArtifactFolder
from har_assets.bucket import DEFAULT_ROOT, open_store


class ArtifactStore(dg.ConfigurableResource):
    """Where products are published, and the project folder that holds `data/`."""

    root: str = ""
    """Where products are published: a folder, relative to the project folder or absolute, or an address such as
    `s3://bucket/prefix`; empty takes HAR_ARTIFACTS, else `artifacts`."""
    work_root: str = DEFAULT_ROOT
    """Where root is an address, the folder of this machine for unfinished work and copies of what has been read."""
    project: str = "."
    """Project folder: `data/`, `data.dvc` and relative paths are below it."""

    @property
    def project_folder(self) -> Path:
        """Absolute project folder."""
        return Path(self.project).absolute()

    @property
    def folder(self) -> ArtifactFolder:
        """The store itself."""
        return open_store(self.root, self.work_root, self.project_folder)

    @property
    def data_folder(self) -> Path:
        """`data/`: videos, split lists and dataset.json of the current data set."""
        return self.project_folder / "data"

    def latest(self, asset: str) -> Artifact:
        """The current version of an asset; MissingArtifactError names the command that makes it."""
        return self.folder.latest(asset)
