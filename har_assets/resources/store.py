"""The artifact store as a Dagster resource."""

from pathlib import Path

import dagster as dg

from har_assets.artifacts import Artifact, ArtifactFolder
from har_assets.confinement import confined
from har_assets.quota import Quota


class ArtifactStore(dg.ConfigurableResource):
    """Where products are published, and the project folder that holds `data/`."""

    root: str = "artifacts"
    """Folder of all products, relative to the project folder or absolute."""
    project: str = "."
    """Project folder: `data/`, `data.dvc` and relative paths are below it."""
    quota: str = ""
    """Most that all products may take together, `200 GB`; empty takes HAR_STORE_QUOTA, else there is no limit."""

    @property
    def project_folder(self) -> Path:
        """Absolute project folder; HarError where a configuration names one that it may not."""
        return confined(Path(self.project).absolute(), Path.cwd(), "project of store")

    @property
    def folder(self) -> ArtifactFolder:
        """The store itself."""
        root = confined(self.project_folder / self.root, Path.cwd(), "root of store")
        return ArtifactFolder(root, quota=Quota.of(root, self.quota))

    @property
    def data_folder(self) -> Path:
        """`data/`: videos, split lists and dataset.json of the current data set."""
        return self.project_folder / "data"

    def latest(self, asset: str) -> Artifact:
        """The current version of an asset; MissingArtifactError names the command that makes it."""
        return self.folder.latest(asset)
