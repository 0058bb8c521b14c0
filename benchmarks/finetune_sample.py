"""Fine-tuning i3d from its Kinetics weights on the built-in sample: validation and test top-1, several seeds.

    python -m benchmarks.finetune_sample --data sample
    python -m benchmarks.finetune_sample --data sample --only fine-tuned --learning-rates 1e-3 2e-3 --seeds 3 --jobs 3

One line a way and learning rate. Of several rates, that with the best mean validation top-1 is named at the end
with its test figure: the test clips take no part in the choice. The sample is small and synthetic: this shows that
weights, rates and frozen statistics work together, and says nothing about real videos.
"""

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.sample_data import sample_data, train_and_test
from har_assets.model.pretrained import pretrained_state
from har_assets.video.frame_cache import CacheParams

WAYS: dict[str, dict[str, Any]] = {
    "fine-tuned": {"backbone_rate": 0.1, "batch_norm": "frozen"},
    "head only": {"backbone_rate": 0.0},
    "from scratch": {},
}
"""How a training starts and what of it learns."""


def one(task: tuple[argparse.Namespace, str, str, float, int]) -> tuple[str, float, float, float, str]:
    """Train once; validation and test top-1, seconds and device."""
    options, weights, way, rate, seed = task
    params = CacheParams(options.size * 8 // 7, options.size * 8 // 7 * 4 // 3, 2, 64)
    spec = {
        "network": options.network,
        "num_frames": options.frames,
        "frame_height": options.size,
        "frame_width": options.size,
    }
    request = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": rate,
        **WAYS[way],
        "compile": "off",  # compiling I3D takes longer than training it on so few clips
        "pretrained": "" if way == "from scratch" else weights,
        "seed": seed,
    }
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        top1, summary = train_and_test(sample_data(Path(options.data)), Path(folder) / "work", params, spec, request)
    return f"{way} at {rate:g}", summary["val_top1"], top1, time.monotonic() - started, summary["device"]


def main() -> None:
    """Train all and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="sample", help="folder of the sample, made where missing")
    arguments.add_argument("--network", default="i3d")
    arguments.add_argument("--size", type=int, default=112, help="height and width of the clips")
    arguments.add_argument("--frames", type=int, default=16)
    arguments.add_argument("--epochs", type=int, default=8)
    arguments.add_argument("--batch-size", type=int, default=8)
    arguments.add_argument("--learning-rates", type=float, nargs="+", default=[1e-3])
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--jobs", type=int, default=1, help="trainings at once")
    arguments.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    options = arguments.parse_args()
    data = sample_data(Path(options.data))
    data.cache(CacheParams(options.size * 8 // 7, options.size * 8 // 7 * 4 // 3, 2, 64))
    print(
        f"{options.network} {options.frames}x{options.size}x{options.size}, {options.epochs} epochs, batch "
        f"{options.batch_size}, {options.jobs} training(s) at once"
    )
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(pretrained_state(options.network)[0], weights)
        tasks = [
            (options, str(weights), way, rate, seed)
            for way, rate, seed in itertools.product(options.only, options.learning_rates, range(options.seeds))
        ]
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            for name, validation, test, seconds, device in pool.imap(one, tasks):
                found.setdefault(name, []).append((validation, test))
                print(
                    f"{name}, seed {len(found[name]) - 1}: validation top-1 {validation:.3f}, test top-1 {test:.3f}, "
                    f"{seconds:.0f} s with decoding and testing, on {device}",
                    flush=True,
                )
    mean = {name: tuple(statistics.mean(each) for each in zip(*pairs, strict=True)) for name, pairs in found.items()}
    chosen = max(mean, key=lambda name: mean[name][0])
    validation, test = mean[chosen]
    print(f"best by validation: {chosen}: mean validation top-1 {validation:.3f}, mean test top-1 {test:.3f}")


if __name__ == "__main__":
    main()
