"""Training on a CPU beside a busy program: PyTorch's threads as they spin by default, and as har_assets sets them.

    python -m benchmarks.bench_shared_cores [--repeats N]

A step of cnn3d, 8 clips of 16x32x32, in processes of their own; medians of runs that alternate.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

SPINS = {"PyTorch's default": "", "as har_assets sets it": "10000"}
SECONDS = 3.0


def train() -> float:
    """Clips a second of a training step in this process."""
    import torch

    from har_assets.model.lightning import VideoActionModel
    from har_assets.model.spec import ModelSpec

    spec = ModelSpec(
        labels=tuple(f"class{number}" for number in range(8)),
        network="cnn3d",
        num_frames=16,
        frame_stride=2,
        decode_height=36,
        decode_width=48,
        frame_height=32,
        frame_width=32,
    )
    model = VideoActionModel.from_spec(spec)
    optimizer = torch.optim.Adam(model.parameters())
    clips_BCTHW = torch.randint(256, (8, *spec.clip_shape_CTHW), dtype=torch.uint8)
    labels_B = torch.randint(8, (8,))
    steps, began = -3, time.perf_counter()
    while steps < 0 or time.perf_counter() - began < SECONDS:
        if steps == 0:
            began = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(clips_BCTHW), labels_B).backward()
        optimizer.step()
        steps += 1
    return len(labels_B) * steps / (time.perf_counter() - began)


@contextlib.contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Other programs, each of which keeps a core busy."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.here:
        print(train())
        return
    for busy in (0, 1):
        rates: dict[str, list[float]] = {name: [] for name in SPINS}
        with busy_programs(busy):
            for _ in range(options.repeats):
                for name, spins in SPINS.items():
                    # An empty value is no number: libgomp then takes its own.
                    environment = {**os.environ, "GOMP_SPINCOUNT": spins}
                    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_shared_cores", "--here"]
                    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                    rates[name].append(float(done.stdout))
        for name, found in rates.items():
            print(f"{busy} other busy program(s), {name}: {statistics.median(found):.0f} clips/s")


if __name__ == "__main__":
    main()
