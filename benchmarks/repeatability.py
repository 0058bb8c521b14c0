"""`deterministic: true` of a training: are two runs bit-equal, and what does it cost?

    python -m benchmarks.repeatability [--network cnn3d] [--epochs 4]

Trains twice with it and twice without on random clips from a frame cache, and compares all weights.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.bench_training import write_cache
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.training.fit import device_name, fit
from har_assets.training.request import TrainingRequest


def main() -> None:
    """Train and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--network", default="cnn3d")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--frames", type=int, default=16)
    arguments.add_argument("--size", type=int, default=112)
    arguments.add_argument("--clips", type=int, default=640)
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--compile", default="auto")
    options = arguments.parse_args()
    spec = ModelSpec(
        labels=tuple(f"class{number}" for number in range(51)), network=options.network, num_frames=options.frames,
        frame_stride=2, decode_height=options.size * 8 // 7, decode_width=options.size * 8 // 7 * 4 // 3,
        frame_height=options.size, frame_width=options.size,
    )  # fmt: skip
    print(f"{device_name()}, PyTorch {torch.__version__}, {options.network}, compile {options.compile}")
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        write_cache(cache, options.clips, spec.decode_height, spec.decode_width)
        for deterministic in (True, False):
            states, rates = [], []
            for repeat in range(2):
                work = Path(name) / f"work-{deterministic}-{repeat}"
                request = TrainingRequest(
                    work=str(work), spec=spec.to_json(), provenance=Provenance(dataset="random").to_json(),
                    manifests={role: str(cache / f"{role}.csv") for role in ("train", "val")},
                    frame_cache=str(cache), epochs=options.epochs, batch_size=options.batch,
                    deterministic=deterministic, compile=options.compile,
                )  # fmt: skip
                fit(request, lambda line: None)
                states.append(torch.load(work / "model.ckpt", map_location="cpu", weights_only=True)["state_dict"])
                epochs = [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()][1:]
                rates.append(statistics.median(epoch["clips_per_second"] for epoch in epochs))
            differing = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
            verdict = "bit-equal" if not differing else f"{len(differing)} of {len(states[0])} tensors differ"
            print(f"deterministic {deterministic}: {verdict}; {statistics.mean(rates):,.0f} clips/s", flush=True)


if __name__ == "__main__":
    main()
