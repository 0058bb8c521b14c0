"""Batches of clips straight from the frame cache.

T frames of a clip, H x W its size; batches are (clips_BCTHW uint8, labels_B int64).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from har_assets.errors import DatasetError
from har_assets.model.spec import ModelSpec
from har_assets.video.frame_cache import FrameCache
from har_assets.video.sampling import Frames, centre_crop, take_window, window_starts

Draw = tuple[int, float]
"""Position of a clip in the manifest, and where in the clip the window starts: 0 first, 1 last frame possible."""


class EpochOrder(Sampler[Draw]):
    """Every clip once an epoch, in an order and with windows that depend on (seed, epoch) alone.

    A training that was killed and goes on therefore sees the same batches as one that was not.
    Lightning calls `set_epoch` before each epoch.
    """

    def __init__(self, num_clips: int, seed: int) -> None:
        self.num_clips = num_clips
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        order = torch.randperm(self.num_clips, generator=generator).tolist()
        places = torch.rand(self.num_clips, generator=generator).tolist()
        return iter(zip(order, places, strict=True))


class CachedClips(Dataset[tuple[Tensor, Tensor]]):
    """One window of T frames per clip of a manifest.

    Training (`random_windows`) starts the window anywhere in the clip and keeps the whole decoded
    frame, from which the model cuts on the device; evaluation takes the centre window and the
    centre of the frame. `still_frames` repeats the window's first frame T times: a control that
    shows how much of the accuracy needs motion.
    """

    def __init__(
        self,
        manifest: pd.DataFrame,
        cache: FrameCache,
        spec: ModelSpec,
        *,
        random_windows: bool,
        still_frames: bool = False,
    ) -> None:
        self.cache = cache
        self.spec = spec
        self.random_windows = random_windows
        self.still_frames = still_frames
        decoded = manifest[manifest["clip"].isin(list(cache.index["clip"]))]
        self.clips: list[str] = decoded["clip"].tolist()
        self.label_indices: list[int] = decoded["label_index"].tolist()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: int | Draw) -> tuple[Tensor, Tensor]:
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[int | Draw]) -> tuple[Tensor, Tensor]:
        """One batch at once: uint8 clips [B, C, T, H, W] and int64 labels [B]."""
        pairs: list[Draw] = [draw if isinstance(draw, tuple) else (draw, 0.5) for draw in draws]
        clips_BTHWC = torch.from_numpy(
            np.stack([self._window_THWC(self.clips[position], place) for position, place in pairs])
        )
        labels_B = torch.tensor([self.label_indices[position] for position, _ in pairs])
        return clips_BTHWC.permute(0, 4, 1, 2, 3), labels_B

    def _window_THWC(self, clip: str, place: float) -> Frames:
        frames_THWC = self.cache.frames(clip)
        length = self.spec.num_frames
        if self.random_windows:
            start = int(place * (max(0, len(frames_THWC) - length) + 1))
        else:
            start = window_starts(len(frames_THWC), length, 1)[0]
        window_THWC = take_window(frames_THWC, start, length)
        if self.still_frames:
            window_THWC = np.repeat(window_THWC[:1], length, axis=0)
        if not self.random_windows:
            window_THWC = centre_crop(window_THWC, (self.spec.frame_height, self.spec.frame_width))
        return window_THWC


def _as_is(batch: Any) -> Any:
    """Collate function of a data set that makes whole batches itself."""
    return batch


class ClipDataModule(pl.LightningDataModule):
    """Train, validation and test clips of one split, read from a published frame cache."""

    def __init__(
        self,
        manifests: dict[str, Path],
        frame_cache: Path,
        spec: ModelSpec,
        *,
        batch_size: int,
        seed: int = 0,
        eval_batch_size: int = 32,
        workers: int = 0,
        still_frames: bool = False,
    ) -> None:
        """`manifests` maps `train`, `val` and, where wanted, `test` to CSV files; `frame_cache` is a folder."""
        super().__init__()
        cache = FrameCache(frame_cache)
        self.batch_size = batch_size
        self.seed = seed
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.clips = {
            role: CachedClips(pd.read_csv(path), cache, spec, random_windows=role == "train", still_frames=still_frames)
            for role, path in manifests.items()
        }
        if not len(self.clips["train"]):
            raise DatasetError(
                "No training clip could be decoded: look at the quarantine table in frame_cache's metadata."
            )

    def _loader(self, role: str) -> DataLoader[tuple[Tensor, Tensor]]:
        training = role == "train"
        clips = self.clips[role]
        return DataLoader(
            clips,
            batch_size=min(self.batch_size, len(clips)) if training else self.eval_batch_size,
            sampler=EpochOrder(len(clips), self.seed) if training else None,
            # A last batch of one clip would give BatchNorm nothing to average over.
            drop_last=training,
            collate_fn=_as_is,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Shuffled batches of random windows."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]] | list[object]:
        """Centre windows of the validation clips; nothing where there are none."""
        return self._loader("val") if len(self.clips["val"]) else []

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Centre windows of the test clips."""
        return self._loader("test")
