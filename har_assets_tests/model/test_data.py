"""Orders, windows and the loader that feeds a device."""

import threading
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch

from har_assets.errors import DatasetError
from har_assets.model.augment import Draw
from har_assets.model.data import (
    PADDING,
    CachedClips,
    ClipDataModule,
    ClipLoader,
    EvaluationOrder,
    Picks,
    TrainingOrder,
)
from har_assets.model.spec import ModelSpec


def data_of(folder: Path, spec: ModelSpec, **options: object) -> ClipDataModule:
    manifests = {role: folder / f"{role}.csv" for role in ("train", "val", "test")}
    return ClipDataModule(manifests, folder / "cache", spec, batch_size=4, **options)  # type: ignore[arg-type]


def pick(position: int, **draws: float) -> Picks:
    draws_BD = np.zeros((1, len(Draw)), np.float32)
    for name, value in draws.items():
        draws_BD[0, Draw[name]] = value
    return Picks(np.array([position]), draws_BD)


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    def drawn(seed: int) -> tuple[list[int], list[float]]:
        order = TrainingOrder([0] * 20, 4, seed)
        list(order)  # drawn from before: must not matter
        order.set_epoch(5)
        picks = list(order)
        positions = [int(position) for each in picks for position in each.positions_B]
        return positions, [float(draw) for each in picks for draw in each.draws_BD.ravel()]

    assert drawn(1) == drawn(1)
    assert drawn(1)[0] != drawn(2)[0]
    assert drawn(1)[1] != drawn(2)[1]
    assert sorted(drawn(1)[0]) == list(range(20))


def test_no_two_epochs_are_alike() -> None:
    order = TrainingOrder([0] * 20, 4, 1)
    positions, draws = set(), set()
    for epoch in range(5):
        order.set_epoch(epoch)
        picks = list(order)
        positions.add(tuple(int(position) for each in picks for position in each.positions_B))
        draws.add(tuple(float(draw) for each in picks for draw in each.draws_BD.ravel()))
    assert (len(positions), len(draws)) == (5, 5)


def test_a_new_draw_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(epoch: int = 2) -> "np.ndarray":
        order = TrainingOrder([0] * 20, 20, 1)
        order.set_epoch(epoch)
        (picks,) = order
        return picks.draws_BD

    before = drawn()
    first = {draw.name: draw.value for draw in Draw}
    monkeypatch.setattr("har_assets.model.data.Draw", IntEnum("Draw", {**first, "BLUR": 9}))
    one = drawn()
    assert np.array_equal(one[:, :9], before)
    monkeypatch.setattr("har_assets.model.data.Draw", IntEnum("Draw", {**first, "CUT": 9, "BLUR": 10}))
    two = drawn()
    assert np.array_equal(two[:, :9], before)
    assert np.array_equal(two[:, 10], one[:, 9]), "drawn by its name, wherever it stands"
    assert not np.array_equal(two[:, 9], two[:, 10])
    assert not np.array_equal(drawn(3)[:, 10], two[:, 10])
    assert ((two >= 0) & (two < 1)).all()
    assert two[:, 9:].std() > 0.2


def test_two_processes_see_together_what_one_sees_with_the_double_batch() -> None:
    one = list(TrainingOrder([0] * 23, 6, 3))
    halves = [list(TrainingOrder([0] * 23, 3, 3, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(one) == len(halves[0]) == len(halves[1]) == 3
    for whole, first, second in zip(one, *halves, strict=True):
        both = {
            int(p): d.tolist() for part in (first, second) for p, d in zip(part.positions_B, part.draws_BD, strict=True)
        }
        assert both == {int(p): d.tolist() for p, d in zip(whole.positions_B, whole.draws_BD, strict=True)}


def test_balanced_classes_come_equally_often() -> None:
    labels = [0] * 900 + [1] * 90 + [2] * 10
    drawn = [
        labels[position] for picks in TrainingOrder(labels, 10, 0, balanced=True) for position in picks.positions_B
    ]
    assert np.bincount(drawn).tolist() == pytest.approx([333, 333, 333], abs=60)


def test_more_processes_than_clips_are_refused() -> None:
    with pytest.raises(DatasetError, match="3 training clips cannot be shared by 4 processes"):
        TrainingOrder([0, 1, 2], 8, 0, world_size=4)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_batches_are_of_one_size_and_hold_every_clip_once(world_size: int) -> None:
    orders = [list(EvaluationOrder(11, 4, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(order) for order in orders}) == 1
    assert {len(picks.positions_B) for order in orders for picks in order} == {min(4, -(-11 // world_size))}
    positions = [int(position) for order in orders for picks in order for position in picks.positions_B]
    assert sorted(position for position in positions if position != PADDING) == list(range(11))


def test_training_windows_lie_anywhere_and_evaluation_takes_the_centre(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    clips = data_of(tiny_cache, tiny_spec).clips
    frames_THWC = torch.from_numpy(clips["train"].cache.frames(clips["train"].clips[0]).copy())
    starts = set()
    for place in torch.linspace(0, 0.999, 25).tolist():
        window_CTHW = clips["train"].batch(pick(0, OFFSET=place))[0][0]
        starts.update(s for s in range(5) if torch.equal(window_CTHW, frames_THWC[s : s + 4].permute(3, 0, 1, 2)))
    assert starts == set(range(5))  # 8 frames hold five windows of 4
    assert data_of(tiny_cache, tiny_spec).clips["val"].batch(next(iter(EvaluationOrder(1, 1))))[0].shape == (
        1,
        3,
        4,
        16,
        16,
    )


def test_strides_are_drawn_up_to_what_the_clip_is_long_enough_for(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    clips = data_of(tiny_cache, tiny_spec, max_stride=5).clips["train"]
    frames_THWC = torch.from_numpy(clips.cache.frames(clips.clips[0]).copy())  # 8 frames: at most every second one
    twice_CTHW = clips.batch(pick(0, STRIDE=0.99))[0][0]
    assert torch.equal(twice_CTHW, frames_THWC[0:8:2].permute(3, 0, 1, 2))
    late_CTHW = clips.batch(pick(0, STRIDE=0.99, OFFSET=0.99))[0][0]
    assert torch.equal(late_CTHW, frames_THWC[1:8:2].permute(3, 0, 1, 2))
    assert torch.equal(clips.batch(pick(0))[0][0], frames_THWC[0:4].permute(3, 0, 1, 2))


def test_still_frames_repeat_one_frame(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    clip_CTHW = data_of(tiny_cache, tiny_spec, still_frames=True).clips["train"].batch(pick(0, OFFSET=0.5))[0][0]
    assert torch.equal(clip_CTHW, clip_CTHW[:, :1].expand_as(clip_CTHW))


def test_the_loader_gives_the_batches_of_the_order_whoever_copies(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    clips = data_of(tiny_cache, tiny_spec).clips["train"]
    order = TrainingOrder(clips.labels, 4, 7)
    for threads in (1, 3):
        loader = ClipLoader(clips, order, torch.device("cpu"), threads)
        for _ in range(2):
            for batch, picks in zip(loader, order, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(batch, clips.batch(picks), strict=True))
        assert loader.seconds_waited > 0


def test_a_loader_that_is_left_early_leaves_no_thread(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    clips = data_of(tiny_cache, tiny_spec).clips["train"]
    before = threading.active_count()
    batches = iter(ClipLoader(clips, TrainingOrder(clips.labels, 2, 0), torch.device("cpu"), 2))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_fault_while_copying_reaches_whoever_iterates(
    tiny_cache: Path, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = data_of(tiny_cache, tiny_spec).clips["train"]

    def unreadable(self: CachedClips, *_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(CachedClips, "write", unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        list(ClipLoader(clips, TrainingOrder(clips.labels, 4, 0), torch.device("cpu"), 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: pinned memory and copies on a stream")
def test_batches_arrive_on_the_gpu_unchanged(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    clips = data_of(tiny_cache, tiny_spec).clips["train"]
    order = TrainingOrder(clips.labels, 2, 0)
    loader = ClipLoader(clips, order, torch.device("cuda", 0), 4)
    for epoch in range(20):
        order.set_epoch(epoch)
        for batch, picks in zip(loader, order, strict=True):
            assert batch[0].is_cuda
            assert all(torch.equal(a.cpu(), b) for a, b in zip(batch, clips.batch(picks), strict=True))
