"""frame_cache: the clips of the manifests decoded once, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from har_assets.dataset.folder import VIDEOS
from har_assets.dataset.manifests import ROLES, read_manifest_of
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.files import Log
from har_assets.video.frame_cache import CacheParams, CacheReport, build_frame_cache

if TYPE_CHECKING:
    import pandas as pd


def clips_kept_whole(tables: Mapping[str, pd.DataFrame]) -> frozenset[str]:
    """Clips of validation and test: they are scored as the deployed model scores a file, from end to end.

    `tables`: the manifests by role.
    """
    return frozenset(clip for role in ("val", "test") for clip in tables[role]["clip"])


def decode_clips(
    build: Build,
    data: Path,
    params: CacheParams,
    *,
    work: Path,
    previous: Artifact | None,
    workers: int | None,
    timeout_s: float,
    log: Log,
) -> CacheReport:
    """Decode every clip of the manifests among the inputs into the folder of the build. Raises HarError.

    Args:
        build: its inputs are the three manifests.
        data: the data folder.
        params: of the frames.
        work: kept between attempts, to be cleared when the product is published.
        previous: a frame cache whose frames are taken over where they are the same.
        workers: processes; None takes one a core.
        timeout_s: seconds for one video, which is quarantined after that.
        log: takes a line at a time.
    """
    videos = data / VIDEOS
    tables = {role: read_manifest_of(build.inputs[f"{role}_manifest"], role) for role in ROLES}
    return build_frame_cache(
        {clip: videos / clip for table in tables.values() for clip in table["clip"]},
        whole=clips_kept_whole(tables),
        params=params,
        folder=build.folder,
        work=work,
        previous=previous.folder if previous else None,
        workers=workers,
        timeout_s=timeout_s,
        log=log,
    )


def cache_product(report: CacheReport, params: CacheParams, packs: Mapping[str, Artifact] | None = None) -> Product:
    """Describe a frame cache. `packs`: name of a pack to the version of the store that holds it already."""
    quarantine = [{"clip": clip, "reason": reason} for clip, reason in report.quarantined.items()]
    headline = f"{report.clips:,} clips, {report.frames:,} frames of {params.height}x{params.width}"
    return Product(
        headline=headline + (f", {len(quarantine)} quarantined" if quarantine else ""),
        metadata={
            "clips": report.clips,
            "frames": report.frames,
            "decoded": report.decoded,
            "reused": report.reused,
            "resumed": report.resumed,
            "clips_per_second": round(report.decoded / max(report.seconds, 1e-9), 1),
            "quarantine": quarantine,
            "notes": [{"clip": clip, "note": note} for clip, note in report.notes.items()],
        },
        checks={"all_clips_decoded": {"passed": not quarantine, "warning": True, "quarantined": len(quarantine)}},
        linked=dict(packs or {}),
        clips=report.decoded,
    )
