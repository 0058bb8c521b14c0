"""test_predictions in shards: each part holds the scores of its videos."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from har_assets.cluster.needs import needs
from har_assets.cluster.sharding import Shards, make_parts, parts, publish_part, shards_of
from har_assets.errors import HarError
from har_assets.runtime import Predictor
from har_assets.runtime.evaluation import score_clips
from har_assets.store.opening import StoreLocation
from har_assets.store.protocol import Store
from har_assets.store.record import Artifact
from har_assets.system.files import Log
from har_assets.video.frame_cache import TABLES, FrameCache

PART = "test_predictions_part"

SHARD_NEEDS = needs(1, gpus=1)

SCORES = "scores.npy"

OpenModel = Callable[[Artifact, Store, int], Predictor]
"""Opens what was published, for so many CPU threads; travels by pickle."""


def prediction_shards(clips: list[str], frames: Artifact, onnx: Artifact, recipe: Any, size: int) -> Shards:
    """Shards of the videos that the frame cache holds; none where it holds none of them."""
    cache = FrameCache(frames.folder_with(TABLES))
    hash_of_clip = dict(zip(cache.index["clip"], cache.index["sha256"], strict=True))
    hashes = {clip: hash_of_clip[clip] for clip in clips if clip in cache}
    return shards_of(hashes, [recipe, vars(cache.params), onnx.record.data_version], size)


def score_shard(
    key: str,
    clips: list[str],
    location: StoreLocation,
    open_model: OpenModel,
    versions: dict[str, str],
    windows: int,
) -> None:
    """Publish the part `key` from this node, unless it is there.

    `versions`: data version of onnx_model and frame_cache that the step was started with. Raises HarError.
    """

    def build(store: Store, staging: Path, work: Path) -> tuple[str, dict[str, Any]]:
        inputs = {asset: store.latest(asset) for asset in versions}
        for asset, version in versions.items():
            if inputs[asset].record.data_version != version:
                raise HarError(f"{asset} was made again while test videos were scored: run the same command again.")
        predictor = open_model(inputs["onnx_model"], store, 1)
        frames = inputs["frame_cache"]
        tables = FrameCache(frames.folder_with(TABLES))
        cache = FrameCache(frames.folder_with(tables.packs_of(clips)))
        np.save(staging / SCORES, score_clips(predictor, clips, cache, windows))
        return f"Scores of {len(clips):,} videos", {"runtime": predictor.runtime}

    publish_part(PART, key, build, location)


def score_on_cluster(
    shards: Shards,
    *,
    location: StoreLocation,
    inputs: dict[str, Artifact],
    open_model: OpenModel,
    windows: int,
    log: Log,
) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Score all shards on the nodes of the cluster that this process is part of.

    Returns clip to mean scores, float32 [K], and the runtimes that gave them, joined by commas. Raises HarError.
    """
    versions = {asset: inputs[asset].record.data_version for asset in ("onnx_model", "frame_cache")}
    make = partial(score_shard, location=location, open_model=open_model, versions=versions, windows=windows)
    store = location.open()
    make_parts(PART, shards, make, store=store, wanted=SHARD_NEEDS, log=log)
    found = parts(PART, shards, store)
    scores = {
        clip: scores_K
        for part, clips in zip(found, shards.values(), strict=True)
        for clip, scores_K in zip(clips, np.load(part.file(SCORES)), strict=True)
    }
    return scores, ", ".join(sorted({str(part.record.metadata["runtime"]) for part in found}))
