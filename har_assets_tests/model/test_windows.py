from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from har_assets.errors import DatasetError, HarError
from har_assets.export.gate import score_windows
from har_assets.model import windows as module
from har_assets.model.spec import ModelSpec
from har_assets.model.windows import spread_windows, windows_of
from har_assets.runtime.video import video_clips
from har_assets.video.frame_cache import FrameCache
from har_assets_tests.builds import data_of


@pytest.fixture
def cache(tiny_cache: Path) -> FrameCache:
    return FrameCache(tiny_cache / "cache")


@pytest.fixture
def manifest(tiny_cache: Path) -> pd.DataFrame:
    return pd.read_csv(tiny_cache / "train.csv")


def test_all_windows_of_all_clips(manifest: pd.DataFrame, cache: FrameCache, tiny_spec: ModelSpec) -> None:
    windows = spread_windows(manifest, cache, tiny_spec, 0)
    assert len(windows) == len(manifest) * 5  # clips of 8 frames, windows of 4
    assert len(set(windows.places)) == len(windows)
    (clips_BCTHW, labels_B), *_ = windows.batches()
    np.testing.assert_array_equal(clips_BCTHW[:5], video_clips(cache.frames(manifest["clip"][0]), tiny_spec, 5))
    assert clips_BCTHW.dtype == np.uint8
    assert labels_B[:5].tolist() == [manifest["label_index"][0]] * 5


@pytest.mark.parametrize("count", [1, 2, 7, 18, 50])
def test_fewer_windows_are_spread_over_all_clips(
    manifest: pd.DataFrame, cache: FrameCache, tiny_spec: ModelSpec, count: int
) -> None:
    windows = spread_windows(manifest, cache, tiny_spec, count)
    assert len(set(windows.places)) == len(windows) == count
    assert len({clip for clip, _, _ in windows.places}) == min(count, len(manifest))


def test_batches_hold_no_more_than_their_bytes(
    manifest: pd.DataFrame, cache: FrameCache, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = spread_windows(manifest, cache, tiny_spec, 20)
    monkeypatch.setattr(module, "BATCH_BYTES", 7 * int(np.prod(tiny_spec.clip_shape_CTHW)))
    assert [len(clips_BCTHW) for clips_BCTHW, _ in windows.batches()] == [7, 7, 6]
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    assert {len(clips_BCTHW) for clips_BCTHW, _ in windows.batches()} == {1}


def test_undecoded_clips_are_left_out_and_none_at_all_is_a_sentence(
    manifest: pd.DataFrame, cache: FrameCache, tiny_spec: ModelSpec
) -> None:
    absent = manifest.assign(clip="absent/" + manifest["clip"])
    assert len(spread_windows(absent, cache, tiny_spec, 0)) == 0
    with pytest.raises(HarError, match="no decoded test video"):
        score_windows({}, spread_windows(absent, cache, tiny_spec, 0))


def test_a_cache_of_other_frames_is_refused(manifest: pd.DataFrame, cache: FrameCache, tiny_spec: ModelSpec) -> None:
    fields = {**vars(tiny_spec), "frame_stride": 2}
    with pytest.raises(DatasetError, match=r"20x24 every 0.033 s \(cover\), the model takes 20x24 every 0.067 s"):
        spread_windows(manifest, cache, ModelSpec(**fields), 0)


def test_windows_are_of_the_first_role_that_has_decoded_videos(
    tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec
) -> None:
    inputs = {artifact.record.asset: artifact for artifact in data_of(tmp_path, tiny_cache)}
    windows, role = windows_of(("test", "val", "train"), inputs, tiny_spec, 6)
    assert (len(windows), role) == (6, "test")
    for emptied in ("test", "val"):
        manifest = inputs[f"{emptied}_manifest"].file(f"{emptied}.csv")
        manifest.write_text(manifest.read_text().splitlines()[0] + "\n")
    windows, role = windows_of(("test", "val", "train"), inputs, tiny_spec, 0)
    assert role == "train"
    with pytest.raises(HarError, match="No video of test or val could be decoded: look at the quarantine table"):
        windows_of(("test", "val"), inputs, tiny_spec, 6)
