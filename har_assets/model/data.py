"""Batches of clips straight from the frame cache, copied by threads while the device works on the one before.

B batch, C channels (3), T frames, H height, W width, D draws (see `augment.Draw`), N windows of a clip.

No process is started and nothing is pickled: a batch is one copy out of the memory map, by threads (NumPy
lets others run while it copies), for a GPU into pinned memory from where it travels on a stream of its own.
"""

from __future__ import annotations

import hashlib
import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from har_assets.errors import DatasetError
from har_assets.model.augment import Draw
from har_assets.model.spec import ModelSpec
from har_assets.video.frame_cache import FrameCache
from har_assets.video.sampling import Frames, centre_crop, take_window, window_starts
from har_assets.video.workers import available_cores

Batch = tuple[Tensor, Tensor, Tensor]
"""clips_BCTHW uint8, labels_B int64, draws_BD float32. Evaluation has N windows a clip, [B * N, C, T, H, W], those
of a clip side by side, and no columns of draws."""

FIRST_DRAWS = 9
"""Columns of draws that come from the generator of the epoch, together; later ones each from one of their own."""

PADDING = -1
"""Label of a clip that only fills an evaluation batch: not counted."""


@dataclass(frozen=True)
class Picks:
    """Which clips a batch holds, and the random numbers of each."""

    positions_B: NDArray[np.int64]
    """Positions in the manifest; `PADDING` fills up."""
    draws_BD: NDArray[np.float32]
    """Numbers from 0 to 1 for each clip; no columns in evaluation."""


class TrainingOrder:
    """Batches of one epoch: every clip once, in an order and with draws that depend on (seed, epoch) alone.

    A training that was killed and goes on therefore sees the same batches as one that was not, and W processes
    with batches of B together the same as one process with batches of W * B. A last batch that is not full is
    left out (one clip alone would give BatchNorm nothing to average over). Lightning calls `set_epoch`.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        seed: int,
        *,
        balanced: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`balanced` draws as many clips as there are with repetition, each class as often as any other."""
        self.labels = np.asarray(labels)
        if len(labels) < world_size:
            raise DatasetError(
                f"{len(labels)} training clips cannot be shared by {world_size} processes: choose fewer devices."
            )
        self.batch_size = min(batch_size, len(labels) // world_size)
        self.seed = seed
        self.balanced = balanced
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[Picks]:
        count = len(self.labels)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        if self.balanced:
            share_N = 1.0 / torch.from_numpy(np.bincount(self.labels)[self.labels])
            order_N = torch.multinomial(share_N, count, replacement=True, generator=generator).numpy()
        else:
            order_N = torch.randperm(count, generator=generator).numpy()
        first_ND = torch.rand((count, FIRST_DRAWS), generator=generator)
        later = [self._drawn_by_name(draw.name, count) for draw in list(Draw)[FIRST_DRAWS:]]
        draws_ND = torch.column_stack([first_ND, *later]).numpy()
        whole = self.batch_size * self.world_size
        for start in range(0, len(self) * whole, whole):
            mine = slice(start + self.rank, start + whole, self.world_size)
            yield Picks(order_N[mine], draws_ND[mine])

    def _drawn_by_name(self, name: str, count: int) -> Tensor:
        """Float32 [N] that depend on (seed, epoch, name) alone."""
        digest = hashlib.sha256(f"{self.seed} {self.epoch} {name}".encode()).digest()
        return torch.rand(count, generator=torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1))


class EvaluationOrder:
    """Batches of every clip once, all of one size, filled up with `PADDING` (a size for torch.compile, a count
    of batches for all processes).
    """

    def __init__(self, num_clips: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.num_clips = num_clips
        self.batch_size = max(1, min(batch_size, math.ceil(num_clips / world_size)))
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return math.ceil(self.num_clips / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Picks]:
        whole = self.batch_size * self.world_size
        positions_N = np.full(len(self) * whole, PADDING, np.int64)
        positions_N[: self.num_clips] = np.arange(self.num_clips)
        nothing_BD = np.zeros((self.batch_size, 0), np.float32)
        for start in range(0, len(positions_N), whole):
            yield Picks(positions_N[start + self.rank : start + whole : self.world_size], nothing_BD)


class CachedClips:
    """Windows of T frames of the clips of a manifest that could be decoded.

    Training (`windows=None`) starts the window anywhere in the clip, takes every s-th cached frame with s up to
    `max_stride`, and keeps the whole decoded frame, from which the model cuts on the device; evaluation takes
    `windows` evenly spaced windows and the centre of the frame. `still_frames` repeats the window's first frame
    T times: a control that shows how much of the accuracy needs motion.
    """

    def __init__(
        self,
        manifest: pd.DataFrame,
        cache: FrameCache,
        spec: ModelSpec,
        *,
        windows: int | None,
        max_stride: int = 1,
        still_frames: bool = False,
    ) -> None:
        self.cache = cache
        self.spec = spec
        self.windows = windows
        self.max_stride = max_stride
        self.still_frames = still_frames
        decoded = manifest[manifest["clip"].isin(list(cache.index["clip"]))]
        self.clips: list[str] = decoded["clip"].tolist()
        self.labels: list[int] = decoded["label_index"].tolist()
        self._rows = [cache.row(clip) for clip in self.clips]

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def window_shape_THWC(self) -> tuple[int, int, int, int]:
        """Shape of one window as it leaves here."""
        spec = self.spec
        height, width = (
            (spec.decode_height, spec.decode_width) if self.windows is None else (spec.frame_height, spec.frame_width)
        )
        return (spec.num_frames, height, width, 3)

    def batch(self, picks: Picks) -> Batch:
        """One batch, made here and now."""
        clips_BTHWC = torch.empty(self.batch_shape(picks), dtype=torch.uint8)
        for index in range(len(picks.positions_B)):
            self.write(picks, index, clips_BTHWC.numpy())
        return clips_BTHWC.permute(0, 4, 1, 2, 3), self.labels_of(picks), torch.from_numpy(picks.draws_BD)

    def batch_shape(self, picks: Picks) -> tuple[int, ...]:
        """Shape of the windows of a batch: [B * N, T, H, W, C]."""
        return (len(picks.positions_B) * (self.windows or 1), *self.window_shape_THWC)

    def labels_of(self, picks: Picks) -> Tensor:
        """int64 [B], `PADDING` where a clip only fills up."""
        return torch.tensor([self.labels[p] if p != PADDING else PADDING for p in picks.positions_B.tolist()])

    def write(self, picks: Picks, index: int, clips_BTHWC: Frames) -> None:
        """Copy the windows of one clip of a batch to their place in it."""
        position = int(picks.positions_B[index])
        windows = self.windows or 1
        if position == PADDING:
            clips_BTHWC[index * windows : (index + 1) * windows] = 0
            return
        frames_THWC = self.cache.frames_of_row(self._rows[position])
        length = self.spec.num_frames
        if self.windows is None:
            frames_THWC = frames_THWC[: self.cache.params.max_frames]  # a cache may hold more: it was kept for a test
            start, stride = self._random_window(len(frames_THWC), picks.draws_BD[index])
            starts = [start]
        else:
            starts, stride = window_starts(len(frames_THWC), length, windows), 1
            frames_THWC = centre_crop(frames_THWC, (self.spec.frame_height, self.spec.frame_width))
        for number, start in enumerate(starts):
            window_THWC = take_window(frames_THWC, start, length, stride)
            clips_BTHWC[index * windows + number] = window_THWC[:1] if self.still_frames else window_THWC

    def _random_window(self, num_frames: int, draws_D: NDArray[np.float32]) -> tuple[int, int]:
        """First frame and stride; the stride is one that the clip is long enough for, 1 where it is short."""
        length = self.spec.num_frames
        longest = max(1, min(self.max_stride, (num_frames - 1) // max(1, length - 1)))
        stride = 1 + int(draws_D[Draw.STRIDE] * longest)
        span = (length - 1) * stride + 1
        return int(draws_D[Draw.OFFSET] * (max(0, num_frames - span) + 1)), stride


class ClipLoader:
    """The batches of an order, each copied by `threads` while the ones before are being worked on.

    For a GPU a batch is copied into pinned memory and from there on a stream of its own; `ahead` batches are
    under way or wait at any time. What iterates gets tensors on `device`. `seconds_waited` is the time that
    it has waited for batches, of the iteration under way or the last one.
    """

    batch_sampler = None
    """Lightning asks a loader that has a `sampler` for this one too."""

    def __init__(
        self,
        clips: CachedClips,
        order: TrainingOrder | EvaluationOrder,
        device: torch.device,
        threads: int,
        ahead: int = 2,
    ) -> None:
        self.clips = clips
        self.sampler = order
        """Under this name Lightning looks for `set_epoch`."""
        self.device = device
        self.threads = threads
        self.ahead = ahead
        self.seconds_waited = 0.0
        self._pinned: list[_Pinned] = []
        self._side: Any = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        self.seconds_waited = 0.0
        ready: queue.Queue[tuple[Batch, Any] | BaseException | None] = queue.Queue(self.ahead)
        stopped = threading.Event()
        producer = threading.Thread(target=self._produce, args=(ready, stopped), name="clip-loader", daemon=True)
        producer.start()
        try:
            while True:
                asked = time.monotonic()
                found = ready.get()
                self.seconds_waited += time.monotonic() - asked
                if found is None:
                    return
                if isinstance(found, BaseException):
                    raise found
                batch, copied = found
                if copied is not None:
                    stream = torch.cuda.current_stream(self.device)
                    stream.wait_event(copied)
                    for tensor in batch:
                        tensor.record_stream(stream)
                yield batch
        finally:
            stopped.set()
            while producer.is_alive():
                # A producer that waits for room must see that nobody wants its batches.
                try:
                    ready.get(timeout=0.05)
                except queue.Empty:
                    continue
            producer.join()

    def _produce(self, ready: queue.Queue[Any], stopped: threading.Event) -> None:
        try:
            with ThreadPoolExecutor(self.threads, thread_name_prefix="clip-copy") as pool:
                make = self._to_gpu() if self.device.type == "cuda" else self._in_memory
                for number, picks in enumerate(self.sampler):
                    if stopped.is_set():
                        return
                    ready.put(make(number, picks, pool))
        except BaseException as error:  # noqa: BLE001 it is raised again by whoever iterates
            ready.put(error)
            return
        ready.put(None)

    def _copy(self, picks: Picks, clips_BTHWC: Frames, pool: ThreadPoolExecutor) -> None:
        count = len(picks.positions_B)
        share = math.ceil(count / self.threads)

        def copy(start: int) -> None:
            for index in range(start, min(start + share, count)):
                self.clips.write(picks, index, clips_BTHWC)

        list(pool.map(copy, range(0, count, share)))

    def _in_memory(self, number: int, picks: Picks, pool: ThreadPoolExecutor) -> tuple[Batch, None]:
        clips_BTHWC = torch.empty(self.clips.batch_shape(picks), dtype=torch.uint8)
        self._copy(picks, clips_BTHWC.numpy(), pool)
        draws_BD = torch.from_numpy(picks.draws_BD)
        return (clips_BTHWC.permute(0, 4, 1, 2, 3), self.clips.labels_of(picks), draws_BD), None

    def _to_gpu(self) -> Any:
        torch.cuda.set_device(self.device)
        # One stream for all epochs: PyTorch keeps freed memory by stream, and each new one would ask the GPU for more.
        self._side = self._side or torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

        def make(number: int, picks: Picks, pool: ThreadPoolExecutor) -> tuple[Batch, Any]:
            if len(self._pinned) <= self.ahead:
                self._pinned.append(_Pinned(self.clips.batch_shape(picks), picks))
            pinned = self._pinned[number % (self.ahead + 1)]
            pinned.copied.synchronize()
            self._copy(picks, pinned.clips_BTHWC.numpy(), pool)
            pinned.labels_B.copy_(self.clips.labels_of(picks))
            pinned.draws_BD.copy_(torch.from_numpy(picks.draws_BD))
            with torch.cuda.stream(self._side):
                clips_BTHWC, labels_B, draws_BD = (
                    each.to(self.device, non_blocking=True)
                    for each in (pinned.clips_BTHWC, pinned.labels_B, pinned.draws_BD)
                )
                pinned.copied.record(self._side)
            return (clips_BTHWC.permute(0, 4, 1, 2, 3), labels_B, draws_BD), pinned.copied

        return make


class _Pinned:
    """Buffers of a batch that the GPU reads from, and the end of the last reading."""

    def __init__(self, shape: tuple[int, ...], picks: Picks) -> None:
        self.clips_BTHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.labels_B = torch.empty(len(picks.positions_B), dtype=torch.int64, pin_memory=True)
        self.draws_BD = torch.empty(picks.draws_BD.shape, dtype=torch.float32, pin_memory=True)
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]


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
        windows: int = 1,
        max_stride: int = 1,
        balanced: bool = False,
        threads: int = 0,
        still_frames: bool = False,
    ) -> None:
        """Args as in the configuration of trained_checkpoint.

        `manifests` maps `train`, `val` and, where wanted, `test` to CSV files; `frame_cache` is a folder;
        `windows` of each clip are scored in evaluation; `threads` copy, 0 takes one a core, eight at most.
        """
        super().__init__()
        cache = FrameCache(frame_cache)
        self.batch_size = batch_size
        self.seed = seed
        self.eval_batch_size = eval_batch_size
        self.balanced = balanced
        self.threads = threads
        self.clips = {
            role: CachedClips(
                pd.read_csv(path),
                cache,
                spec,
                windows=None if role == "train" else windows,
                max_stride=max_stride,
                still_frames=still_frames,
            )
            for role, path in manifests.items()
        }
        self.loaders: dict[str, ClipLoader] = {}
        if not len(self.clips["train"]):
            raise DatasetError(
                "No training clip could be decoded: look at the quarantine table in frame_cache's metadata."
            )

    def _loader(self, role: str) -> ClipLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        clips = self.clips[role]
        order = (
            TrainingOrder(
                clips.labels, self.batch_size, self.seed, balanced=self.balanced, rank=rank, world_size=world_size
            )
            if role == "train"
            else EvaluationOrder(len(clips), self.eval_batch_size, rank=rank, world_size=world_size)
        )
        threads = self.threads or max(1, min(8, available_cores() // world_size))
        self.loaders[role] = ClipLoader(clips, order, device, threads)
        return self.loaders[role]

    def train_dataloader(self) -> ClipLoader:
        """Shuffled batches of random windows."""
        return self._loader("train")

    def val_dataloader(self) -> ClipLoader | list[object]:
        """Evenly spaced windows of the validation clips; nothing where there are none."""
        return self._loader("val") if len(self.clips["val"]) else []

    def test_dataloader(self) -> ClipLoader:
        """Evenly spaced windows of the test clips."""
        return self._loader("test")
