"""`deterministic: true` of a training: are two runs bit-equal, also one that was killed, and what does it cost?

    python -m benchmarks.repeatability [--network cnn3d] [--epochs 4] [--devices 1]

Trains on random clips from a frame cache, with a tenth of them for validation, in processes as trained_checkpoint
starts them: twice with it, once with it and a kill -9 after half of the epochs and the same command again, twice
without. Compares all weights and the metrics of the last epoch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_training import write_cache
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.training.fit import device_name
from har_assets.training.request import TrainingRequest


def train(request: TrainingRequest, kill_after: int = 0) -> dict[str, Any]:
    """Train in a process of its own, with a kill -9 and a second start after that many epochs; its results."""
    work = Path(request.work)
    work.mkdir()
    command = [sys.executable, "-m", "har_assets.training", str(request.write(work / "request.json"))]
    log = (work / "log.txt").open("a")
    if kill_after:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(f"epoch {kill_after + 1}/"):
                    process.kill()
                    break
        if process.returncode != -9:
            sys.exit(f"The training ended with {process.returncode} before it could be killed:\n{read_log(work)}")
    if subprocess.run(command, stdout=log, stderr=log, check=False).returncode:
        sys.exit(read_log(work))
    epochs = [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()]
    return {
        "state": torch.load(work / "model.ckpt", map_location="cpu", weights_only=True)["state_dict"],
        "metrics": {name: epochs[-1][name] for name in ("train_loss", "train_top1", "val_loss", "val_top1")},
        "rate": statistics.median(epoch["clips_per_second"] for epoch in epochs[1:]),
    }


def read_log(work: Path) -> str:
    """The end of what a training has said."""
    return (work / "log.txt").read_text()[-3000:]


def compare(first: dict[str, Any], second: dict[str, Any]) -> str:
    """How the weights and the last metrics of two trainings differ, in words."""
    states = first["state"], second["state"]
    differing = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
    weights = "weights bit-equal" if not differing else f"{len(differing)} of {len(states[0])} tensors differ"
    same = first["metrics"] == second["metrics"]
    return f"{weights}, metrics of the last epoch {'equal' if same else 'differ'}"


def main() -> None:
    """Train and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--network", default="cnn3d")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--frames", type=int, default=16)
    arguments.add_argument("--size", type=int, default=112)
    arguments.add_argument("--clips", type=int, default=640)
    arguments.add_argument("--epochs", type=int, default=4)
    arguments.add_argument("--devices", type=int, default=1)
    arguments.add_argument("--compile", default="auto")
    options = arguments.parse_args()
    spec = ModelSpec(
        labels=tuple(f"class{number}" for number in range(51)),
        network=options.network,
        num_frames=options.frames,
        frame_stride=2,
        decode_height=options.size * 8 // 7,
        decode_width=options.size * 8 // 7 * 4 // 3,
        frame_height=options.size,
        frame_width=options.size,
    )
    print(f"{options.devices} x {device_name()}, PyTorch {torch.__version__}, {options.network}, {options.compile}")
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        write_cache(cache, options.clips, spec.decode_height, spec.decode_width, val_clips=options.clips // 10)
        request = TrainingRequest(
            work="",
            spec=spec.to_json(),
            provenance=Provenance(dataset="random").to_json(),
            manifests={role: str(cache / f"{role}.csv") for role in ("train", "val")},
            frame_cache=str(cache),
            epochs=options.epochs,
            batch_size=options.batch,
            devices=options.devices,
            compile=options.compile,
        )
        for deterministic in (True, False):
            found = [
                train(
                    request.model_copy(update={"work": f"{name}/{deterministic}-{n}", "deterministic": deterministic})
                )
                for n in range(2)
            ]
            rate = statistics.mean(each["rate"] for each in found)
            print(f"deterministic {deterministic}: {compare(*found)}; {rate:,.0f} clips/s", flush=True)
            if deterministic:
                request_killed = request.model_copy(update={"work": f"{name}/killed", "deterministic": True})
                killed = train(request_killed, kill_after=options.epochs // 2)
                print(f"the same, killed with -9 on the way: {compare(found[0], killed)}", flush=True)


if __name__ == "__main__":
    main()
