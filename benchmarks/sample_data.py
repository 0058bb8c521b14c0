"""The built-in sample as manifests and a frame cache, made without Dagster, for the benchmarks that train."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from har_assets.dataset.archive import extract_split_lists, extract_videos
from har_assets.dataset.manifests import read_manifest, write_manifest
from har_assets.dataset.sample import write_sample
from har_assets.dataset.splits import build_manifests
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.runtime import Predictor, open_model
from har_assets.runtime.evaluation import evaluate, prediction_table
from har_assets.runtime.video import video_clips
from har_assets.training.fit import fit
from har_assets.training.request import TrainingRequest
from har_assets.video.frame_cache import CacheParams, FrameCache, build_frame_cache


@dataclass(frozen=True)
class SampleData:
    """Where the parts lie."""

    folder: Path
    classes: tuple[str, ...]

    @property
    def manifests(self) -> dict[str, str]:
        """Role -> CSV file."""
        return {role: str(self.folder / f"{role}.csv") for role in ("train", "val", "test")}

    def cache(self, params: CacheParams) -> Path:
        """Frame cache with those parameters, made where it is missing."""
        folder = self.folder / f"cache-{params.height}x{params.width}-{params.stride}"
        if not (folder / "index.csv").is_file():
            videos = self.folder / "videos"
            clips = {path.relative_to(videos).as_posix(): path for path in sorted(videos.rglob("*.avi"))}
            build_frame_cache(clips, params=params, folder=folder, work=folder.with_suffix(".work"), log=print)
        return folder


def sample_data(folder: Path) -> SampleData:
    """Render, unpack and split the sample in a folder, or take what is there."""
    if not (folder / "test.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        files = write_sample(folder / "archive")
        extract_videos(files.archive, folder / "videos")
        extract_split_lists(files.split_lists, folder / "splits")
        classes = tuple(sorted(path.name for path in (folder / "videos").iterdir()))
        manifests = build_manifests(folder / "videos", folder / "splits", split=1, class_names=classes)
        (folder / "classes.json").write_text(json.dumps(classes))
        for role, table in manifests.items():
            write_manifest(table, folder / f"{role}.csv")
    return SampleData(folder, tuple(json.loads((folder / "classes.json").read_text())))


def predicted(
    predictor: Predictor, manifest: pd.DataFrame, cache: FrameCache, windows: int, *, still_frames: bool
) -> pd.DataFrame:
    """The table of predictions on every clip of a manifest; `still_frames` shows each window's first frame T times."""
    scores_of_clip = {}
    for clip in manifest["clip"]:
        if clip in cache:
            clips_BCTHW = video_clips(cache.frames(clip), predictor.spec, windows)
            if still_frames:
                clips_BCTHW = np.repeat(clips_BCTHW[:, :, :1], predictor.spec.num_frames, axis=2)
            scores_of_clip[clip] = predictor.predict(clips_BCTHW).mean(axis=0)
    table, _ = prediction_table(scores_of_clip, manifest, predictor.spec.labels, predictor.runtime)
    return table


def train_and_test(
    data: SampleData, work: Path, params: CacheParams, spec: dict[str, Any], request: dict[str, Any], windows: int = 4
) -> tuple[float, dict[str, Any]]:
    """Train once and return the test top-1 by video, and the summary of the training."""
    cache = data.cache(params)
    decoded: dict[str, Any] = {
        "frame_stride": params.stride,
        "decode_height": params.height,
        "decode_width": params.width,
    }
    made = TrainingRequest(
        work=str(work),
        spec=ModelSpec(labels=data.classes, **decoded, **spec).to_json(),
        provenance=Provenance(dataset="sample", synthetic=True).to_json(),
        manifests=data.manifests,
        frame_cache=str(cache),
        **request,
    )
    summary = fit(made, lambda line: None)
    predictor = open_model(work / "model.ckpt")
    table = predicted(
        predictor,
        read_manifest(Path(data.manifests["test"])),
        FrameCache(cache),
        windows,
        still_frames=bool(request.get("still_frames")),
    )
    figures, _ = evaluate(table, predictor.spec.labels)
    return figures["top1"], summary
