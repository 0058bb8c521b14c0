"""Damaged videos, and kill -9 at random moments of downloading, unpacking and caching.

    python -m benchmarks.bench_robustness [--files 1000] [--kills 20] [--shared FOLDER]

Needs the real clips and lists of FOLDER (../shared/data, or HAR_SHARED_DATA). Every line is the outcome of
assertions: the first that does not hold ends the program with a traceback. About ten minutes on two cores.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from har_assets.errors import VideoError
from har_assets.system.files import sha256_of
from har_assets.video.workers import decode_many
from har_assets_tests.dataset import test_archive, test_download
from har_assets_tests.project import Project, log_of
from har_assets_tests.video import test_frame_cache, test_fuzz
from har_assets_tests.video.conftest import make_video, unpack_real_clips

SHARED = Path(os.environ.get("HAR_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    """Run all and print a line for each."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--files", type=int, default=1000)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--shared", type=Path, default=SHARED)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fuzz(folder / "fuzz", options.shared, options.files)
        kill_downloads(folder / "download", options.kills)
        kill_extractions(folder / "extraction", options.kills)
        kill_caches(folder / "cache", options.kills)
        kill_commands(folder / "commands", options.shared, options.kills)


def fuzz(folder: Path, shared: Path, count: int) -> None:
    """Decode damaged AVI, MP4, WebM and MKV files: each gives frames or a reason, within the time limit."""
    folder.mkdir(parents=True)
    sound = test_fuzz.sound_files(folder)
    real = folder / "real"
    real.mkdir()
    sound += sorted(unpack_real_clips(shared / "hmdb51_mini.rar", real), key=lambda path: path.stat().st_size)[:2]
    paths = test_fuzz.fuzzed_files(sound, folder / "fuzzed", count, seed=1)
    decode = partial(test_fuzz.decode_small, size=(32, 32))
    outcomes = dict.fromkeys(("gave frames", "refused with a reason", "killed their worker", "ran out of time"), 0)
    began = time.monotonic()
    for _, result in decode_many(paths, decode, timeout_s=test_fuzz.TIMEOUT_S):
        said = str(result) if isinstance(result, VideoError) else ""
        if not said:
            outcome = "gave frames"
        elif "took its process down" in said:
            outcome = "killed their worker"
        elif "longer than the limit" in said:
            outcome = "ran out of time"
        else:
            outcome = "refused with a reason"
        outcomes[outcome] += 1
    assert sum(outcomes.values()) == count
    told = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
    kinds = ", ".join(sorted({path.suffix[1:] for path in paths}))
    print(f"{count:,} damaged files ({kinds}) in {time.monotonic() - began:.0f} s: {told}", flush=True)


def kill_downloads(folder: Path, kills: int) -> None:
    """Kill a download over HTTP, then let it end."""
    with test_download.running_server() as server:
        server.bytes_a_second = 3_000_000
        arrived = test_download.kill_repeatedly(server, folder / "hmdb51_org.rar", kills)
        server.bytes_a_second = None
        test_download.assert_goes_on(server, folder / "hmdb51_org.rar")
    print(
        f"download killed {kills} times, at {spread(arrived)} % of the file: the next has the same SHA-256", flush=True
    )


def kill_extractions(folder: Path, kills: int) -> None:
    """Kill the unpacking of a ZIP of ZIPs, then let it end."""
    folder.mkdir()
    source = folder / "source.zip"
    source.write_bytes(test_archive.SOUND["zip of zips"]())
    test_archive.kill_repeatedly(source, folder / "videos", kills)
    test_archive.complete(source, folder / "videos")
    assert test_archive.contents(folder / "videos") == test_archive.CLIPS
    assert sorted(os.listdir(folder)) == ["source.zip", "videos"]
    print(f"extraction killed {kills} times: what had the target's name was always whole", flush=True)


def kill_caches(folder: Path, kills: int) -> None:
    """Kill the building of a frame cache, then let it end."""
    folder.mkdir()
    clips = {f"{n:03d}": make_video(folder / f"{n}.avi", frames=6 + n % 14, seed=n) for n in range(60)}
    done = test_frame_cache.kill_and_resume(clips, folder, kills, seed=0)
    shares = [min(100 * count / len(clips), 100) for count in done]
    print(
        f"caching killed {kills} times, at {spread(shares)} % of the clips: the next gives the same bytes", flush=True
    )


def spread(shares: list[float]) -> str:
    """`3 to 97 (median 40)`."""
    return f"{min(shares):.0f} to {max(shares):.0f} (median {statistics.median(shares):.0f})"


def kill_commands(folder: Path, shared: Path, kills: int) -> None:
    """Kill `dagster asset materialize` itself while it unpacks, lists and caches; then the same command again.

    Every other kill takes the command alone and leaves its steps to notice, the others all its processes.
    """
    chance = random.Random(3)
    source = {"source": str(shared / "hmdb51_mini.rar"), "split_lists": str(shared / "test_train_splits.rar")}
    config: dict[str, dict[str, Any]] = {
        "raw_archive": source,
        "frame_cache": {"height": 240, "width": 320, "stride": 1},
    }
    undisturbed, killed = Project.make(folder / "undisturbed"), Project.make(folder / "killed")
    began = time.monotonic()
    done = undisturbed.materialize("+key:frame_cache", config)
    seconds = time.monotonic() - began
    assert done.returncode == 0, log_of(done)
    arguments = killed.materialize_arguments("+key:frame_cache", config)
    ended = 0
    for number in range(kills):
        child = subprocess.Popen(
            killed.command(*arguments),
            cwd=killed.folder,
            env=killed.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            child.wait(chance.uniform(0.3, 1.0) * seconds)
            ended += 1
        except subprocess.TimeoutExpired:
            (os.kill if number % 2 else os.killpg)(child.pid, signal.SIGKILL)
            child.wait()
    last = killed.run(*arguments)
    assert last.returncode == 0, log_of(last)
    assert products(killed) == products(undisturbed)
    print(
        f"`dagster asset materialize --select '+key:frame_cache'` ({seconds:.0f} s) killed {kills - ended} times"
        f"{f', {ended} more had ended' if ended else ''}: the next gives the same hashes",
        flush=True,
    )


def products(project: Project) -> dict[str, str]:
    """Data version of every asset, and size and SHA-256 of every file of it."""
    found = {}
    for folder in sorted((project.folder / "artifacts").iterdir()):
        record = project.latest(folder.name).record
        found[folder.name] = record.data_version
        for file, entry in record.files.items():
            found[f"{folder.name}/{file}"] = f"{entry['bytes']} {entry['sha256']}"
    packs = (project.folder / "artifacts" / "frame_cache" / "latest").glob("*.npy")
    return found | {pack.name: sha256_of(pack) for pack in packs}


if __name__ == "__main__":
    main()
