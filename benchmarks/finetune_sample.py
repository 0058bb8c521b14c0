"""Fine-tuning i3d from its Kinetics weights on the built-in sample: test top-1 and epochs.

    python -m benchmarks.finetune_sample --data sample

The sample is small and synthetic: this shows that weights, rates and frozen statistics work together.
"""

import argparse
import tempfile
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


def main() -> None:
    """Train and print one line a way to start."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="sample", help="folder of the sample, made where missing")
    arguments.add_argument("--network", default="i3d")
    arguments.add_argument("--size", type=int, default=112, help="height and width of the clips")
    arguments.add_argument("--frames", type=int, default=16)
    arguments.add_argument("--epochs", type=int, default=6)
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--learning-rate", type=float, default=1e-3)
    arguments.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    options = arguments.parse_args()
    data = sample_data(Path(options.data))
    params = CacheParams(options.size * 8 // 7, options.size * 8 // 7 * 4 // 3, 2, 64)
    spec = {
        "network": options.network,
        "num_frames": options.frames,
        "frame_height": options.size,
        "frame_width": options.size,
    }
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(pretrained_state(options.network)[0], weights)
        for name in options.only:
            request = {
                "epochs": options.epochs,
                "batch_size": options.batch_size,
                "recipe": {"learning_rate": options.learning_rate, **WAYS[name]},
                "compile": "off",  # compiling I3D takes longer than training it on so few clips
                "pretrained": "" if name == "from scratch" else str(weights),
            }
            top1, summary = train_and_test(data, Path(folder) / name, params, spec, request)
            print(
                f"{options.network} {options.frames}x{options.size}x{options.size} {name}: test top-1 {top1:.3f} after "
                f"{options.epochs} epochs, {summary['seconds']:.0f} s on {summary['device']}, best epoch "
                f"{summary['best_epoch'] + 1}",
                flush=True,
            )


if __name__ == "__main__":
    main()
