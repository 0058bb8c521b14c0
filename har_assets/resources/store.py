"""The artifact store as a Dagster resource."""

from pathlib import Path

import dagster as dg

from har_assets.artifacts import Artifact, ArtifactFolder


class ArtifactStore(dg.ConfigurableResource):
    """Where products are published, and the project folder that holds `data/`."""

    root: str = "artifacts"
    """Folder of all products, relative to the project folder or absolute."""
    project: str = "."
    """Project folder: `data/`, `data.dvc` and relative paths are below it."""

    @property
    def project_folder(self) -> Path:
        """Absolute project folder."""
        return Path(self.project).absolute()

    @property
    def folder(self) -> ArtifactFolder:
        """The store itself."""
        return ArtifactFolder(self.project_folder / self.root)

    @property
    def data_folder(self) -> Path:
        """`data/`: videos, split lists and dataset.json of the current data set."""
        return self.project_folder / "data"

    def latest(self, asset: str) -> Artifact:
        """The current version of an asset; MissingArtifactError names the command that makes it."""
        return self.folder.latest(asset)
