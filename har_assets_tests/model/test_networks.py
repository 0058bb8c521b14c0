import itertools
import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from har_assets.errors import HarError
from har_assets.model.i3d import SamePadConv3d, SamePadMaxPool3d
from har_assets.model.networks import (
    NETWORKS,
    FewChannelConv3d,
    SpatialMaxPool,
    backbone_parameters,
    build_network,
    check_clip_size,
    find_network,
    head_parameters,
    order_weights,
)

OF_TORCHVISION = sorted(name for name in NETWORKS if NETWORKS[name].pretrained and name != "i3d")
ANY_SIZE = sorted(name for name in NETWORKS if NETWORKS[name].any_size)


def settle_batch_norm(network: nn.Module, clips_BCTHW: torch.Tensor) -> nn.Module:
    """Give an untrained network statistics that fit its input: without them its answers hardly depend on it."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(clips_BCTHW)
    return network.eval()


@pytest.mark.parametrize("name", ANY_SIZE)
def test_a_network_takes_its_smallest_clip_and_odd_ones(name: str) -> None:
    network = build_network(name, 5).eval()
    with torch.inference_mode():
        for size in (NETWORKS[name].smallest_THW, (9, 33, 39)):
            logits_BK = network(torch.randn(2, 3, *size))
            assert logits_BK.shape == (2, 5)
            assert logits_BK.isfinite().all()


def test_training_reaches_every_parameter_of_i3d() -> None:
    torch.manual_seed(0)
    network = build_network("i3d", 3).train()
    network(torch.randn(2, 3, 8, 32, 32)).square().sum().backward()
    assert [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.slow  # its only size is 16 x 224 x 224: the forward pass takes a minute on a busy machine
def test_mvit_takes_the_one_size_it_is_built_for() -> None:
    with torch.inference_mode():
        assert build_network("mvit_v2_s", 3).eval()(torch.randn(1, 3, 16, 224, 224)).shape == (1, 3)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_head_and_backbone_share_the_parameters_out(name: str) -> None:
    with torch.device("meta"):  # no memory, no time for the initial values
        network = build_network(name, 7)
    head, backbone = head_parameters(name, network), backbone_parameters(name, network)
    assert [parameter.shape[0] for parameter in head] == [7, 7]  # weight and bias
    assert {id(p) for p in head} | {id(p) for p in backbone} == {id(p) for p in network.parameters()}
    assert len(head) + len(backbone) == len(list(network.parameters()))


def test_a_compiled_network_has_the_same_head() -> None:
    network = build_network("cnn3d", 7)
    compiled = torch.compile(network)  # compiles at its first call, which does not come
    assert isinstance(compiled, nn.Module)
    assert [p.shape for p in head_parameters("cnn3d", compiled)] == [p.shape for p in head_parameters("cnn3d", network)]


def test_a_network_of_another_name_is_not_taken_apart() -> None:
    with pytest.raises(ValueError, match=r"has no parameter fc\."):
        head_parameters("r3d_18", build_network("cnn3d", 3))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_dropout_reaches_the_layer_before_the_head(name: str) -> None:
    with torch.device("meta"):
        network = build_network(name, 3, dropout=0.25)
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout) and module.p > 0] == [0.25]


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_parameter_names_and_normalisation_are_those_of_torchvision(name: str) -> None:
    from torchvision.models import get_model, get_weight

    row = NETWORKS[name]
    with torch.device("meta"):
        published = get_model(name, weights=None).state_dict()
        ours = build_network(name, 400).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in published.items()}
    assert row.pretrained is not None
    preset = get_weight(row.pretrained.name).transforms()
    assert (row.mean, row.std) == (tuple(preset.mean), tuple(preset.std))
    assert row.clip_THW[1:] == tuple(preset.crop_size) * (2 // len(preset.crop_size))


def test_weights_are_ordered_and_2d_convolutions_left_alone() -> None:
    """A network may look at frames one by one; `network.to(memory_format=...)` refuses its weights."""
    network = nn.ModuleDict({"by_clip": nn.Conv3d(4, 8, 3), "by_frame": nn.Conv2d(4, 8, 3)})
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    order_weights(network)
    assert network["by_clip"].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert network["by_frame"].weight.is_contiguous()
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_an_unknown_network_names_the_known_ones() -> None:
    known = ", ".join(sorted(NETWORKS))
    for call in (lambda: build_network("resnet", 3), lambda: find_network("resnet")):
        with pytest.raises(HarError, match=f"no network 'resnet': choose one of {known}"):
            call()


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("mvit_v2_s", (16, 112, 112), "takes clips of 16 x 224 x 224 .* only, not 16 x 112 x 112"),
        ("s3d", (4, 64, 64), "takes clips from 5 x 17 x 17 .* not 4 x 64 x 64"),
        ("cnn3d", (16, 7, 8), "takes clips from 1 x 8 x 8"),
    ],
)
def test_a_clip_that_a_network_cannot_take_is_refused_before_it_runs(
    name: str, size: tuple[int, int, int], words: str
) -> None:
    with pytest.raises(HarError, match=words):
        check_clip_size(name, *size)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_natural_clip_and_the_smallest_are_accepted(name: str) -> None:
    check_clip_size(name, *NETWORKS[name].clip_THW)
    check_clip_size(name, *NETWORKS[name].smallest_THW)


def test_a_network_of_torchvision_gives_the_same_logits_as_onnx() -> None:
    torch.manual_seed(0)
    clips_BCTHW = torch.randn(3, 3, 8, 64, 64)
    network = settle_batch_norm(build_network("mc3_18", 6), clips_BCTHW)
    assert_onnx_parity(network, clips_BCTHW)


def assert_onnx_parity(network: nn.Module, clips_BCTHW: torch.Tensor) -> bytes:
    """Export with a dynamic batch, compare with ONNX Runtime on the batch and on one clip; returns the ONNX bytes."""
    import onnxruntime

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (clips_BCTHW[:2],),
            dynamo=True,
            opset_version=20,
            input_names=["clips"],
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for batch_BCTHW in (clips_BCTHW, clips_BCTHW[:1]):
        with torch.inference_mode():
            expected_BK = network(batch_BCTHW).numpy()
        (got_BK,) = session.run(None, {"clips": batch_BCTHW.numpy()})
        # Untrained layers amplify rounding: PyTorch itself is 1e-4 away from float64 here. A pixel too few is 0.1.
        np.testing.assert_allclose(got_BK, expected_BK, atol=1e-3 * float(np.abs(expected_BK).max()), rtol=0)
        if len(expected_BK) > 1:
            assert np.abs(expected_BK[0] - expected_BK[1]).max() > 1e-2  # the answers depend on the clip
    return content


def test_the_forms_for_gpus_give_the_sums_of_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    modules: list[nn.Module] = [
        FewChannelConv3d(3, 16),
        SpatialMaxPool(),
        SamePadConv3d(3, 8, (7, 7, 7), (2, 2, 2)),
        SamePadConv3d(3, 8, (3, 3, 3)),
        SamePadMaxPool3d((1, 3, 3), (1, 2, 2)),
        SamePadMaxPool3d((3, 3, 3), (2, 2, 2)),
        SamePadMaxPool3d((3, 3, 3), (1, 1, 1)),
        SamePadMaxPool3d((2, 2, 2), (2, 2, 2)),
    ]
    for module, size in itertools.product(modules, [(5, 10, 12), (8, 11, 9), (1, 7, 8)]):
        clips_BCTHW = torch.randn(2, 3, *size, requires_grad=True)
        if isinstance(module, SamePadMaxPool3d):
            clips_BCTHW = clips_BCTHW.detach().abs().requires_grad_()  # they follow a ReLU: zeros fill up like nothing
        results = []
        for on_gpu in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(torch.Tensor, "is_cuda", on_gpu)
                result = module(clips_BCTHW.to(memory_format=torch.channels_last_3d))
            differentiated = [clips_BCTHW, *module.parameters()]
            results.append((result.detach(), *torch.autograd.grad(result.square().sum(), differentiated)))
        for plain, folded in zip(*results, strict=True):  # summed in another order
            torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-4)
        # Of one frame both orders have the strides of either.
        assert size[0] == 1 or results[1][0].is_contiguous(memory_format=torch.channels_last_3d), module
