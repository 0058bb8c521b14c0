"""frame_cache in shards: each part is a frame cache of its clips, and its packs become those of the whole."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from har_assets.cluster.needs import needs
from har_assets.cluster.sharding import Log, Shards, make_parts, parts, publish_part, shards_of
from har_assets.dataset.folder import VIDEOS
from har_assets.store.opening import StoreLocation, chosen_root
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact
from har_assets.video.frame_cache import TABLES, CacheParams, CacheReport, build_frame_cache, merge_frame_caches

PART = "frame_cache_part"

SHARD_NEEDS = needs(1)


def frame_shards(hashes: dict[str, str], params: CacheParams, timeout_s: float, size: int) -> Shards:
    """Shards of clips; `hashes`: clip name to the hash of its file, as video_clips has published it."""
    return shards_of(hashes, [vars(params), timeout_s], size)


def decode_shard(key: str, clips: list[str], location: StoreLocation, params: CacheParams, timeout_s: float) -> None:
    """Publish the part `key` from this node, unless it is there. Raises HarError."""
    from har_assets.graph.assets.dataset import data_here
    from har_assets.graph.resources.store import ArtifactStore

    def build(store: Store, staging: Path, work: Path) -> tuple[str, dict[str, Any]]:
        root = "" if location.root == chosen_root() else location.root  # the environment's is allowed everywhere
        here = ArtifactStore(root=root, work_root=location.work_root, project=location.project, quota=location.quota)
        videos = data_here(here) / VIDEOS
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
        return f"{report.clips:,} clips of a frame cache, {report.frames:,} frames", {"clips": report.clips}

    publish_part(PART, key, build, location)


def build_on_cluster(
    shards: Shards, *, location: StoreLocation, params: CacheParams, timeout_s: float, folder: Path, log: Log
) -> tuple[CacheReport, dict[str, Artifact]]:
    """Decode all shards on the nodes of the cluster that this process is part of, and merge them into `folder`.

    Only the tables come here. Returns counts, and the part that holds each pack of the cache, for the store to copy.
    Raises HarError.
    """
    started = time.monotonic()
    make = partial(decode_shard, location=location, params=params, timeout_s=timeout_s)
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
