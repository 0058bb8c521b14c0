"""One way to ask any model file: uint8 clips_BCTHW in, scores_BK out; and the row of a runtime, which loads one.

B batch, C channels (3), T frames, H height, W width, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from har_assets.errors import ModelFileError
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.video.sampling import Clips

Scores = NDArray[np.float32]


class Predictor(ABC):
    """A loaded model. One thread at a time may call `predict`."""

    name: str
    """Name of the runtime as `open_model` takes it: `onnxruntime_cpu`."""
    runtime: str
    """The runtime that executes it, for people and tables: `ONNX Runtime 1.31 CPU`."""
    why: str = "as asked"
    """Why this runtime: one clause."""
    max_batch: int = 32
    """Clips handed to the engine at once; larger batches are split."""

    def __init__(self, spec: ModelSpec, provenance: Provenance) -> None:
        self.spec = spec
        self.provenance = provenance

    def predict(self, clips_BCTHW: Clips) -> Scores:
        """Softmax scores, float32 [B, K], of uint8 clips [B, 3, T, H, W] of any batch size, 0 included.

        Raises:
            ModelFileError: the clips have another shape or dtype than the model's spec asks for.
        """
        expected_CTHW = self.spec.clip_shape_CTHW
        if clips_BCTHW.dtype != np.uint8 or clips_BCTHW.ndim != 5 or clips_BCTHW.shape[1:] != expected_CTHW:
            raise ModelFileError(
                f"The model takes uint8 clips of shape [batch, {', '.join(map(str, expected_CTHW))}], got "
                f"{clips_BCTHW.dtype} {list(clips_BCTHW.shape)}: make them with har_assets.video.sampling."
            )
        chunks = [
            self._scores(np.ascontiguousarray(clips_BCTHW[start : start + self.max_batch]))
            for start in range(0, len(clips_BCTHW), self.max_batch)
        ]
        return np.concatenate(chunks) if chunks else np.zeros((0, self.spec.num_classes), np.float32)

    @abstractmethod
    def _scores(self, clips_BCTHW: Clips) -> Scores:
        """Scores of one batch of at most `max_batch` clips, shapes already checked."""


def always(path: Path) -> bool:
    """True."""
    return True


@dataclass(frozen=True)
class Runtime:
    """One way to run one kind of model file: a row of the table in choice.py, exported by the module that knows it.

    Its functions import what they need, so that the table costs nothing.
    """

    name: str
    """Name that `open_model` takes."""
    suffix: str
    """Suffix of the files that it runs, one of `model.files.KINDS`."""
    why_not: Callable[[Path], str]
    """Why it cannot run a file here, a clause with the remedy; empty where it can. Does not load the file."""
    load: Callable[[Path, int], Predictor]
    """The loaded model of a path, with so many CPU threads (0: every core); ModelFileError as of `open_model`."""
    exact: bool = False
    """Whether it computes in float32. The scores of others are compared with those of the plainest such runtime."""
    made_for: Callable[[Path], bool] = always
    """Whether a file is meant for it, in kinds of which each file is built for one runtime."""
