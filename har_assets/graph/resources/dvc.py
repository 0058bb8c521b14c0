"""DVC as a Dagster resource."""

import dagster as dg

from har_assets.dataset.dvc import DvcRepository
from har_assets.options import Described


class Dvc(Described, dg.ConfigurableResource, DvcRepository):
    """The project's DVC repository. Commands run in a process of their own: dvc is slow to import."""

    remote: str = ""
    """Name of the remote for push and pull; empty takes DVC's default remote."""
