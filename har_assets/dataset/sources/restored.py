"""Source `dvc`: there is no archive, DVC restores the data as data.dvc names it."""

from typing import Any

from har_assets.dataset.sources.source import Request, Source
from har_assets.dataset.tracked import SAMPLE, UNNAMED, tracked_version
from har_assets.store.product import Build, Product

DVC = "dvc"


def identity(request: Request) -> dict[str, Any]:
    """The version that data.dvc names; HarError where there is none."""
    return {DVC: tracked_version(request.project, request.dvc)}


def build(build: Build, request: Request) -> Product:
    """Say which version of which data set DVC restores."""
    version = tracked_version(request.project, request.dvc)
    dataset = request.dvc.tracked_dataset(request.project) or UNNAMED
    return Product(
        headline=f"{dataset}: no archive, DVC restores version {version[:8]}",
        metadata={"source": DVC, "archive": "", "split_lists": "", "dataset": dataset},
        lineage={"dataset": dataset, "synthetic": dataset == SAMPLE},
    )


SOURCE = Source(identity, build)
