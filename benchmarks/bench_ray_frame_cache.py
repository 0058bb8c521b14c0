"""frame_cache in shards on two nodes of a Ray cluster against one, with the same cores each.

    python -m benchmarks.bench_ray_frame_cache [--cores 1] [--repeats 3] [--shard-clips 20]

Nodes are process trees of this machine, tied to cores of their own by taskset. The parts go through the bucket (moto's
server on loopback), as they do between machines. The sample's 240 videos are on each node before the clock starts. Its
time is that of `build_on_cluster`: shards decoded, parts uploaded, downloaded and merged.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEP = """
import json, sys, time
from pathlib import Path
from har_assets.assets.dataset import data_here
from har_assets.resources.store import ArtifactStore
from har_assets.sharding import build_on_cluster, remove_parts, shards_of
from har_assets.video.frame_cache import CacheParams
import shutil, tempfile

clips, shard_clips = json.loads(sys.argv[1])
store = ArtifactStore()
params = CacheParams(128, 171, 1, 64)
shards = shards_of(dict.fromkeys(clips, ""), params, 120.0, shard_clips)
folder = Path(tempfile.mkdtemp(dir="."))
started = time.perf_counter()
report = build_on_cluster(shards, store=store, params=params, timeout_s=120.0, folder=folder, log=lambda line: None)
seconds = time.perf_counter() - started
remove_parts(store, shards)
shutil.rmtree(folder)
print(json.dumps([seconds, report.clips, report.frames, report.bytes]))
"""


def main() -> None:
    """Print the seconds of one and of two nodes, run by run, and the ratio of their medians."""
    from har_assets.assets.dataset import CLIP_HASHES
    from har_assets_tests.project import Project, log_of
    from har_assets_tests.ray_nodes import ray_cluster
    from har_assets_tests.s3_server import BUCKET, s3_server

    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=int, default=1, help="of each node")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shard-clips", type=int, default=20)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 * options.cores:
        parser.error(f"two nodes of {options.cores} cores need {2 * options.cores}, and there are {len(cores)}")
    with tempfile.TemporaryDirectory() as folder, s3_server() as s3:
        root = Path(folder)
        shared: dict[str, str] = {
            **s3.environment, "HAR_ARTIFACTS": f"s3://{BUCKET}/har", "PYTHONPATH": str(Path.cwd()),
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        project = Project.make(root / "one")
        made = subprocess.run(
            project.command(*project.materialize_arguments("+key:video_clips", {"video_clips": {"dvc": "off"}})),
            cwd=project.folder, env={**project.environment, **shared}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, log_of(made)
        subprocess.run(["cp", "-r", project.folder, root / "two"], check=True)
        listing = json.loads(next((root / "one" / "artifacts" / "video_clips").glob(f"*/{CLIP_HASHES}")).read_text())
        clips = [file["relpath"].removeprefix("videos/") for file in listing if file["relpath"].startswith("videos/")]
        times: dict[int, list[float]] = {1: [], 2: []}
        for count in (1, 2):
            with ray_cluster(root / f"head{count}", {**shared, "HAR_RAY": "http://127.0.0.1:1"}) as cluster:
                for number, name in enumerate(("one", "two")[:count]):
                    own = cores[number * options.cores : (number + 1) * options.cores]
                    cluster.add(root / name, cpus=options.cores, cores=own)
                for repeat in range(options.repeats + 1):
                    seconds, *figures = step(root / "one", cluster, clips, options.shard_clips)
                    if repeat:  # the first also starts the workers
                        times[count].append(seconds)
                        print(f"{count} node(s) of {options.cores} cores: {seconds:.1f} s for {figures[0]} clips, "
                              f"{figures[1]:,} frames, {figures[2] / 1e6:.0f} MB", flush=True)  # fmt: skip
        one, two = (statistics.median(times[count]) for count in (1, 2))
        print(f"two nodes are {one / two:.2f} times as fast as one: medians {one:.1f} s and {two:.1f} s")
        print(f"{len(cores)} cores here; the bucket, the head and the merging step have none of their own")


def step(folder: Path, cluster: Any, clips: list[str], shard_clips: int) -> list[float]:
    """Run STEP as a driver of the cluster; seconds, clips, frames and bytes."""
    done = subprocess.run(
        [sys.executable, "-c", STEP, json.dumps([clips, shard_clips])], cwd=folder, text=True, capture_output=True,
        env={**cluster.environment, "RAY_ADDRESS": cluster.gcs}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
