"""The artifact store as a Dagster resource."""

from pathlib import Path

import dagster as dg

from har_assets import settings
from har_assets.options import Described
from har_assets.store.opening import StoreLocation, chosen_root
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact
from har_assets.system.confinement import confined, refuse_other_address


class ArtifactStore(Described, dg.ConfigurableResource):
    """Where products are published, and the project folder that holds `data/`."""

    root: str = ""
    """Where products are published: a folder, relative to the project folder or absolute, or an address such as
    `s3://bucket/prefix`; empty takes HAR_ARTIFACTS, else `artifacts`."""
    work_root: str = settings.DEFAULT_ROOT
    """Where root is an address, the folder of this machine for unfinished work and copies of what has been read."""
    project: str = "."
    """Project folder: `data/`, `data.dvc` and relative paths are below it."""
    quota: str = ""
    """Most that all products may take together, `200 GB`; empty takes HAR_STORE_QUOTA, else there is no limit."""

    @property
    def project_folder(self) -> Path:
        """Absolute project folder; HarError where a configuration names one that it may not."""
        return confined(Path(self.project).absolute(), Path.cwd(), "project of store")

    @property
    def location(self) -> StoreLocation:
        """Where the store is, for a process on another machine; HarError for a place that is not allowed."""
        project = self.project_folder
        if "://" in self.root:
            refuse_other_address(self.root, "root of store", settings.ARTIFACTS)
        for name, folder in (("root", self.root), ("work_root", self.work_root)):
            if "://" not in folder:
                confined(project / folder, Path.cwd(), f"{name} of store")
        return StoreLocation(chosen_root(self.root), self.work_root, self.project, self.quota)

    @property
    def folder(self) -> Store:
        """The store itself."""
        return self.location.open()

    @property
    def data_store(self) -> Store:
        """The store that has what `data/` was made from."""
        return self.folder

    def latest(self, asset: str) -> Artifact:
        """The current version of an asset; MissingArtifactError names the command that makes it."""
        return self.folder.latest(asset)
