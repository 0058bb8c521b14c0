"""frame_cache in shards: each part is a frame cache of its clips, and its packs become those of the whole."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from har_assets import settings
from har_assets.cluster.needs import needs
from har_assets.cluster.sharding import Shards, make_parts, parts, publish_part, shards_of
from har_assets.dataset.cache import clips_kept_whole
from har_assets.dataset.clips import data_here
from har_assets.dataset.folder import VIDEOS, published_files
from har_assets.dataset.manifests import ROLES, read_manifest_of
from har_assets.store.opening import StoreLocation
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact
from har_assets.system.files import Log
from har_assets.video.frame_cache import (
    TABLES,
    CacheParams,
    CacheReport,
    FrameCache,
    build_frame_cache,
    merge_frame_caches,
)

PART = "frame_cache_part"

SHARD_NEEDS = needs(1)


def frame_shards(
    hashes: dict[str, str], params: CacheParams, timeout_s: float, size: int, whole: Collection[str] = ()
) -> Shards:
    """Shards of clips.

    Args:
        hashes: clip name to the hash of its file, as video_clips has published it.
        params: of the frames.
        timeout_s: seconds for one video.
        size: clips of a shard.
        whole: names of the clips of which every frame is kept.
    """
    kept = {clip: f"{hashed} whole" if clip in whole else hashed for clip, hashed in hashes.items()}
    return shards_of(kept, [vars(params), timeout_s], size)


def planned_shards(store: Store, params: CacheParams, timeout_s: float, size: int) -> tuple[Shards, frozenset[str]]:
    """Shards of the clips that the published manifests name, and the clips of which every frame is kept.

    There are no shards where at most `size` clips are new to frame_cache.
    """
    known = {file["relpath"]: file["md5"] for file in published_files(store.latest("video_clips"))}
    tables = {role: read_manifest_of(store.latest(f"{role}_manifest"), role) for role in ROLES}
    hashes = {clip: known[f"{VIDEOS}/{clip}"] for table in tables.values() for clip in table["clip"]}
    whole = clips_kept_whole(tables)
    previous = store.find_latest("frame_cache")
    there: set[str] = set()
    if previous is not None:
        before = FrameCache(previous.folder)
        there = set(before.rows.clips) if before.params == params else set()
    few = len(hashes.keys() - there) <= size
    return {} if few else frame_shards(hashes, params, timeout_s, size, whole), whole


def decode_shard(
    key: str,
    clips: list[str],
    location: StoreLocation,
    params: CacheParams,
    timeout_s: float,
    whole: frozenset[str] = frozenset(),
) -> None:
    """Publish the part `key` from this node, unless it is there. Raises HarError."""

    def build(store: Store, staging: Path, work: Path) -> tuple[str, dict[str, Any]]:
        data = data_here(location.project_folder, store, on_cluster=bool(settings.read().ray))
        videos = data / VIDEOS
        report = build_frame_cache(
            {clip: videos / clip for clip in clips},
            params=params,
            folder=staging,
            work=work,
            whole=whole.intersection(clips),
            workers=1,
            timeout_s=timeout_s,
            log=lambda line: None,
            may_be_empty=True,
        )
        return f"{report.clips:,} clips of a frame cache, {report.frames:,} frames", {"clips": report.clips}

    publish_part(PART, key, build, location)


def build_on_cluster(
    shards: Shards,
    *,
    location: StoreLocation,
    params: CacheParams,
    timeout_s: float,
    folder: Path,
    log: Log,
    whole: frozenset[str] = frozenset(),
) -> tuple[CacheReport, dict[str, Artifact]]:
    """Decode all shards on the nodes of the cluster that this process is part of, and merge them into `folder`.

    Only the tables come here. Returns counts, and the part that holds each pack of the cache, for the store to copy.
    Raises HarError.
    """
    started = time.monotonic()
    make = partial(decode_shard, location=location, params=params, timeout_s=timeout_s, whole=whole)
    store = location.open()
    made = make_parts(PART, shards, make, store=store, wanted=SHARD_NEEDS, log=log)
    found = parts(PART, shards, store)
    report = merge_frame_caches([part.folder_with(TABLES) for part in found], folder, packs_elsewhere=True)
    packs = {name: part for part in found for name in part.record.files if name not in TABLES}
    report = replace(
        report,
        decoded=sum(map(len, made.values())),
        resumed=sum(len(shards[key]) for key in shards.keys() - made.keys()),
        bytes=sum(int(part.record.files[name]["bytes"]) for name, part in packs.items()),
        seconds=time.monotonic() - started,
    )
    return report, packs
