"""Recipes for cnn3d on the built-in sample, three seeds each: how the defaults of trained_checkpoint were chosen.

    python -m benchmarks.compare_recipes --data sample --jobs 8      a minute a seed and recipe on two cores

Each line changes one thing of the defaults. The validation top-1 is what a choice may rest on: one window a clip,
of the epoch that is kept. The test top-1, by video and the mean of four windows, is for the reader; both are of
films that were not trained on. `docs/recipes.md` has what it printed.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.sample_data import sample_data, train_and_test
from har_assets.video.frame_cache import CacheParams

CACHE = CacheParams(36, 48, 2, 64)
SPEC = {"network": "cnn3d", "num_frames": 16, "frame_height": 32, "frame_width": 32}
DEFAULTS: dict[str, Any] = {"epochs": 30, "batch_size": 8, "learning_rate": 3e-3}

CHANGES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 1e-2": {"learning_rate": 1e-2},
    "constant rate 1e-3": {"learning_rate": 1e-3, "schedule": "constant"},
    "cosine, warm-up 0.1": {"schedule": "cosine", "warmup": 0.1},
    "adamw, decay 0.05": {"optimizer": "adamw", "weight_decay": 0.05},
    "batch 16": {"batch_size": 16},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "dropout 0.3": {"dropout": 0.3},
    "no flip": {"flip": False},
    "no brightness": {"brightness": 0.0},
    "zoom 0.2": {"zoom": 0.2},
    "saturation 0.3": {"saturation": 0.3},
    "stride 1 or 2": {"max_stride": 2},
    "gradient clip 1": {"gradient_clip": 1.0},
    "20 epochs": {"epochs": 20},
    "ema 0.98": {"ema": 0.98},
    "20 epochs, ema 0.98": {"epochs": 20, "ema": 0.98},
    "20 epochs, ema 0.9": {"epochs": 20, "ema": 0.9},
    "20 epochs, constant rate 3e-3": {"epochs": 20, "schedule": "constant"},
    "20 epochs, constant rate 3e-3, ema 0.98": {"epochs": 20, "ema": 0.98, "schedule": "constant"},
    "single frames": {"still_frames": True},
}


def one(task: tuple[str, int, str, int]) -> tuple[str, float, float]:
    """Train one recipe with one seed; its validation and test top-1."""
    name, seed, folder, threads = task
    import torch

    torch.set_num_threads(threads)
    request = {**DEFAULTS, **CHANGES[name], "seed": seed}
    with tempfile.TemporaryDirectory() as work:
        top1, summary = train_and_test(
            sample_data(Path(folder)), Path(work), CACHE, SPEC, {**request, "compile": "off"}
        )
    return name, summary["val_top1"], top1


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
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for name, *top1 in pool.imap_unordered(one, tasks):
            found[name].append((top1[0], top1[1]))
            if len(found[name]) == options.seeds:
                columns = [
                    f"{role} top-1 {statistics.mean(each):.3f} ({', '.join(f'{one:.3f}' for one in sorted(each))})"
                    for role, each in zip(("validation", "test"), zip(*found[name], strict=True), strict=True)
                ]
                print(f"{name:40} {'  '.join(columns)}", flush=True)


if __name__ == "__main__":
    main()
