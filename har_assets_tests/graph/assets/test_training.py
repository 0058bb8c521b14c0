"""pretrained_weights and trained_checkpoint on small data, executed in process (the training in its own)."""

import json
from pathlib import Path

import pytest
import torch

from har_assets.model.lightning import load_checkpoint
from har_assets.model.networks import build_network
from har_assets.model.pretrained import State, apply_state
from har_assets.system.files import sha256_of
from har_assets_tests.project import Project, execute_here, make_own_videos, materialize_here

SMALL = {
    "frame_cache": {"height": 32, "width": 40, "stride": 1, "max_frames": 24},
    "video_clips": {"dvc": "off"},
}


@pytest.fixture
def torchvision_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """r3d_18 weights in torchvision's cache, where its loader finds them without a network: random ones."""
    from har_assets.model import pretrained

    torch.manual_seed(5)
    state = build_network("r3d_18", 400).state_dict()
    home = tmp_path / "torch"
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, home / "hub" / "checkpoints" / "r3d_18-b3b3357e.pth")
    monkeypatch.setenv("TORCH_HOME", str(home))
    # The name of the file holds the hash of the published weights, which these are not.
    monkeypatch.setattr(pretrained, "_verify", sha256_of)
    return state


def test_without_a_pretrained_network_there_are_no_weights_and_it_is_said(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    assert materialize_here(project, "key:pretrained_weights", {}) == []
    assert project.latest("pretrained_weights").record.headline == "none: networks are trained from scratch"


def test_a_network_without_weights_is_refused(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    (refusal,) = materialize_here(project, "key:pretrained_weights", {"pretrained_weights": {"network": "cnn3d"}})
    assert refusal.startswith("There are no pretrained weights for cnn3d: ")


def test_training_starts_from_the_weights_and_names_them(tmp_path: Path, torchvision_weights: State) -> None:
    project = Project.make(tmp_path / "project")
    source = {"raw_archive": {"source": str(make_own_videos(tmp_path / "own", clips_per_class=4))}, **SMALL}
    training = {
        "network": "r3d_18",
        "pretrained": True,
        "num_frames": 4,
        "frame_height": 32,
        "frame_width": 32,
        "epochs": 1,
        "batch_size": 4,
        "backbone_rate": 0.0,
    }
    result = execute_here(project, "+key:trained_checkpoint", {**source, "trained_checkpoint": training})
    assert result.success
    weights = project.latest("pretrained_weights").record
    assert weights.metadata["network"] == "r3d_18"
    assert weights.metadata["file"] == "r3d_18-b3b3357e.pth"
    checkpoint = project.latest("trained_checkpoint")
    model = load_checkpoint(checkpoint.file("video_action_model.ckpt"))
    assert (
        model.provenance.pretrained == f"Kinetics-400, r3d_18-b3b3357e.pth, SHA-256 {weights.metadata['sha256'][:12]}"
    )
    assert checkpoint.record.inputs["pretrained_weights"] == weights.data_version
    # The backbone was frozen: it still is what was loaded, running statistics included.
    expected = build_network("r3d_18", 3)
    apply_state("r3d_18", expected, torchvision_weights)
    backbone = {name: value for name, value in expected.state_dict().items() if not name.startswith("fc.")}
    for name, value in backbone.items():
        assert torch.equal(model.network.state_dict()[name], value), name

    other = {**training, "network": "mc3_18"}
    (refusal,) = materialize_here(project, "key:trained_checkpoint", {"trained_checkpoint": other})
    assert refusal.startswith("pretrained_weights holds r3d_18, not mc3_18: materialize it with network: mc3_18")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"optimizer": "sgd"}, "There is no optimizer 'sgd': choose adam or adamw."),
        ({"schedule": "step"}, "There is no schedule 'step': choose one_cycle or cosine or constant."),
        ({"weight_decay": 0.1}, "adam would mix weight_decay with its momentum"),
        ({"warmup": 0.1}, "one_cycle has a warm-up of its own"),
        ({"zoom": 1.5}, "zoom is 1.5: choose 0 or more and less than 1."),
        ({"compile": "maybe"}, "There is no compile 'maybe': choose auto, on or off."),
        ({"network": "i3d", "num_frames": 0}, "choose"),
        ({"nodes": 2}, "Several nodes have to find each other: set rendezvous"),
    ],
)
def test_options_that_are_wrong_or_clash_are_refused_in_a_sentence(
    trained_project: Project, config: dict[str, object], sentence: str
) -> None:
    before = trained_project.latest("trained_checkpoint").folder
    (refusal,) = materialize_here(trained_project, "key:trained_checkpoint", {"trained_checkpoint": config})
    assert sentence in refusal
    assert "\n" not in refusal
    assert trained_project.latest("trained_checkpoint").folder == before


@pytest.fixture(scope="module")
def trained_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a checkpoint, trained for one epoch on someone's own videos."""
    folder = tmp_path_factory.mktemp("trained")
    project = Project.make(folder / "project")
    source = {"raw_archive": {"source": str(make_own_videos(folder / "own", clips_per_class=4))}, **SMALL}
    assert materialize_here(project, "+key:trained_checkpoint", {**source, "trained_checkpoint": {"epochs": 1}}) == []
    return project


def test_the_history_says_how_fast_and_how_large_it_was(trained_project: Project) -> None:
    (epoch,) = map(json.loads, trained_project.latest("trained_checkpoint").file("history.jsonl").open())
    assert epoch["clips_per_second"] > 0
    assert 0 <= epoch["data_seconds"] <= epoch["seconds"]
    assert 0.1 < epoch["memory_gb"] < 8
