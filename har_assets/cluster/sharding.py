"""Work in shards over the nodes of a Ray cluster.

    the step ──► shard: [clips] ──► a Ray task on any node that has what it needs ──► a part, published by its key
        └────────────── once all parts are there they make one product, and are removed ◄──────────────┘

A part is known by the hash of its clips' bytes and of all that is done to them, so the same step, when it is
tried again, goes on with the parts that are there; a node that dies costs the shards that it was at, which others take.

What is done with a shard: har_assets.cluster.frames, har_assets.cluster.predictions.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from har_assets.cluster.needs import tasks_that_need
from har_assets.errors import HarError
from har_assets.store.opening import StoreLocation
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact, Record, describe_files
from har_assets.system.files import Log, hash_of
from har_assets.system.locks import locked

NODE_DEATHS = 3
"""Times that a shard is tried again on another node."""

Shards = dict[str, list[str]]
"""Key of each part to its clips."""


def shards_of(hashes: dict[str, str], recipe: Any, size: int) -> Shards:
    """Shards of `size` clips at most; the same for the same clips on a cluster of any size.

    Args:
        hashes: clip name to the hash of what the part is made from.
        recipe: JSON-ready, all else that decides the content of a part.
        size: clips.
    """
    names = sorted(hashes)
    chunks = [names[first : first + size] for first in range(0, len(names), size)]
    return {hash_of([recipe, [[name, hashes[name]] for name in chunk]]): chunk for chunk in chunks}


def publish_part(
    asset: str, key: str, build: Callable[[Store, Path, Path], tuple[str, dict[str, Any]]], location: StoreLocation
) -> None:
    """Publish the part `key` of `asset` from this node, unless it is there.

    Args:
        asset: whose version the part is.
        key: of the part.
        build: gets the store, an empty folder for the files of the part and one, not made yet, for unfinished work;
            returns a line for people and JSON-ready figures.
        location: of the store of the step, which may be another one than the environment of this node names.

    Raises what `build` raises, and StorageError.
    """
    store = location.open()
    work = store.work(asset, key)
    # A run that was killed a moment ago may still be at it here, for as long as its steps have not noticed.
    with locked(work, lambda line: None):
        if store.find(asset, key) is not None:
            return
        started = time.monotonic()
        with store.staging(asset) as staging:
            headline, figures = build(store, staging, work)
            seconds = round(time.monotonic() - started, 2)
            part = store.publish(
                staging,
                Record(
                    asset=asset,
                    key=key,
                    data_version=key,
                    files=describe_files(staging),
                    headline=headline,
                    metadata={**figures, "node": socket.gethostname(), "seconds": seconds},
                    seconds=seconds,
                    lineage={},
                    checks={},
                    inputs={},
                    config={},
                ),
            )
        store.drop_copy(part)  # which nobody would remove from this node
        shutil.rmtree(work, ignore_errors=True)


def make_parts(
    asset: str,
    shards: Shards,
    make: Callable[[str, list[str]], None],
    *,
    store: Store,
    wanted: dict[str, Any],
    log: Log,
) -> Shards:
    """Make the parts of `asset` that are not there, on the nodes of the cluster that this process is part of.

    Args:
        asset: whose versions the parts are.
        shards: what there is to do.
        make: publishes the part of a key and clips on the node where it is called; travels there by pickle.
        store: where parts are.
        wanted: what a shard needs of a node, by `har_assets.cluster.needs.needs`.
        log: takes a line at a time.

    Returns:
        The shards that were made by this call.

    Raises:
        HarError: what a shard was refused for, or nodes died under one of them NODE_DEATHS + 1 times.
    """
    there = _parts_there(asset, store)
    missing = {key: clips for key, clips in shards.items() if key not in there}
    for key in shards.keys() & there.keys():
        store.point_to(there[key])  # says that it is used again, so that no prune takes it meanwhile
    log(f"{len(shards):,} shards, {len(shards) - len(missing):,} of them made before.")
    if not missing:
        return {}
    import ray
    from ray.exceptions import RayError, RayTaskError

    ray.init(log_to_driver=False, configure_logging=False)
    try:
        options = tasks_that_need(wanted, ray.cluster_resources(), log)
        task = ray.remote(name=asset, max_retries=NODE_DEATHS, **options)(_make_part)
        waiting = [task.remote(make, key, clips) for key, clips in missing.items()]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            try:
                ray.get(done)
            except RayTaskError as error:
                if isinstance(error.cause, HarError):
                    raise error.cause from None
                raise
            except RayError as error:
                raise HarError(
                    f"A shard of {asset} was lost with its node {NODE_DEATHS + 1} times ({error}): look at the nodes, "
                    "memory first, then run the same command, which goes on with the other shards."
                ) from error
            log(f"{len(missing) - len(waiting):,} of {len(missing):,} shards are made.")
    finally:
        ray.shutdown()
    return missing


def _make_part(make: Callable[[str, list[str]], None], key: str, clips: list[str]) -> None:
    """A function, which is what Ray takes."""
    make(key, clips)


def parts(asset: str, keys: Iterable[str], store: Store) -> list[Artifact]:
    """The published parts of these keys, in their order; HarError where one is missing."""
    there = _parts_there(asset, store)
    try:
        return [there[key] for key in keys]
    except KeyError:
        raise HarError(f"A part, {asset}, was removed before it was used: run the same command again.") from None


def remove_parts(asset: str, shards: Shards, store: Store) -> None:
    """Remove the parts of a plan, when what was made from them is published."""
    for part in store.versions(asset):
        if part.record.key in shards:
            store.discard(part)


def _parts_there(asset: str, store: Store) -> dict[str, Artifact]:
    """By key; made twice, a part has the same content."""
    return {part.record.key: part for part in store.versions(asset)}
