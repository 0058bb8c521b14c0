import pickle
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from har_assets.errors import HarError, ModelFileError
from har_assets.model.data import ClipDataModule, EpochOrder
from har_assets.model.lightning import DeployedModel, VideoActionModel, load_checkpoint
from har_assets.model.spec import ModelSpec


def data_of(folder: Path, spec: ModelSpec, **options: object) -> ClipDataModule:
    manifests = {role: folder / f"{role}.csv" for role in ("train", "val", "test")}
    return ClipDataModule(manifests, folder / "cache", spec, batch_size=4, **options)  # type: ignore[arg-type]


def test_one_epoch_of_every_stage_runs_and_gives_figures(
    tiny_cache: Path, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    model, data = VideoActionModel.from_spec(tiny_spec), data_of(tiny_cache, tiny_spec)
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(model, data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "val_rank"} <= metrics.keys()
    figures = trainer.test(model, data, verbose=False)[0]
    assert 0 <= figures["test_top1"] <= figures["test_top5"] == 1.0  # three classes
    assert figures["test_loss"] > 0


def test_the_network_can_learn_a_batch_by_heart(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    pl.seed_everything(0, verbose=False)
    model = VideoActionModel.from_spec(tiny_spec, flip=False, brightness=0.0).train()
    clips_BCTHW, labels_B = data_of(tiny_cache, tiny_spec).clips["val"].__getitems__(range(3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(clips_BCTHW), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_every_parameter_gets_a_gradient(tiny_spec: ModelSpec) -> None:
    model = VideoActionModel.from_spec(tiny_spec)
    clips_BCTHW = torch.randint(0, 256, (2, *tiny_spec.clip_shape_CTHW), dtype=torch.uint8)
    model(clips_BCTHW).square().sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_the_deployed_form_gives_the_softmax_of_the_logits(tiny_spec: ModelSpec) -> None:
    model = VideoActionModel.from_spec(tiny_spec).eval()
    clips_BCTHW = torch.randint(0, 256, (3, *tiny_spec.clip_shape_CTHW), dtype=torch.uint8)
    scores_BK = DeployedModel(model)(clips_BCTHW)
    torch.testing.assert_close(scores_BK, model(clips_BCTHW).softmax(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores_BK.sum(1), torch.ones(3))


def test_normalisation_is_that_of_the_spec(tiny_spec: ModelSpec) -> None:
    model = VideoActionModel.from_spec(tiny_spec)
    clips_BCTHW = torch.randint(0, 256, (1, *tiny_spec.clip_shape_CTHW), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (tiny_spec.mean, tiny_spec.std))
    torch.testing.assert_close(model.normalise(clips_BCTHW), (clips_BCTHW / 255 - mean) / std)


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    one, two, other = EpochOrder(20, seed=1), EpochOrder(20, seed=1), EpochOrder(20, seed=2)
    list(one)  # drawn from before: must not matter
    for order in (one, two, other):
        order.set_epoch(5)
    assert list(one) == list(two) != list(other)
    assert sorted(position for position, _ in one) == list(range(20))


def test_training_windows_lie_anywhere_and_evaluation_takes_the_centre(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    clips = data_of(tiny_cache, tiny_spec).clips
    frames_THWC = torch.from_numpy(clips["train"].cache.frames(clips["train"].clips[0]).copy())
    starts = set()
    for place in torch.linspace(0, 0.999, 25).tolist():
        window_CTHW = clips["train"][(0, place)][0][0]
        matches = [s for s in range(5) if torch.equal(window_CTHW, frames_THWC[s : s + 4].permute(3, 0, 1, 2))]
        starts.update(matches)
    assert starts == set(range(5))  # 8 frames hold five windows of 4
    assert clips["val"][0][0].shape == (1, 3, 4, 16, 16)


def test_still_frames_repeat_one_frame(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    clip_CTHW = data_of(tiny_cache, tiny_spec, still_frames=True).clips["train"][(0, 0.5)][0][0]
    assert torch.equal(clip_CTHW, clip_CTHW[:, :1].expand_as(clip_CTHW))


def test_an_unknown_network_names_the_known_ones(tiny_spec: ModelSpec) -> None:
    from dataclasses import replace

    with pytest.raises(HarError, match="no network 'resnet': choose one of cnn3d"):
        VideoActionModel.from_spec(replace(tiny_spec, network="resnet"))


def test_a_checkpoint_gives_the_same_model_back(tiny_checkpoint: Path, tiny_spec: ModelSpec) -> None:
    model = load_checkpoint(tiny_checkpoint)
    assert model.spec == tiny_spec
    assert not model.training
    lightning = VideoActionModel.load_from_checkpoint(tiny_checkpoint, weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), lightning.parameters(), strict=True))


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    evil, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    torch.save({"state_dict": {}, "hyper_parameters": Payload(trace)}, evil)
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        load_checkpoint(evil)
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "bare.ckpt")
    assert not trace.exists()


def test_foreign_checkpoints_are_refused_in_words(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelFileError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    with pytest.raises(ModelFileError, match="not a checkpoint of VideoActionModel"):
        load_checkpoint(tmp_path / "other.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(tiny_checkpoint.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "cut.ckpt")
