"""Predictions on a manifest in one process, for tests and benchmarks."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_assets.runtime.evaluation import prediction_table, score_clips
from har_assets.runtime.predictor import Predictor
from har_assets.video.frame_cache import FrameCache


def predict_manifest(
    predictor: Predictor, manifest: pd.DataFrame, cache: FrameCache, windows: int, *, still_frames: bool = False
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Predictions on every clip of a manifest; `still_frames` shows each window's first frame T times.

    Returns what `prediction_table` does.
    """
    clips = [clip for clip in manifest["clip"] if clip in cache]
    scores = score_clips(predictor, clips, cache, windows, still_frames=still_frames)
    return prediction_table(dict(zip(clips, scores, strict=True)), manifest, predictor.spec.labels, predictor.runtime)
