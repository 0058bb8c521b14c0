"""Lightning checkpoints in PyTorch: eager in float32 anywhere, compiled in float16 on a GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from har_assets.runtime.predictor import Predictor, Runtime, Scores
from har_assets.system.gpu import gpu_compute_capability
from har_assets.video.sampling import Clips


class CheckpointPredictor(Predictor):
    """A checkpoint in eager PyTorch, float32, on the GPU where there is one: the reference of all others."""

    name = "pytorch"

    def __init__(self, path: Path, *, device: str | None = None) -> None:
        """`device` is a torch device; None takes `cuda` where there is one, else `cpu`."""
        import torch

        from har_assets.model.lightning import load_checkpoint

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_checkpoint(path, device=self.device)
        self.runtime = f"PyTorch {torch.__version__.split('+')[0]} {self.device.upper()}"
        super().__init__(self.model.spec, self.model.provenance)

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        import torch

        with torch.inference_mode():
            logits_BK = self.model(torch.from_numpy(clips_BCTHW).to(self.device))
            scores_BK: Scores = logits_BK.float().softmax(dim=1).cpu().numpy().astype(np.float32, copy=False)
        return scores_BK


class CompiledPredictor(Predictor):
    """A checkpoint in float16, channels last, by `torch.compile`: the fast way on a GPU without TensorRT.

    A kernel is made for each of a few batch sizes and smaller batches are padded up to one of them. Where no
    compiler works it runs the same without being compiled, and `why` says so.
    """

    name = "pytorch_compiled"
    max_batch = 64
    batch_sizes = (1, 8, 64)
    """Batch sizes that kernels are made for, each at its first use (some 10 s)."""

    def __init__(self, path: Path, *, device: str = "cuda", compiled: bool = True) -> None:
        """`device` is a torch device; `cpu` is for tests: it is no faster than eager float32 there.

        `compiled` False leaves `torch.compile` out, to see what it gains.
        """
        import torch

        from har_assets.model.lightning import load_checkpoint
        from har_assets.model.networks import order_weights

        self.device = device
        loaded = load_checkpoint(path, device=device)
        normalise, network = loaded.normalise.half(), loaded.network.half()
        order_weights(network)

        def forward(clips_BCTHW: torch.Tensor) -> torch.Tensor:
            clips_BCTHW = normalise(clips_BCTHW).contiguous(memory_format=torch.channels_last_3d)
            scores_BK: torch.Tensor = network(clips_BCTHW).float().softmax(dim=1)
            return scores_BK

        # One graph a batch size, not one for all sizes: convolutions are chosen by their shape.
        self.forward: Any = torch.compile(forward, dynamic=False)
        version = torch.__version__.split("+")[0]
        self.runtime = f"PyTorch {version} {device.upper()} fp16 compiled"
        super().__init__(loaded.spec, loaded.provenance)
        reason = no_compiler() if compiled else "asked"
        try:
            if not reason:
                self._scores(np.zeros((1, *self.spec.clip_shape_CTHW), np.uint8))
        except _compile_errors() as error:
            reason = f"torch.compile failed: {str(error).strip().splitlines()[0][:160]}"
        if reason:
            self.forward = forward
            self.runtime = f"PyTorch {version} {device.upper()} fp16"
            self.why = f"not compiled, as {reason}"

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        import torch

        size = next(size for size in self.batch_sizes if size >= len(clips_BCTHW))
        clips = torch.from_numpy(clips_BCTHW)
        if size > len(clips):
            clips = torch.cat([clips, clips.new_zeros((size - len(clips), *clips.shape[1:]))])
        with torch.inference_mode():
            scores_BK: Scores = self.forward(clips.to(self.device)).cpu().numpy()
        return scores_BK[: len(clips_BCTHW)]


def no_compiler() -> str:
    """Why `torch.compile` cannot work here, a clause; empty where nothing is known against it."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "there is no C compiler: install gcc or name one in CC"
    return ""


def _compile_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError

    return TorchDynamoException, CppCompileError


def why_not_compiled() -> str:
    """Why a checkpoint cannot run compiled here, a clause with the remedy; empty where it can."""
    # The driver is asked first: importing torch takes seconds.
    if gpu_compute_capability() is None:
        return "there is no CUDA GPU on this machine: choose the runtime pytorch"
    import torch

    return "" if torch.cuda.is_available() else "the installed PyTorch has no CUDA: install a CUDA build of it"


def _load_eager(path: Path, threads: int) -> Predictor:
    if threads:
        import torch

        torch.set_num_threads(threads)
    return CheckpointPredictor(path)


COMPILED = Runtime(
    CompiledPredictor.name,
    ".ckpt",
    why_not=lambda path: why_not_compiled(),
    load=lambda path, threads: CompiledPredictor(path),
)
EAGER = Runtime(CheckpointPredictor.name, ".ckpt", why_not=lambda path: "", load=_load_eager, exact=True)
