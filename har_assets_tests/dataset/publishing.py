"""Products published without Dagster."""

import time
from collections.abc import Callable
from pathlib import Path

from har_assets.store.folder import ArtifactFolder
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact, Record, describe_files
from har_assets.system.files import hash_of
from har_assets.tracking.run_log import RunLog


def publish(store: ArtifactFolder, asset: str, build: Callable[[Build], Product], *upstream: str) -> Artifact:
    """Build and publish a product as the graph does, under a new key."""
    with store.staging(asset) as folder:
        inputs = {name: store.latest(name) for name in upstream}
        product = build(Build(folder, inputs, Path(folder.parent, ".work"), RunLog(None)))
        key = hash_of([asset, time.time_ns()])
        record = Record(
            asset=asset,
            key=key,
            data_version=product.data_version or key,
            files=describe_files(folder),
            headline=product.headline,
            lineage=product.lineage,
            metadata=product.metadata,
            checks=product.checks,
            inputs={name: artifact.record.data_version for name, artifact in inputs.items()},
            config={},
            seconds=0.0,
        )
        return store.publish(folder, record, product.linked)
