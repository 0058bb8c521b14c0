"""Source `sample`: the built-in synthetic data set, rendered on this machine.

har_assets.dataset.sample draws it, and is imported where it is rendered and nowhere else.
"""

from typing import Any

from har_assets.dataset.sources.source import Request, Source, archive_product
from har_assets.dataset.tracked import SAMPLE
from har_assets.store.product import Build, Product

SAMPLE_VERSION = "1"
"""Changes whenever the bytes of the sample change."""


def identity(request: Request) -> dict[str, Any]:
    """Its version."""
    return {"sample": SAMPLE_VERSION}


def build(build: Build, request: Request) -> Product:
    """Render it."""
    from har_assets.dataset.sample import write_sample

    files = write_sample(build.folder, workers=request.workers, log=request.log)
    return archive_product(
        request,
        dataset=SAMPLE,
        archive=files.archive.name,
        split_lists=files.split_lists.name,
        size=files.archive.stat().st_size,
        synthetic=True,
    )


SOURCE = Source(identity, build)
