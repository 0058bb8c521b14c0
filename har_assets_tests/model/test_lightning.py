import pickle
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from har_assets.errors import HarError, ModelFileError
from har_assets.model.augment import Draw
from har_assets.model.data import ClipDataModule, EvaluationOrder
from har_assets.model.lightning import (
    DeployedModel,
    TrainingScores,
    VideoActionModel,
    load_checkpoint,
    rate_share,
    training_losses,
)
from har_assets.model.spec import ModelSpec


def data_of(folder: Path, spec: ModelSpec, **options: object) -> ClipDataModule:
    manifests = {role: folder / f"{role}.csv" for role in ("train", "val", "test")}
    return ClipDataModule(manifests, folder / "cache", spec, batch_size=4, **options)  # type: ignore[arg-type]


def test_one_epoch_of_every_stage_runs_and_gives_figures(
    tiny_cache: Path, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    model, data = VideoActionModel.from_spec(tiny_spec), data_of(tiny_cache, tiny_spec)
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "val_rank"} <= metrics.keys()
    figures = trainer.test(model, data, verbose=False)[0]
    assert 0 <= figures["test_top1"] <= figures["test_top5"] == 1.0  # three classes
    assert figures["test_loss"] > 0


def test_scores_of_training_are_those_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = TrainingScores()
    top1, top5 = (MulticlassAccuracy(12, top_k=k, average="micro") for k in (1, 5))
    losses = []
    for size in (40, 40, 20):
        logits_BK, labels_B = (
            torch.randn(size, 12, generator=generator),
            torch.randint(12, (size,), generator=generator),
        )
        _, sums_S = training_losses(
            lambda clips_BCTHW, logits_BK=logits_BK: logits_BK,  # type: ignore[arg-type,misc]
            torch.nn.Identity(),
            torch.zeros(size, 3, 1, 2, 2, dtype=torch.uint8),
            labels_B,
            torch.zeros(size, len(Draw)),
            torch.ones(12, dtype=torch.bool),
            label_smoothing=0.1,
            height=2,
            width=2,
        )
        scores.update(sums_S)
        top1.update(logits_BK, labels_B)
        top5.update(logits_BK, labels_B)
        losses.append(torch.nn.functional.cross_entropy(logits_BK, labels_B, reduction="none"))
    found = {name: float(value) for name, value in scores.compute().items()}
    assert 0 < found["train_top1"] < found["train_top5"] < 1
    assert found == pytest.approx(
        {
            "train_loss": float(torch.cat(losses).mean()),
            "train_top1": float(top1.compute()),
            "train_top5": float(top5.compute()),
        }
    )


def test_the_network_can_learn_a_batch_by_heart(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    pl.seed_everything(0, verbose=False)
    model = VideoActionModel.from_spec(tiny_spec, flip=False, brightness=0.0).train()
    clips = data_of(tiny_cache, tiny_spec).clips["val"]
    clips_BCTHW, labels_B, _ = clips.batch(next(iter(EvaluationOrder(3, 3))))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(clips_BCTHW), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_label_smoothing_is_in_the_loss_and_not_in_the_figures() -> None:
    logits_BK = torch.tensor([[4.0, 0.0, 0.0], [0.0, 2.0, 1.0]])
    labels_B = torch.tensor([0, 1])

    class Fixed(nn.Module):
        def forward(self, clips_BCTHW: torch.Tensor) -> torch.Tensor:
            return logits_BK

    clips_BCTHW = torch.zeros((2, 3, 1, 4, 4), dtype=torch.uint8)
    draws_BD = torch.full((2, len(Draw)), 0.5)
    losses = {}
    for smoothing in (0.0, 0.3):
        loss, sums_S = training_losses(
            Fixed(),
            nn.Identity(),
            clips_BCTHW,
            labels_B,
            draws_BD,
            torch.ones(3, dtype=torch.bool),
            label_smoothing=smoothing,
            height=4,
            width=4,
        )
        expected = nn.functional.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(sums_S[0], nn.functional.cross_entropy(logits_BK, labels_B, reduction="sum"))
        losses[smoothing] = float(loss)
    assert losses[0.3] > losses[0.0] + 0.1


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


def test_scores_of_a_clip_are_the_mean_over_its_windows_and_padding_does_not_count(
    tiny_cache: Path, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    model = VideoActionModel.from_spec(tiny_spec)
    data = data_of(tiny_cache, tiny_spec, windows=3, eval_batch_size=2)
    trainer = pl.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
    )
    figures = trainer.test(model, data, verbose=False)[0]
    clips = data.clips["test"]
    assert len(clips) == 3  # an odd number: the last batch is filled up
    clips_BCTHW, labels_B, _ = clips.batch(next(iter(EvaluationOrder(3, 3))))
    scores_BK = model.eval()(clips_BCTHW).detach().softmax(1).view(3, 3, -1).mean(1)
    assert figures["test_top1"] == pytest.approx(float((scores_BK.argmax(1) == labels_B).float().mean()))
    loss = -scores_BK[torch.arange(3), labels_B].log().mean()
    assert figures["test_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_a_frozen_backbone_and_frozen_batch_norm_stay_as_they_were(tiny_cache: Path, tiny_spec: ModelSpec) -> None:
    for recipe, moved in (({"backbone_rate": 0.0}, {"head."}), ({"batch_norm": "frozen"}, {"head.", "features."})):
        pl.seed_everything(0, verbose=False)
        model = VideoActionModel.from_spec(tiny_spec, **recipe)
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        trainer = pl.Trainer(
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            accelerator="cpu",
            enable_model_summary=False,
        )
        trainer.fit(model, data_of(tiny_cache, tiny_spec))
        changed = {name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])}
        assert {name.split(".")[0] + "." for name in changed} == moved
        assert not {name for name in changed if "running" in name or "num_batches" in name}


def test_backbone_and_head_have_rates_of_their_own_and_biases_do_not_decay(tiny_spec: ModelSpec) -> None:
    model = VideoActionModel.from_spec(tiny_spec, learning_rate=0.1, backbone_rate=0.5, weight_decay=0.2)
    groups = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in model._parameter_groups()}
    # Three convolutions decay, the scales and shifts of three BatchNorms do not; head: weight and bias.
    assert groups == {(0.05, 0.2): 3, (0.05, 0.0): 6, (0.1, 0.2): 1, (0.1, 0.0): 1}


def test_rates_rise_linearly_and_fall_along_a_cosine() -> None:
    shares = [rate_share(step, steps=100, warmup=0.1, schedule="cosine") for step in range(101)]
    assert shares[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert shares[10] == 1.0
    assert shares[55] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(0.0)
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert [rate_share(step, steps=9, warmup=0.0, schedule="constant") for step in (0, 8)] == [1.0, 1.0]


def test_classes_of_a_side_are_not_mirrored(tiny_spec: ModelSpec) -> None:
    from dataclasses import replace

    spec = replace(tiny_spec, labels=("turnLeft", "backhand", "kick_ball"))
    model = VideoActionModel.from_spec(spec, mirror_pairs=["forehand/backhand"])
    assert model.may_flip_K.tolist() == [False, False, True]
    assert VideoActionModel.from_spec(spec, flip=False).may_flip_K.tolist() == [False] * 3


def test_an_unknown_network_names_the_known_ones(tiny_spec: ModelSpec) -> None:
    from dataclasses import replace

    with pytest.raises(HarError, match="no network 'resnet': choose one of "):
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
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["hyper_parameters"]["dropout"] = "much"
    torch.save(content, tmp_path / "wrong.ckpt")
    with pytest.raises(ModelFileError, match=r"dropout \(Input should be a valid number"):
        load_checkpoint(tmp_path / "wrong.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(tiny_checkpoint.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "cut.ckpt")
