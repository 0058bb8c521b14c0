"""Lightning checkpoints in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from har_assets.runtime.predictor import Clips, Predictor, Scores


class CheckpointPredictor(Predictor):
    """A checkpoint in eager PyTorch, float32, on the GPU where there is one."""

    def __init__(self, path: Path, *, device: str | None = None) -> None:
        """`device` is a torch device; None takes `cuda` where there is one, else `cpu`."""
        import torch  # noqa: PLC0415

        from har_assets.model.lightning import load_checkpoint  # noqa: PLC0415

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_checkpoint(path, device=self.device)
        self.runtime = f"PyTorch {torch.__version__.split('+')[0]} {self.device.upper()}"
        super().__init__(self.model.spec, self.model.provenance)

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            logits_BK = self.model(torch.from_numpy(clips_BCTHW).to(self.device))
            scores_BK: Scores = logits_BK.float().softmax(dim=1).cpu().numpy().astype(np.float32, copy=False)
        return scores_BK
