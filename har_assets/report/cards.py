"""Cards of single videos: what a model said, frames that it saw, and what spoke for its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from har_assets.errors import VideoError
from har_assets.report.frames import (
    Shown,
    moving_webp,
    shown_from_cache,
    shown_from_video,
    still_webp,
    strip,
    strip_numbers,
    with_heat,
)
from har_assets.system.files import sha256_of
from har_assets.video.frame_cache import FrameCache
from har_assets.video.sampling import Frames, clip_windows, window_starts

if TYPE_CHECKING:
    from har_assets.model.lightning import VideoActionModel


@dataclass(frozen=True)
class Card:
    """One video: what it shows, what the model said, and pictures of it."""

    clip: str
    true: str
    answer: str
    score: float
    """Score of the answer, 0..1, mean over the windows."""
    true_score: float
    true_rank: int
    """Place of the true class among the K, 1 is the answer."""
    strips: list[bytes]
    """WebP files: some frames of a window, and below each the same with what spoke for the answer."""
    moving: bytes
    """WebP file: all frames, with that."""
    size: tuple[int, int]
    """Width and height of that, pixels."""
    picture_HWC: Frames
    """All of `strips` in one, as pixels."""
    note: str = ""
    """A remark on the pictures; empty most of the time."""

    @property
    def caption(self) -> str:
        """`run, taken for walk with a score of 0.93`."""
        taken = f", taken for {self.answer}" if self.answer != self.true else ""
        return f"{self.true}{taken} with a score of {self.score:.2f}"


def choose_clips(
    predictions: pd.DataFrame, labels: Sequence[str], wrong: int, right: int
) -> tuple[list[int], list[int]]:
    """Rows of the most confident mistakes, and of right answers, the most confident of each of some classes.

    Videos that could not be decoded are no candidates. Equal scores go by row.
    """
    decoded = predictions[predictions["label_1"].isin(labels)]
    ranking = decoded.assign(score=decoded["score_1"].astype(float)).sort_values(
        "score", ascending=False, kind="stable"
    )
    correct = ranking["correct"].astype(bool)
    mistakes = ranking[~correct].index[:wrong]
    best_of_class = ranking[correct].drop_duplicates("label").index[:right]
    return [int(row) for row in mistakes], [int(row) for row in best_of_class]


def make_card(
    row: Any,
    scores_K: NDArray[np.float32],
    model: VideoActionModel,
    cache: FrameCache,
    videos: Path,
    *,
    windows: int,
    saliency: bool,
) -> Card:
    """The card of one prediction.

    The file is decoded again, at a size for people, where it is still the one that was scored; else the frames of
    the cache are shown, and a note says why.

    Args:
        row: of the table that test_predictions publishes, a decoded video.
        scores_K: its mean scores.
        model: the checkpoint, in evaluation mode.
        cache: holds the clip.
        videos: folder that the clip's name is relative to.
        windows: that were scored.
        saliency: show the window that speaks most for the answer, and what does; else the first window.
    """
    clip, true, answer = str(row["clip"]), str(row["label"]), str(row["label_1"])
    spec = model.spec
    frames_THWC = cache.frames(clip)
    number, heat_THW, notes = 0, None, []
    if saliency:
        from har_assets.model.saliency import class_saliency

        clips_BCTHW = clip_windows(
            frames_THWC, window=spec.num_frames, count=windows, crop=(spec.frame_height, spec.frame_width)
        )
        found = class_saliency(model, clips_BCTHW, spec.labels.index(answer))
        number, heat_THW = found.clip, found.heat_THW
        if not heat_THW.any():
            notes.append("Nothing in the last convolutions spoke for the answer.")
    start = window_starts(len(frames_THWC), spec.num_frames, windows)[number]
    shown, note = _shown(clip, start, model, cache, videos)
    layers = [shown.frames_THWC] if heat_THW is None else [shown.frames_THWC, with_heat(shown, heat_THW)]
    true_score = float(scores_K[spec.labels.index(true)])
    return Card(
        clip=clip,
        true=true,
        answer=answer,
        score=float(row["score_1"]),
        true_score=true_score,
        true_rank=1 + int((scores_K > true_score).sum()),
        strips=[still_webp(strip(*(layer[part] for layer in layers))) for part in strip_halves(spec.num_frames)],
        moving=moving_webp(layers[-1], shown.frame_ms),
        size=(shown.frames_THWC.shape[2], shown.frames_THWC.shape[1]),
        picture_HWC=strip(*(layer[strip_numbers(spec.num_frames)] for layer in layers)),
        note=" ".join([*notes, *([note] if note else [])]),
    )


def strip_halves(num_frames: int) -> list[list[int]]:
    """The frames of the strips of a card: two strips stand side by side on a wide page, below each other on a phone."""
    numbers = strip_numbers(num_frames)
    half = (len(numbers) + 1) // 2
    return [part for part in (numbers[:half], numbers[half:]) if part]


def _shown(clip: str, start: int, model: VideoActionModel, cache: FrameCache, videos: Path) -> tuple[Shown, str]:
    """Frames for people, and what is to be known of them."""
    path = videos / clip
    facts = cache.index.iloc[cache.row(clip)]
    note = "The video is gone, or another than the one that was scored: these are the frames that were kept of it."
    if path.is_file() and sha256_of(path) == facts["sha256"]:
        try:
            return shown_from_video(path, model.spec, start), ""
        except VideoError as error:
            note = f"The video cannot be decoded again ({error}): these are the frames that were kept of it."
    return shown_from_cache(cache.frames(clip), model.spec, start), note
