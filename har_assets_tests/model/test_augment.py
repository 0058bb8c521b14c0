"""Each augmentation by what it does to pixels that say where they come from."""

import torch

from har_assets.model.augment import Draw, augment

ALL = {"TOP": 0.0, "LEFT": 0.0, "ZOOM": 0.5, "FLIP": 0.9, "GAIN": 0.5, "SHIFT": 0.5, "SATURATION": 0.5}
"""Draws that change nothing but the size."""


def clips_of_coordinates(batch: int = 64) -> torch.Tensor:
    """uint8 clips [B, 3, 2, 10, 12] whose first two channels say ten times the row and the column of each pixel."""
    rows = 10 * torch.arange(10).view(1, 1, 10, 1).expand(batch, 2, 10, 12)
    columns = 10 * torch.arange(12).view(1, 1, 1, 12).expand(batch, 2, 10, 12)
    return torch.stack([rows, columns, torch.zeros_like(rows)], dim=1).to(torch.uint8)


def draws(batch: int = 64, **values: float) -> torch.Tensor:
    draws_BD = torch.zeros((batch, len(Draw)))
    for name, value in {**ALL, **values}.items():
        draws_BD[:, Draw[name]] = value
    return draws_BD


def yes(batch: int = 64) -> torch.Tensor:
    return torch.ones(batch, dtype=torch.bool)


def test_crops_are_windows_the_same_for_all_frames_and_different_between_clips() -> None:
    draws_BD = draws()
    draws_BD[:, [Draw.TOP, Draw.LEFT]] = torch.rand((64, 2), generator=torch.Generator().manual_seed(0))
    crops = augment(clips_of_coordinates(), draws_BD, yes(), height=6, width=5)
    assert crops.shape == (64, 3, 2, 6, 5)
    assert crops.is_contiguous(memory_format=torch.channels_last_3d)
    tops, lefts = crops[:, 0, 0, 0, 0], crops[:, 1, 0, 0, 0]
    rows = tops.view(-1, 1, 1, 1) + 10 * torch.arange(6).view(1, 1, 6, 1).expand(64, 2, 6, 5)
    columns = lefts.view(-1, 1, 1, 1) + 10 * torch.arange(5).view(1, 1, 1, 5).expand(64, 2, 6, 5)
    assert torch.equal(crops[:, 0], rows)
    assert torch.equal(crops[:, 1], columns)
    assert set((tops / 10).tolist()) == set(range(5))
    assert set((lefts / 10).tolist()) == set(range(8))


def test_draws_at_the_end_stay_inside() -> None:
    last = 1 - 2**-24
    crops = augment(clips_of_coordinates(1), draws(1, TOP=last, LEFT=last), yes(1), height=6, width=5)
    assert crops[0, 0, 0, -1, -1] == 90
    assert crops[0, 1, 0, -1, -1] == 110
    zoomed = augment(
        clips_of_coordinates(1), draws(1, TOP=last, LEFT=last, ZOOM=last), yes(1), height=10, width=12, zoom=0.5
    )
    assert zoomed.amax() <= 110


def test_a_crop_of_the_full_size_changes_nothing() -> None:
    clips = clips_of_coordinates(3)
    assert torch.equal(augment(clips, draws(3), yes(3), height=10, width=12), clips.float())
    # Interpolation at the pixels themselves gives the pixels.
    torch.testing.assert_close(augment(clips, draws(3), yes(3), height=10, width=12, zoom=0.5), clips.float())


def test_a_clip_is_mirrored_whole_where_it_may_be() -> None:
    clips = clips_of_coordinates(2)
    may_flip_B = torch.tensor([True, False])
    mirrored = augment(clips, draws(2, FLIP=0.4), may_flip_B, height=10, width=12)
    assert torch.equal(mirrored[0], clips[0].flip(-1).float())
    assert torch.equal(mirrored[1], clips[1].float())
    assert torch.equal(augment(clips, draws(2, FLIP=0.5), may_flip_B, height=10, width=12), clips.float())


def test_zoom_takes_a_larger_or_smaller_region() -> None:
    clips = clips_of_coordinates(1)
    for draw, size in ((0.0, 0.5), (0.75, 1.25)):
        window = augment(clips, draws(1, ZOOM=draw), yes(1), height=4, width=4, zoom=0.5)
        steps = window[0, 0, 0].diff(dim=0)
        torch.testing.assert_close(steps[1:-1], torch.full((1, 4), 10 * size), msg=f"region of {size} x the window")
    whole = augment(clips, draws(1, ZOOM=0.999), yes(1), height=9, width=9, zoom=0.9)  # no more than there is
    torch.testing.assert_close(whole[0, 0, 0].diff(dim=0)[1:-1], torch.full((6, 9), 100 / 9))


def test_the_middle_of_a_zoomed_window_is_that_of_its_region() -> None:
    clips = clips_of_coordinates(1)  # 10 a pixel: the centre of pixel 0 is at 0
    window = augment(clips, draws(1, ZOOM=0.0, TOP=0.0, LEFT=0.0), yes(1), height=4, width=4, zoom=0.5)
    # Pixel n of the window is the n-th half of a pixel from the upper edge, which lies half a pixel before pixel 0.
    torch.testing.assert_close(window[0, 0, 0, :, 0], torch.tensor([0.0, 2.5, 7.5, 12.5]))


def test_brightness_stays_in_range_and_differs_between_clips() -> None:
    clips = torch.full((32, 3, 2, 4, 4), 128, dtype=torch.uint8)
    draws_BD = draws(32)
    draws_BD[:, [Draw.GAIN, Draw.SHIFT]] = torch.rand((32, 2), generator=torch.Generator().manual_seed(0))
    changed = augment(clips, draws_BD, yes(32), height=4, width=4, brightness=0.2)
    assert changed[:, 0, 0, 0, 0].unique().numel() == 32
    strong = augment(clips, draws_BD, yes(32), height=4, width=4, brightness=0.9)
    assert (strong.min(), strong.max()) == (0, 255)
    assert torch.equal(changed, changed[:, :1, :1, :1, :1].expand_as(changed))
    assert torch.equal(augment(clips, draws(32), yes(32), height=4, width=4), clips.float())


def test_saturation_moves_colours_to_grey_and_away_and_leaves_grey_alone() -> None:
    clips = torch.tensor([[200, 50, 50], [90, 90, 90]], dtype=torch.uint8).view(2, 3, 1, 1, 1)
    less = augment(clips, draws(2, SATURATION=0.0), yes(2), height=1, width=1, saturation=0.5)
    more = augment(clips, draws(2, SATURATION=1.0), yes(2), height=1, width=1, saturation=0.5)
    spread = [float(c[0].max() - c[0].min()) for c in (less, clips.float(), more)]
    assert spread == sorted(spread)
    assert spread[0] < spread[1] < spread[2]
    torch.testing.assert_close(less[1], clips[1].float())
