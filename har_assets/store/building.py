"""From inputs and options to a published version: found where it is published already, else built, all or nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from har_assets.store.product import Build, Product
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact, Record, describe_files, merge_lineage
from har_assets.system.files import Log, hash_of
from har_assets.system.usage import measured
from har_assets.tracking.run_log import RunLog


@dataclass(frozen=True)
class ProductKey:
    """All that decides what a product is."""

    asset: str
    version: str
    """Version of the code that builds it."""
    content: Mapping[str, Any]
    """Options that it depends on, JSON-ready."""
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    """Upstream asset to the version that is built from."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Further facts, JSON-ready: the hash of a source file, the machine of a benchmark."""

    @property
    def input_versions(self) -> dict[str, str]:
        """Upstream asset to its data version."""
        return {name: artifact.record.data_version for name, artifact in self.inputs.items()}

    @property
    def digest(self) -> str:
        """Name of the product: the same for the same key, 64 hexadecimal digits."""
        return hash_of(
            {
                "asset": self.asset,
                "code_version": self.version,
                "config": dict(self.content),
                "inputs": self.input_versions,
                "identity": dict(self.identity),
            }
        )


def find_or_build(
    store: Store,
    key: ProductKey,
    build: Callable[[Build], Product],
    *,
    options: Mapping[str, Any],
    force: bool = False,
    reusable: Callable[[Artifact], bool] = lambda artifact: True,
    run: Callable[[dict[str, Any]], AbstractContextManager[RunLog]],
    log: Log,
) -> tuple[Artifact, bool]:
    """The product of a key, built unless it is published, and whether it was; it is the latest version then.

    Args:
        store: where products are.
        key: what the product is.
        build: writes its files. What it raises leaves the store as it was; unfinished work is kept.
        options: what the record keeps of the configuration, JSON-ready.
        force: build it again although it is published.
        reusable: False where a published version no longer holds (data removed by hand).
        run: opens the MLflow run of a lineage for the time of the build.
        log: takes a line.

    Raises:
        HarError: the inputs are of different lineages, or the store refuses. Whatever `build` raises.
    """
    lineage = merge_lineage(dict(key.inputs))
    found = store.find(key.asset, key.digest)
    if found and not force and reusable(found):
        store.point_to(found)
        log(f"{key.asset} is unchanged since {found.record.created}: {found.record.headline}")
        return found, True

    started = time.monotonic()
    work = store.work(key.asset, key.digest)
    with store.staging(key.asset) as folder, run(lineage) as run_log:
        with measured() as usage:
            product = build(Build(folder, dict(key.inputs), work, run_log))
        linked = {name: part.record.files[name] for name, part in product.linked.items()}
        record = Record(
            asset=key.asset,
            key=key.digest,
            # Built again by force, a product that is not reproducible is another one for the assets downstream.
            data_version=product.data_version or (hash_of([key.digest, time.time_ns()]) if force else key.digest),
            files={**describe_files(folder), **linked},
            headline=product.headline,
            lineage={**lineage, **product.lineage},
            metadata={
                **product.metadata,
                "pictures": list(product.pictures),
                "usage": usage.figures(product.clips),
            },
            checks=product.checks,
            inputs=key.input_versions,
            config=dict(options),
            seconds=round(time.monotonic() - started, 2),
        )
        published = store.publish(folder, record, product.linked)
    shutil.rmtree(work, ignore_errors=True)
    log(f"{key.asset}: {record.headline} ({record.seconds:.1f} s)")
    return published, False
