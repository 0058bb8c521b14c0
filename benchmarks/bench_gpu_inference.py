"""GPU inference of the three-layer net: compiled float16 against eager float32 and ONNX Runtime CUDA, and the roofline.

    python -m benchmarks.bench_gpu_inference [--batch 1 8 64] [--rounds N] [--only NAME...]
    python -m benchmarks.bench_gpu_inference --smoke      tiny sizes on the CPU: does every variant run and agree?

Needs torch and numpy; onnx, onnxscript and onnxruntime-gpu for the ONNX rows; pytorch-lightning, torchmetrics and
whatever else the model's modules import for the rows of the predictors. What is missing is named and left out.
uint8 clips lie on the GPU before the clock starts and scores stay there, except in the predictors' rows, which go
from NumPy to NumPy. Variants are asked in turn, round by round; medians are printed. Every variant is compared with
eager float32 first.

B batch, C channels, T frames, H height, W width, K classes.

Roofline: the seconds that a clip costs at least, the larger of
    FLOP of the convolutions / FLOP a second of a float16 matmul measured in this run, and
    bytes that each layer reads and writes once, its ReLU and pooling fused / bytes a second of a copy, likewise.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from har_assets.model.networks import Cnn3d, Normalise

NUM_CLASSES = 51
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
CHANNELS_LAST = torch.channels_last_3d

Run = Callable[[Tensor], Tensor]
"""uint8 clips_BCTHW to float32 scores_BK, on the device."""


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    arguments.add_argument("--rounds", type=int, default=30)
    arguments.add_argument("--only", nargs="+", default=[], help="variants whose names hold one of these words")
    arguments.add_argument("--smoke", action="store_true")
    options = arguments.parse_args()
    device = "cpu" if options.smoke else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA GPU: name --smoke to try the variants on the CPU with tiny sizes.")
    clip_CTHW = (3, 4, 16, 16) if options.smoke else (3, 16, 112, 112)
    batches = [1, 2] if options.smoke else options.batch
    rounds = 2 if options.smoke else options.rounds

    torch.manual_seed(0)
    network = settled(Cnn3d(NUM_CLASSES)).eval().to(device)
    variants = torch_variants(network, device, smoke=options.smoke)
    with tempfile.TemporaryDirectory() as scratch:
        variants |= onnx_variants(network, clip_CTHW, Path(scratch), device)
        if options.only:
            variants = {
                name: make
                for name, make in variants.items()
                if name == REFERENCE or any(w in name for w in options.only)
            }
        if not options.smoke:
            print(torch.cuda.get_device_name(0), "driver of CUDA", torch.version.cuda)
        print(f"torch {torch.__version__}, clips of {' x '.join(map(str, clip_CTHW))}, device {device}")
        ceilings = measure_ceilings(device, smoke=options.smoke)
        least = roofline(network, clip_CTHW, ceilings)
        for batch in batches:
            measure_batch(variants, batch, clip_CTHW, rounds, device, least)
        predictors(network, clip_CTHW, batches, rounds, Path(scratch), smoke=options.smoke)


REFERENCE = "eager fp32"


def settled(network: nn.Module) -> nn.Module:
    """BatchNorm with statistics that are not 0 and 1, so that folding them wrongly would show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return network


# --- variants in PyTorch -----------------------------------------------------------------------------


def torch_variants(network: nn.Module, device: str, *, smoke: bool) -> dict[str, Callable[[], Run]]:
    """Name -> what makes the variant (compiling happens at its first call for a batch size)."""

    def compiled(run: Run, mode: str | None = None) -> Run:
        # Smoke: the graph is traced, but no compiler of C++ or CUDA is asked for.
        made = (
            torch.compile(run, dynamic=False, backend="eager")
            if smoke
            else torch.compile(run, dynamic=False, mode=mode)
        )
        return fresh_result(made) if mode else made

    return {
        REFERENCE: lambda: plain(network, device, torch.float32),
        "eager fp32 TF32, channels last": lambda: tf32(plain(network, device, torch.float32, channels_last=True)),
        "eager fp16, channels last": lambda: plain(network, device, torch.float16, channels_last=True),
        "compiled fp16, channels last": lambda: compiled(plain(network, device, torch.float16, channels_last=True)),
        "+ BatchNorm and scale folded": lambda: compiled(folded(network, device)),
        "+ folded, CUDA graph": lambda: compiled(folded(network, device), "reduce-overhead"),
        "+ folded, max-autotune": lambda: compiled(folded(network, device), "max-autotune"),
        "+ folded, 8 input channels": lambda: compiled(folded(network, device, input_channels=8)),
        "+ folded, as 2D convolutions": lambda: compiled(as_2d(network, device)),
        "+ folded, 2D, CUDA graph": lambda: compiled(as_2d(network, device), "reduce-overhead"),
        "+ folded, 2D, max-autotune": lambda: compiled(as_2d(network, device), "max-autotune"),
    }


def fresh_result(run: Run) -> Run:
    """CUDA graphs write every result to the same memory: mark each call as a new step and copy the result out."""

    def call(clips: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return run(clips).clone()

    return call


def tf32(run: Run) -> Run:
    """With TF32 allowed for this call only."""

    def call(clips: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            return run(clips)

    return call


def copied(network: nn.Module) -> Cnn3d:
    """The same network with tensors of its own."""
    made = Cnn3d(NUM_CLASSES)
    made.load_state_dict(network.state_dict())
    return made.eval()


def plain(network: nn.Module, device: str, dtype: torch.dtype, *, channels_last: bool = False) -> Run:
    """The network as it is deployed: normalise, three layers, softmax."""
    normalise = Normalise(MEAN, STD).to(device, dtype)
    made = copied(network).to(device, dtype)
    if channels_last:
        made = made.to(memory_format=CHANNELS_LAST)

    def run(clips_BCTHW: Tensor) -> Tensor:
        normal_BCTHW = normalise(clips_BCTHW)
        if channels_last:
            normal_BCTHW = normal_BCTHW.contiguous(memory_format=CHANNELS_LAST)
        return made(normal_BCTHW).float().softmax(1)

    return run


def folded_weights(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Weight [out, in, 3, 3, 3] and bias [out] of each layer in float32.

    BatchNorm is folded into all; 1 / (255 std) into the first, which then takes clips minus 255 mean. The mean itself
    is not folded into the bias: the padding is zero after it is subtracted, so that would be wrong at the borders.
    """
    modules = list(copied(network).features)
    layers = []
    for conv, norm in zip(modules[0::4], modules[1::4], strict=True):
        assert isinstance(conv, nn.Conv3d)
        assert isinstance(norm, nn.BatchNorm3d)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        layers.append(
            ((conv.weight * scale.view(-1, 1, 1, 1, 1)).detach(), (norm.bias - norm.running_mean * scale).detach())
        )
    weight, bias = layers[0]
    layers[0] = (weight / (255 * torch.tensor(STD)).view(1, 3, 1, 1, 1), bias)
    return layers


def folded(network: nn.Module, device: str, *, input_channels: int = 3) -> Run:
    """Half precision, channels last, nothing between convolution and pooling but bias and ReLU.

    `input_channels` 8 adds channels of zeros: tensor cores take their operands in groups of eight.
    """
    layers = [(weight.to(device).half(), bias.to(device).half()) for weight, bias in folded_weights(network)]
    added = input_channels - 3
    layers[0] = (F.pad(layers[0][0], (0, 0, 0, 0, 0, 0, 0, added)), layers[0][1])
    layers = [(weight.contiguous(memory_format=CHANNELS_LAST), bias) for weight, bias in layers]
    mean = (255 * torch.tensor(MEAN, device=device)).view(1, 3, 1, 1, 1)
    head = copied(network).head.to(device).half()

    def run(clips_BCTHW: Tensor) -> Tensor:
        # Subtracted in float32: 255 mean is no number of float16.
        features = (clips_BCTHW.float() - mean).half()
        if added:
            features = F.pad(features, (0, 0, 0, 0, 0, 0, 0, added))
        features = features.contiguous(memory_format=CHANNELS_LAST)
        for weight, bias in layers:
            features = F.max_pool3d(F.relu(F.conv3d(features, weight, bias, padding=1)), (1, 2, 2))
        return head(features.mean(dim=(2, 3, 4))).float().softmax(1)

    return run


def as_2d(network: nn.Module, device: str) -> Run:
    """Each 3D convolution as a 2D one over three neighbouring frames stacked as channels: other kernels, same sums."""
    layers = [
        (
            # [out, in, 3, 3, 3] -> [out, 3 x in, 3, 3], the offset in time outermost
            weight.permute(0, 2, 1, 3, 4).flatten(1, 2).to(device).half().contiguous(memory_format=torch.channels_last),
            bias.to(device).half(),
        )
        for weight, bias in folded_weights(network)
    ]
    mean = (255 * torch.tensor(MEAN, device=device)).view(1, 1, 3, 1, 1)
    head = copied(network).head.to(device).half()

    def run(clips_BCTHW: Tensor) -> Tensor:
        batch, _, frames, _, _ = clips_BCTHW.shape
        features_BTCHW = (clips_BCTHW.transpose(1, 2).float() - mean).half()
        for weight, bias in layers:
            padded = F.pad(features_BTCHW, (0, 0, 0, 0, 0, 0, 1, 1))
            stacked = torch.cat([padded[:, offset : offset + frames] for offset in range(3)], dim=2)
            stacked = stacked.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            layer = F.max_pool2d(F.relu(F.conv2d(stacked, weight, bias, padding=1)), 2)
            features_BTCHW = layer.unflatten(0, (batch, frames))
        return head(features_BTCHW.mean(dim=(1, 3, 4))).float().softmax(1)

    return run


# --- ONNX Runtime ------------------------------------------------------------------------------------


def onnx_variants(
    network: nn.Module, clip_CTHW: tuple[int, ...], scratch: Path, device: str
) -> dict[str, Callable[[], Run]]:
    """float32 and float16 in ONNX Runtime, bound to memory of the device; none where a package is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"left out: ONNX Runtime, as {', '.join(missing)} is not installed")
        return {}
    import onnx
    import onnxruntime as ort
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if device == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            print("left out: ONNX Runtime, as the installed one is built without CUDA (install onnxruntime-gpu)")
            return {}
        ort.preload_dlls()

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalise, self.network = Normalise(MEAN, STD), copied(network)

        def forward(self, clips_BCTHW: Tensor) -> Tensor:
            return self.network(self.normalise(clips_BCTHW)).float().softmax(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Deployed().eval(),
            (torch.zeros((2, *clip_CTHW), dtype=torch.uint8),),
            dynamo=True,
            opset_version=20,
            input_names=["clips"],
            output_names=["scores"],
            dynamic_shapes={"clips_BCTHW": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    fp32, fp16 = scratch / "fp32.onnx", scratch / "fp16.onnx"
    onnx.save(program.model_proto, fp32)
    onnx.save(convert_float_to_float16(onnx.load(fp32), keep_io_types=True), fp16)

    def session(path: Path, **provider_options: str) -> Run:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        wanted = ("CUDAExecutionProvider", provider_options) if device == "cuda" else "CPUExecutionProvider"
        made = ort.InferenceSession(str(path), options, providers=[wanted])
        if device == "cuda" and made.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError("ONNX Runtime could not load its CUDA libraries")

        def run(clips: Tensor) -> Tensor:
            scores = torch.empty((len(clips), NUM_CLASSES), dtype=torch.float32, device=clips.device)
            binding = made.io_binding()
            binding.bind_input("clips", device, 0, np.uint8, tuple(clips.shape), clips.data_ptr())
            binding.bind_output("scores", device, 0, np.float32, tuple(scores.shape), scores.data_ptr())
            made.run_with_iobinding(binding)
            return scores

        return run

    nhwc = {"prefer_nhwc": "1"} if device == "cuda" else {}
    search = {"cudnn_conv_algo_search": "EXHAUSTIVE"} if device == "cuda" else {}
    return {
        "ONNX Runtime fp32": lambda: session(fp32, **search),
        "ONNX Runtime fp16": lambda: session(fp16, **search),
        "ONNX Runtime fp16 prefer_nhwc": lambda: session(fp16, **search, **nhwc),
    }


# --- measuring ---------------------------------------------------------------------------------------


def measure_batch(
    variants: dict[str, Callable[[], Run]],
    batch: int,
    clip_CTHW: tuple[int, ...],
    rounds: int,
    device: str,
    least: float,
) -> None:
    """Print one table: every variant at that batch size."""
    clips = torch.randint(0, 256, (batch, *clip_CTHW), dtype=torch.uint8, device=device)
    runs: dict[str, Run] = {}
    difference: dict[str, float] = {}
    ready: dict[str, float] = {}
    expected = None
    with torch.inference_mode():
        for name, make in variants.items():
            began = time.perf_counter()
            try:
                run = make()
                for _ in range(4):  # CUDA graphs record at the second and third call
                    scores = run(clips)
                scores = scores.cpu()
            except Exception as error:  # noqa: BLE001 - one variant that this GPU refuses costs its row only
                print(f"{name}: left out, {type(error).__name__}: {str(error).strip().splitlines()[0][:140]}")
                continue
            ready[name] = time.perf_counter() - began
            expected = scores if expected is None else expected
            difference[name] = float((scores - expected).abs().max())
            runs[name] = run
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(seconds(run, clips, device))
    middle = {name: statistics.median(values) for name, values in times.items()}
    base = middle.get("ONNX Runtime fp32")
    print(f"\nbatch {batch}, {rounds} rounds")
    print(
        f"{'variant':34} {'ms':>8} {'clips/s':>9} {'x ORT fp32':>10} {'of roofline':>11} {'max |diff|':>10} "
        f"{'ready s':>8}"
    )
    for name, value in middle.items():
        against = f"{base / value:10.2f}" if base else f"{'-':>10}"
        print(
            f"{name:34} {1e3 * value:8.3f} {batch / value:9,.0f} {against} {least * batch / value:11.1%} "
            f"{difference[name]:10.1e} {ready[name]:8.1f}"
        )


def seconds(run: Run, clips: Tensor, device: str) -> float:
    """Seconds of one call, from an idle device to an idle device, over several calls in a row."""
    calls = 5
    if device == "cpu":
        began = time.perf_counter()
        for _ in range(calls):
            run(clips)
        return (time.perf_counter() - began) / calls
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        run(clips)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls


def measure_ceilings(device: str, *, smoke: bool) -> tuple[float, float]:
    """FLOP a second of a large float16 matmul and bytes a second of a large copy, read and written."""
    side, length = (256, 1 << 16) if smoke else (8192, 1 << 30)
    left = torch.randn((side, side), device=device, dtype=torch.float32).half()
    right = torch.randn((side, side), device=device, dtype=torch.float32).half()
    source = torch.randint(0, 255, (length,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    for _ in range(3):
        left @ right
        target.copy_(source)
    matmul = min(seconds(lambda _: left @ right, source, device) for _ in range(5))
    copy = min(seconds(lambda _: target.copy_(source), source, device) for _ in range(5))
    flop_s, bytes_s = 2 * side**3 / matmul, 2 * length / copy
    print(f"ceilings measured: {flop_s / 1e12:,.1f} TFLOP/s (matmul {side}, float16), {bytes_s / 1e12:.2f} TB/s (copy)")
    return flop_s, bytes_s


def roofline(network: nn.Module, clip_CTHW: tuple[int, ...], ceilings: tuple[float, float]) -> float:
    """Least seconds a clip; prints what they are made of."""
    flop = 0.0
    _, frames, height, width = clip_CTHW
    moved = float(np.prod(clip_CTHW))  # the uint8 clip is read once
    unfused = moved
    channels_in = 3
    for module in network.modules():
        if not isinstance(module, nn.Conv3d):
            continue
        places = frames * height * width
        flop += 2 * 27 * channels_in * module.out_channels * places
        # Read by the layer (the first one reads the uint8 clip), written after pooling; two bytes a number.
        read = 2 * channels_in * places
        written = 2 * module.out_channels * frames * (height // 2) * (width // 2)
        moved += written + (0 if channels_in == 3 else read)
        # Before the pooling once written and once read; the float16 clip written once and read once.
        unfused += 2 * 2 * module.out_channels * places + written + read + (read if channels_in == 3 else 0)
        height, width, channels_in = height // 2, width // 2, module.out_channels
    compute, memory = flop / ceilings[0], moved / ceilings[1]
    least = max(compute, memory)
    print(
        f"a clip: {flop / 1e9:.2f} GFLOP ({1e6 * compute:.2f} us), {moved / 1e6:.1f} MB with ReLU and pooling fused "
        f"({1e6 * memory:.2f} us), {unfused / 1e6:.1f} MB without ({1e6 * unfused / ceilings[1]:.2f} us); bound by "
        f"{'arithmetic' if compute > memory else 'memory'}: {1 / least:,.0f} clips/s at most"
    )
    return least


def predictors(
    network: nn.Module, clip_CTHW: tuple[int, ...], batches: list[int], rounds: int, scratch: Path, *, smoke: bool
) -> None:
    """The predictors of `open_model`, from uint8 clips in NumPy to scores in NumPy."""
    try:
        from har_assets.errors import HarError
        from har_assets.model.lightning import VideoActionModel
        from har_assets.model.spec import ModelSpec
        from har_assets.runtime.checkpoint import CheckpointPredictor, CompiledPredictor
    except ImportError as error:
        print(f"\nleft out: the predictors of open_model, as {error.name} is not installed")
        return
    _, frames, height, width = clip_CTHW
    spec = ModelSpec(
        labels=tuple(f"class {number}" for number in range(NUM_CLASSES)),
        num_frames=frames,
        frame_height=height,
        frame_width=width,
    )
    model = VideoActionModel.from_spec(spec)
    model.network.load_state_dict(network.state_dict())
    checkpoint = scratch / "model.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, checkpoint)
    device = "cpu" if smoke else "cuda"
    makers: dict[str, Callable] = {
        "pytorch": lambda: CheckpointPredictor(checkpoint, device=device),
        "pytorch_compiled": lambda: CompiledPredictor(checkpoint, device=device, compiled=not smoke),
    }
    try:
        from har_assets.export.onnx import export_onnx
        from har_assets.runtime.onnx import OnnxPredictor

        onnx = export_onnx(checkpoint, scratch / "model.onnx")
        makers["onnxruntime"] = lambda: OnnxPredictor(onnx, provider="CPU" if smoke else "CUDA")
    except ImportError as error:
        print(f"\nleft out: the ONNX predictor, as {error.name} is not installed")
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except HarError as error:
            print(f"\nleft out: {name}: {error}")
    print("\npredictors, from NumPy to NumPy: clips/s")
    for batch in batches:
        clips_BCTHW = np.random.default_rng(0).integers(0, 256, (batch, *clip_CTHW), np.uint8)
        times: dict[str, list[float]] = {name: [] for name in made}
        for predictor in made.values():
            predictor.predict(clips_BCTHW)
        for _ in range(rounds):
            for name, predictor in made.items():
                began = time.perf_counter()
                predictor.predict(clips_BCTHW)
                times[name].append(time.perf_counter() - began)
        rates = {name: batch / statistics.median(values) for name, values in times.items()}
        print(f"  batch {batch:3}  " + "  ".join(f"{made[name].runtime} {rate:,.0f}" for name, rate in rates.items()))


if __name__ == "__main__":
    main()
