import torch

from har_assets.model.augment import random_brightness, random_crop, random_flip


def clips_of_coordinates(batch: int = 64) -> torch.Tensor:
    """Clips [B, 2, 3, 10, 12] whose two channels say the row and the column of each pixel."""
    rows = torch.arange(10).view(1, 1, 10, 1).expand(batch, 3, 10, 12)
    columns = torch.arange(12).view(1, 1, 1, 12).expand(batch, 3, 10, 12)
    return torch.stack([rows, columns], dim=1)


def test_crops_are_windows_the_same_for_all_frames_and_different_between_clips() -> None:
    crops = random_crop(clips_of_coordinates(), 6, 5, torch.Generator().manual_seed(0))
    assert crops.shape == (64, 2, 3, 6, 5)
    tops, lefts = crops[:, 0, 0, 0, 0], crops[:, 1, 0, 0, 0]
    expected = torch.stack([
        tops.view(-1, 1, 1, 1) + torch.arange(6).view(1, 1, 6, 1).expand(64, 3, 6, 5),
        lefts.view(-1, 1, 1, 1) + torch.arange(5).view(1, 1, 1, 5).expand(64, 3, 6, 5),
    ], dim=1)  # fmt: skip
    assert torch.equal(crops, expected)
    assert set(tops.tolist()) == set(range(5))
    assert set(lefts.tolist()) == set(range(8))


def test_a_crop_of_the_full_size_changes_nothing() -> None:
    clips = clips_of_coordinates(3)
    assert torch.equal(random_crop(clips, 10, 12), clips)


def test_half_of_the_clips_are_mirrored_whole() -> None:
    clips = clips_of_coordinates(200)
    flipped = random_flip(clips, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(clip, original.flip(-1)) for clip, original in zip(flipped, clips, strict=True)]
    untouched = [torch.equal(clip, original) for clip, original in zip(flipped, clips, strict=True)]
    assert sum(mirrored) + sum(untouched) == 200
    assert 70 < sum(mirrored) < 130


def test_brightness_stays_in_range_and_differs_between_clips() -> None:
    clips = torch.full((32, 3, 2, 4, 4), 128.0)
    changed = random_brightness(clips, 0.2, torch.Generator().manual_seed(0))
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert changed[:, 0, 0, 0, 0].unique().numel() == 32
    assert torch.equal(random_brightness(clips, 0.0), clips)
