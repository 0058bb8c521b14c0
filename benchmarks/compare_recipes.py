"""Recipes for cnn3d on the built-in sample, three seeds each: how the defaults of trained_checkpoint were chosen.

    python benchmarks/compare_recipes.py --data sample --jobs 8      a minute a seed and recipe on two cores

Each line changes one thing of the defaults. Test top-1 is by video, the mean of four windows, on films that
were not trained on. `docs/recipes.md` has what it printed.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sample_data import sample_data, train_and_test

from har_assets.video.frame_cache import CacheParams

CACHE = CacheParams(36, 48, 2, 64)
SPEC = {"network": "cnn3d", "num_frames": 16, "frame_height": 32, "frame_width": 32}
DEFAULTS: dict[str, Any] = {"epochs": 30, "batch_size": 8, "recipe": {"learning_rate": 3e-3}}

CHANGES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "learning rate 1e-3": {"recipe": {"learning_rate": 1e-3}},
    "learning rate 1e-2": {"recipe": {"learning_rate": 1e-2}},
    "constant rate 1e-3": {"recipe": {"learning_rate": 1e-3, "schedule": "constant"}},
    "cosine, warm-up 0.1": {"recipe": {"schedule": "cosine", "warmup": 0.1}},
    "adamw, decay 0.05": {"recipe": {"optimizer": "adamw", "weight_decay": 0.05}},
    "batch 16": {"batch_size": 16},
    "label smoothing 0.1": {"recipe": {"label_smoothing": 0.1}},
    "dropout 0.3": {"recipe": {"dropout": 0.3}},
    "no flip": {"recipe": {"flip": False}},
    "no brightness": {"recipe": {"brightness": 0.0}},
    "zoom 0.2": {"recipe": {"zoom": 0.2}},
    "saturation 0.3": {"recipe": {"saturation": 0.3}},
    "stride 1 or 2": {"max_stride": 2},
    "gradient clip 1": {"gradient_clip": 1.0},
    "20 epochs": {"epochs": 20},
    "single frames": {"still_frames": True},
}


def one(task: tuple[str, int, str, int]) -> tuple[str, int, float, float]:
    """Train one recipe with one seed."""
    name, seed, folder, threads = task
    import torch

    torch.set_num_threads(threads)
    change = CHANGES[name]
    request = {**DEFAULTS, **change, "recipe": {**DEFAULTS["recipe"], **change.get("recipe", {})}, "seed": seed}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        top1, _ = train_and_test(sample_data(Path(folder)), Path(work), CACHE, SPEC, {**request, "compile": "off"})
    return name, seed, top1, time.monotonic() - started


def main() -> None:
    """Train all and print one line a recipe."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="sample", help="folder of the sample, made where missing")
    arguments.add_argument("--jobs", type=int, default=1)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", nargs="*", default=list(CHANGES))
    options = arguments.parse_args()
    sample_data(Path(options.data)).cache(CACHE)
    threads = max(1, len(os.sched_getaffinity(0)) // options.jobs)
    tasks = [(name, seed, options.data, threads) for name in options.only for seed in range(options.seeds)]
    found: dict[str, list[float]] = {name: [] for name in options.only}
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for name, _, top1, _ in pool.imap_unordered(one, tasks):
            found[name].append(top1)
            if len(found[name]) == options.seeds:
                seeds = ", ".join(f"{each:.3f}" for each in sorted(found[name]))
                print(f"{name:24} test top-1 {statistics.mean(found[name]):.3f} (seeds: {seeds})", flush=True)


if __name__ == "__main__":
    main()
