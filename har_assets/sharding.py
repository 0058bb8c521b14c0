"""frame_cache in shards over the nodes of a Ray cluster.

    the step ──► shard: [clips] ──► a Ray task on any node with a free CPU ──► frame_cache_part, published by its key
        └────────────── once all parts are there: their packs and rows make one cache ◄──────────────┘

A part is known by the hash of its clips' bytes and the parameters, so the same step, tried again by whoever, goes on
with the parts that are there; a node that dies costs the shards that it was at, which other nodes take.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from har_assets.artifacts import Artifact, Record, describe_files, hash_of
from har_assets.errors import HarError
from har_assets.hmdb51.dataset import VIDEOS
from har_assets.resources.store import ArtifactStore
from har_assets.video.frame_cache import CacheParams, CacheReport, build_frame_cache, merge_frame_caches

PART = "frame_cache_part"

NODE_DEATHS = 3
"""Times that a shard is tried again on another node."""

Log = Callable[[str], None]


def shards_of(hashes: dict[str, str], params: CacheParams, timeout_s: float, size: int) -> dict[str, list[str]]:
    """Key of each part to its clips, `size` at most; the same for the same clips on a cluster of any size.

    `hashes`: clip name to the hash of its file, as video_clips has published it.
    """
    names = sorted(hashes)
    chunks = [names[first : first + size] for first in range(0, len(names), size)]
    return {
        hash_of([vars(params), timeout_s, [[name, hashes[name]] for name in chunk]]): chunk for chunk in chunks
    }  # fmt: skip


def decode_shard(key: str, clips: list[str], params: CacheParams, timeout_s: float) -> str:
    """Publish the part `key` from this node, unless it is there; returns the name of the node. Raises HarError."""
    from har_assets.assets.dataset import data_here  # noqa: PLC0415 it imports this module

    store = ArtifactStore()
    folder = store.folder
    if folder.find(PART, key) is None:
        started = time.monotonic()
        videos = data_here(store) / VIDEOS
        work = folder.work(PART, key)
        with folder.staging(PART) as staging:
            report = build_frame_cache(
                {clip: videos / clip for clip in clips},
                params=params,
                folder=staging,
                work=work,
                workers=1,
                timeout_s=timeout_s,
                log=lambda line: None,
                may_be_empty=True,
            )
            seconds = round(time.monotonic() - started, 2)
            folder.publish(
                staging,
                Record(
                    asset=PART, key=key, data_version=key, files=describe_files(staging),
                    headline=f"{report.clips:,} clips of a frame cache, {report.frames:,} frames", lineage={},
                    metadata={"node": socket.gethostname(), "seconds": seconds}, checks={}, inputs={}, config={},
                    seconds=seconds,
                ),
            )  # fmt: skip
        shutil.rmtree(work, ignore_errors=True)
    return socket.gethostname()


def build_on_cluster(
    shards: dict[str, list[str]], *, store: ArtifactStore, params: CacheParams, timeout_s: float, folder: Path, log: Log
) -> CacheReport:
    """Decode all shards on the nodes of the cluster that this process is part of, and merge them into `folder`.

    Raises:
        HarError: what a shard was refused for, or nodes died under one of them NODE_DEATHS + 1 times.
    """
    import ray  # noqa: PLC0415
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415

    started = time.monotonic()
    missing = {key: clips for key, clips in shards.items() if store.folder.find(PART, key) is None}
    log(f"{len(shards):,} shards, {len(shards) - len(missing):,} of them decoded before.")
    ray.init(log_to_driver=False, configure_logging=False)
    try:
        task = ray.remote(num_cpus=1, max_retries=NODE_DEATHS)(decode_shard)
        key_of = {task.remote(key, clips, params, timeout_s): key for key, clips in missing.items()}
        waiting = list(key_of)
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
                    f"A shard of frame_cache was lost with its node {NODE_DEATHS + 1} times ({error}): look at the "
                    "nodes, memory first, then run the same command, which goes on with the other shards."
                ) from error
            for part in parts(store, [key_of[done]]):
                _ = part.folder  # copied from the bucket while others are decoded
            log(f"{len(missing) - len(waiting):,} of {len(missing):,} shards are decoded.")
    finally:
        ray.shutdown()
    report = merge_frame_caches([part.folder for part in parts(store, shards)], folder)
    return CacheReport(**{**vars(report), "decoded": sum(map(len, missing.values())),
                          "resumed": sum(len(shards[key]) for key in shards.keys() - missing.keys()),
                          "seconds": time.monotonic() - started})  # fmt: skip


def parts(store: ArtifactStore, keys: Iterable[str]) -> list[Artifact]:
    """The published parts of these keys; HarError where one is missing."""
    found = [store.folder.find(PART, key) for key in keys]
    there = [part for part in found if part is not None]
    if len(there) < len(found):
        raise HarError("A part of frame_cache was removed while it was built: run the same command again.")
    return there


def remove_parts(store: ArtifactStore, shards: dict[str, list[str]]) -> None:
    """Remove the parts of a plan, when what was made from them is published."""
    for key in shards:
        while (part := store.folder.find(PART, key)) is not None:
            store.folder.discard(part)
