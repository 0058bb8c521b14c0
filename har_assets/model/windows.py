"""Windows of cached videos: what conversions are compared and calibrated on, a batch at a time.

B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_assets.dataset.manifests import read_manifest
from har_assets.errors import DatasetError, HarError
from har_assets.model.spec import ModelSpec
from har_assets.store.record import Artifact
from har_assets.video.frame_cache import FrameCache
from har_assets.video.sampling import Clips, centre_crop, take_window, to_clip_CTHW

BATCH_BYTES = 16 << 20
"""Bytes of uint8 clips held at once; activations are some fifty times as many."""

MAX_BATCH = 32


@dataclass(frozen=True)
class Windows:
    """Places in the videos of a frame cache. Nothing is read before `batches`."""

    cache: FrameCache
    spec: ModelSpec
    places: tuple[tuple[str, int, int], ...]
    """Clip name, first frame (after the stride), class index."""

    def __len__(self) -> int:
        return len(self.places)

    def batches(self) -> Iterator[tuple[Clips, NDArray[np.int64]]]:
        """Yield uint8 clips [B, 3, T, H, W] and int64 class indices [B], 16 MiB of clips and 32 at most."""
        size = max(1, min(MAX_BATCH, BATCH_BYTES // int(np.prod(self.spec.clip_shape_CTHW))))
        for first in range(0, len(self.places), size):
            places = self.places[first : first + size]
            clips_BCTHW = np.stack([self._clip_CTHW(clip, start) for clip, start, _ in places])
            yield clips_BCTHW, np.array([label for _, _, label in places], np.int64)

    def _clip_CTHW(self, clip: str, start: int) -> NDArray[np.uint8]:
        window_THWC = take_window(self.cache.frames(clip), start, self.spec.num_frames)
        return to_clip_CTHW(centre_crop(window_THWC, (self.spec.frame_height, self.spec.frame_width)))


def spread_windows(manifest: pd.DataFrame, cache: FrameCache, spec: ModelSpec, count: int) -> Windows:
    """`count` windows, evenly spread over all windows of all decoded clips of a manifest; 0 takes every one.

    There are as many windows a clip as it has first frames; a clip shorter than the window has one, padded.

    Raises:
        DatasetError: the cache holds other frames than the model takes.
    """
    params = cache.params
    if (params.height, params.width, params.sampling, params.resize) != (
        *(spec.decode_height, spec.decode_width),
        *(spec.sampling, spec.resize),
    ):
        raise DatasetError(
            f"frame_cache holds frames of {params.height}x{params.width} every {params.sampling.step_s:.3f} s "
            f"({params.resize}), the model takes {spec.decode_height}x{spec.decode_width} every "
            f"{spec.sampling.step_s:.3f} s ({spec.resize}): materialize trained_checkpoint."
        )
    index_of_label = {label: index for index, label in enumerate(spec.labels)}
    places = [
        (clip, start, index_of_label[label])
        for clip, label in zip(manifest["clip"], manifest["label"], strict=True)
        if clip in cache
        for start in range(max(0, len(cache.frames(clip)) - spec.num_frames) + 1)
    ]
    if count and count < len(places):
        # Middles of `count` equal parts: one window is the middle one.
        places = [places[int((number + 0.5) * len(places) / count)] for number in range(count)]
    return Windows(cache, spec, tuple(places))


def windows_of(
    roles: tuple[str, ...], inputs: Mapping[str, Artifact], spec: ModelSpec, count: int
) -> tuple[Windows, str]:
    """`count` windows of the videos of the first role that has decoded ones, and that role (`train`, `val`, `test`).

    `inputs`: frame_cache and the manifests of the roles, by asset. 0 takes every window. Raises HarError where no
    role has a decoded video.
    """
    cache = FrameCache(inputs["frame_cache"].folder)
    for role in roles:
        manifest = read_manifest(inputs[f"{role}_manifest"].file(f"{role}.csv"))
        windows = spread_windows(manifest, cache, spec, count)
        if len(windows):
            return windows, role
    raise HarError(
        f"No video of {' or '.join(roles)} could be decoded: look at the quarantine table in frame_cache's metadata."
    )
