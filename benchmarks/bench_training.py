"""Training throughput: the whole loop from the frame cache against the same step on data already on the device.

    python -m benchmarks.bench_training                              cnn3d, batch 64, 16x112x112, one GPU
    python -m benchmarks.bench_training --network i3d --batch 16 --frames 32 --size 224 --cache 240 320
    python -m benchmarks.bench_training --devices 2                  also two GPUs against one
    python -m benchmarks.bench_training --smoke                      tiny, on a CPU: does it run?

The cache holds random frames in the shape of HMDB51 (128x171, 45 cached frames a clip). Three figures, each a
median: a float32 eager step as a plain loop has it; our step (precision, memory format and compilation as
chosen for this device) on one batch that stays on the device, without Lightning; whole epochs from the cache in
the process that trained_checkpoint starts, validation and checkpoints apart, the first epoch (compilation) left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from har_assets.model.augment import Draw
from har_assets.model.lightning import VideoActionModel
from har_assets.model.networks import order_weights
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.training.fit import choose_compile, choose_precision, compile_model, device_name
from har_assets.training.request import TrainingRequest

FRAMES_A_CLIP = 45


def write_cache(folder: Path, clips: int, height: int, width: int, *, val_clips: int = 0) -> None:
    """A frame cache and manifests of random frames; every clip is its own stretch of the packs.

    The first `val_clips` of them are in val.csv, too.
    """
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(
        json.dumps({"height": height, "width": width, "stride": 2, "max_frames": 64, "rule": "cover-bilinear-1"})
    )
    per_pack = max(1, (1 << 30) // (FRAMES_A_CLIP * height * width * 3))
    noise = np.random.default_rng(0).integers(0, 256, 1 << 26, dtype=np.uint8)
    rows = ["clip,sha256,pack,first_frame,num_frames,fps,source_frames,decoder,note"]
    table = ["clip,label,label_index,film,split,role,bytes"]
    for number in range(clips):
        pack, place = divmod(number, per_pack)
        if place == 0:
            shape = (min(per_pack, clips - number) * FRAMES_A_CLIP, height, width, 3)
            np.save(folder / f"frames-{pack}.npy", np.resize(noise, shape))
        name = f"class{number % 51}/clip{number}.avi"
        rows.append(f"{name},{number:064x},frames-{pack}.npy,{place * FRAMES_A_CLIP},{FRAMES_A_CLIP},30,90,decord,")
        table.append(f"{name},class{number % 51},{number % 51},film{number},1,train,1")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    (folder / "quarantine.csv").write_text("clip,reason\n")
    (folder / "train.csv").write_text("\n".join(table) + "\n")
    (folder / "val.csv").write_text("\n".join(table[: 1 + val_clips]) + "\n")


def median_rate(step: Callable[[], object], batch: int, steps: int) -> float:
    """Clips a second, the median of `steps` groups of five steps after ten to warm up."""
    cuda = torch.cuda.is_available()
    times = []
    for number in range(2 + steps):
        started = time.perf_counter()
        for _ in range(5):
            step()
        if cuda:
            torch.cuda.synchronize()
        if number >= 2:
            times.append((time.perf_counter() - started) / 5)
    return batch / statistics.median(times)


def plain_step(spec: ModelSpec, batch: int, device: str) -> Callable[[], object]:
    """Float32, default memory format, eager, float clips on the device: what the plain loop does."""
    model = VideoActionModel.from_spec(spec).network.to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    clips_BCTHW = torch.randn((batch, *spec.clip_shape_CTHW), device=device)
    labels_B = torch.randint(spec.num_classes, (batch,), device=device)

    def step() -> None:
        loss = F.cross_entropy(model(clips_BCTHW), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def resident_step(spec: ModelSpec, batch: int, device: str) -> Callable[[], object]:
    """Our step on one uint8 batch of whole cached frames that stays on the device."""
    precision, _ = choose_precision("auto")
    model = VideoActionModel.from_spec(spec).to(device)
    order_weights(model.network)
    if choose_compile("auto")[0]:
        compile_model(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=device == "cuda")
    frames_BTHWC = torch.randint(
        256, (batch, spec.num_frames, spec.decode_height, spec.decode_width, 3), dtype=torch.uint8, device=device
    )
    clips_BCTHW = frames_BTHWC.permute(0, 4, 1, 2, 3)
    labels_B = torch.randint(spec.num_classes, (batch,), device=device)
    draws_BD = torch.rand((batch, len(Draw)), device=device)
    may_flip_K = torch.ones(spec.num_classes, dtype=torch.bool, device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss, _ = model.losses(
                model.network,
                model.normalise,
                clips_BCTHW,
                labels_B,
                draws_BD,
                may_flip_K,
                height=spec.frame_height,
                width=spec.frame_width,
                zoom=0.0,
                brightness=0.2,
                saturation=0.0,
                label_smoothing=0.0,
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--network", default="cnn3d")
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--frames", type=int, default=16)
    arguments.add_argument("--size", type=int, default=112)
    arguments.add_argument("--cache", type=int, nargs=2, default=(128, 171), metavar=("HEIGHT", "WIDTH"))
    arguments.add_argument("--clips", type=int, default=3570)
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--devices", type=int, default=1, help="then also with so many GPUs together")
    arguments.add_argument("--threads", type=int, default=0)
    arguments.add_argument("--only", choices=("steps", "loops"), help="the bare steps, or the loops")
    arguments.add_argument("--smoke", action="store_true")
    options = arguments.parse_args()
    if options.smoke:
        options.batch, options.size, options.cache, options.clips, options.epochs = 4, 16, (20, 24), 32, 3
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = ModelSpec(
        labels=tuple(f"class{number}" for number in range(51)),
        network=options.network,
        num_frames=options.frames,
        frame_stride=2,
        decode_height=options.cache[0],
        decode_width=options.cache[1],
        frame_height=options.size,
        frame_width=options.size,
    )
    clip = f"{options.network}, batch {options.batch}, {options.frames}x{options.size}x{options.size}"
    print(f"{device_name()}, PyTorch {torch.__version__}, {clip}")
    if options.only != "loops":
        plain = median_rate(plain_step(spec, options.batch, device), options.batch, 5)
        print(f"float32 eager step, clips on the device: {plain:,.0f} clips/s", flush=True)
        resident = median_rate(resident_step(spec, options.batch, device), options.batch, 10)
        print(f"our step, cached frames on the device:   {resident:,.0f} clips/s, {resident / plain:.1f} x", flush=True)
        torch.cuda.empty_cache()
    if options.only == "steps":
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cache(folder / "cache", options.clips, *options.cache)
        request = TrainingRequest(
            work="",
            spec=spec.to_json(),
            provenance=Provenance(dataset="random").to_json(),
            manifests={role: str(folder / "cache" / f"{role}.csv") for role in ("train", "val")},
            frame_cache=str(folder / "cache"),
            epochs=options.epochs,
            batch_size=options.batch,
            schedule="constant",
            threads=options.threads,
        )
        rates = {}
        for devices in sorted({1, options.devices}):
            work = folder / f"work-{devices}"
            work.mkdir()
            file = request.model_copy(update={"work": str(work), "devices": devices}).write(work / "request.json")
            subprocess.run([sys.executable, "-m", "har_assets.training", str(file)], check=True)
            rates[devices], waited = rate_of(work)
            compared = ""
            if devices > 1:
                compared = f"{rates[devices] / rates[1]:.2f} x one, "
            elif options.only != "loops":
                compared = f"{rates[1] / resident:.0%} of our step, {rates[1] / plain:.1f} x the float32 eager step, "
            print(
                f"whole loop from the frame cache on {devices}:    {rates[devices]:,.0f} clips/s, {compared}"
                f"{waited:.0%} of the time waiting for data",
                flush=True,
            )


def rate_of(work: Path) -> tuple[float, float]:
    """Clips a second and share of the time waiting for data, medians of the epochs after the first."""
    epochs = [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()][1:]
    rate = statistics.median(epoch["clips_per_second"] for epoch in epochs)
    return rate, statistics.median(epoch["data_seconds"] / epoch["seconds"] for epoch in epochs)


if __name__ == "__main__":
    main()
