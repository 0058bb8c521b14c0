"""From a video file to labelled scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from har_assets.model.spec import ModelSpec
from har_assets.runtime.predictor import Clips, Predictor, Scores
from har_assets.video.decode import decode_video
from har_assets.video.sampling import Frames, clip_windows


@dataclass(frozen=True)
class VideoPrediction:
    """Scores of one video, the mean over its windows, highest first."""

    video: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    windows: int
    frames: int
    note: str = ""


def video_clips(frames_THWC: Frames, spec: ModelSpec, windows: int) -> Clips:
    """Windows of decoded (already strided) frames as uint8 clips [windows, 3, T, H, W]."""
    return clip_windows(frames_THWC, window=spec.num_frames, count=windows, crop=(spec.frame_height, spec.frame_width))


def predict_video(predictor: Predictor, path: Path, *, windows: int = 4, top: int = 5) -> VideoPrediction:
    """The `top` most likely classes of a video file.

    `windows` clips, spread evenly over the video, are scored and averaged. Raises VideoError with the
    reason for a file that yields no frames.
    """
    spec = predictor.spec
    video = decode_video(path, size=(spec.decode_height, spec.decode_width), stride=spec.frame_stride)
    scores_K = predictor.predict(video_clips(video.frames_THWC, spec, windows)).mean(axis=0)
    labels, scores = ranked(scores_K, spec.labels, top)
    return VideoPrediction(str(path), labels, scores, windows, video.num_source_frames, video.note)


def ranked(scores_K: Scores, labels: tuple[str, ...], top: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The `top` labels and scores, highest first; equal scores in index order."""
    order = np.argsort(-scores_K, kind="stable")[:top]
    return tuple(labels[index] for index in order), tuple(float(scores_K[index]) for index in order)
