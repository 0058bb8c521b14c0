from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from har_assets.export import gate
from har_assets.export.gate import score_windows
from har_assets.model.spec import ModelSpec
from har_assets.model.windows import spread_windows
from har_assets.runtime import open_model
from har_assets.video.frame_cache import FrameCache


def test_scores_of_all_predictors_on_the_same_windows(
    tiny_cache: Path, tiny_spec: ModelSpec, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "PROGRESS_SECONDS", 0.0)
    manifest = pd.read_csv(tiny_cache / "train.csv")
    windows = spread_windows(manifest, FrameCache(tiny_cache / "cache"), tiny_spec, 40)
    predictor = open_model(tiny_onnx, "onnxruntime_cpu")
    lines: list[str] = []
    scores, labels_B = score_windows({"a": predictor, "b": predictor}, windows, lines.append)
    np.testing.assert_array_equal(scores["a"], scores["b"])
    assert scores["a"].shape == (40, 3)
    assert labels_B.shape == (40,)
    assert lines[0].startswith("Compared on 32 of 40 windows, ")
