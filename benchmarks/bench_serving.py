"""The served model against predict_video in one process, and what a server lives through.

    python -m benchmarks.bench_serving                        real clips of HAR_SHARED_DATA, or made ones
    python -m benchmarks.bench_serving --model X.onnx --videos FOLDER

A real `mlflow models serve` on this machine. Latency: one client, the requests in turn with predict_video of the same
clips by the same runtime; the body is ready when the clock starts. Throughput: eight clients, on the same cores,
against one process that predicts one video after the other. Memory: resident size of the server and its decoding
processes together after 100 requests and after all of them. Malformed: 200 requests of
har_assets_tests/serving/malformed.py, and an answer that is right afterwards.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.bench_frame_cache import find_clips
from benchmarks.bench_predict import fresh_model
from har_assets.runtime import Predictor, open_model
from har_assets.runtime.video import predict_video
from har_assets.serving.package import save_model
from har_assets.video.workers import available_cores
from har_assets_tests.serving.malformed import malformed_requests
from har_assets_tests.serving.server import ModelServer, encoded

CLIENTS = 8


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--videos", type=Path)
    arguments.add_argument("--runtime", default="", help="of both; the fastest in process if left out")
    arguments.add_argument("--rounds", type=int, default=15, help="how often each clip is asked for its latency")
    arguments.add_argument("--requests", type=int, default=1000, help="for the memory")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        clips = find_clips(options.videos, folder / "sources")
        onnx = options.model or fresh_model(folder)[0]
        predictor = open_model(onnx, options.runtime or "auto")
        print(f"{predictor.runtime}, {available_cores()} cores, {len(clips)} clips, 4 windows each")
        load = os.getloadavg()[0]
        save_model(onnx, folder / "served", {"runtime": predictor.name}, {})
        server = ModelServer(str(folder / "served"), folder)
        try:
            server.wait()
            check(server, predictor, clips)
            latency(server, predictor, clips, options.rounds)
            throughput(server, predictor, clips, options.rounds)
            memory(server, clips, options.requests)
            malformed(server, clips)
            check(server, predictor, clips)
        finally:
            server.stop()
        print(f"load of the machine before and after: {load:.1f} and {os.getloadavg()[0]:.1f}")


def body_of(clip: Path) -> bytes:
    """A request for one clip."""
    return json.dumps({"dataframe_records": [{"video": encoded(clip)}]}).encode()


def check(server: ModelServer, predictor: Predictor, clips: list[Path]) -> None:
    """End with a sentence where the server answers otherwise than predict_video."""
    for clip in clips:
        (answer,), expected = server.predict(clip), predict_video(predictor, clip)
        wrong = max(abs(ours - theirs) for ours, theirs in zip(answer["scores"], expected.scores, strict=True))
        if tuple(answer["labels"]) != expected.labels or wrong > 1e-6:
            raise SystemExit(f"the server answers otherwise for {clip}: {answer} instead of {expected}")


def latency(server: ModelServer, predictor: Predictor, clips: list[Path], rounds: int) -> None:
    """Median seconds of a request and of predict_video, clip by clip in turn."""
    bodies = [body_of(clip) for clip in clips]
    served, alone = [], []
    for _ in range(rounds):
        for clip, body in zip(clips, bodies, strict=True):
            began = time.perf_counter()
            status, text = server.post(body)
            served.append(time.perf_counter() - began)
            assert status == 200, text
            began = time.perf_counter()
            predict_video(predictor, clip)
            alone.append(time.perf_counter() - began)
    ours, theirs = statistics.median(served), statistics.median(alone)
    print(
        f"latency, one client     {1e3 * ours:7.1f} ms a clip; predict_video {1e3 * theirs:.1f} ms; "
        f"{ours / theirs:.2f} x"
    )


def throughput(server: ModelServer, predictor: Predictor, clips: list[Path], rounds: int) -> None:
    """Clips a second of eight clients, and of one process alone."""
    bodies = [body_of(clip) for clip in clips] * rounds
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(server.post, bodies[:CLIENTS]))
        began = time.perf_counter()
        statuses = Counter(status for status, _ in clients.map(server.post, bodies))
        served = len(bodies) / (time.perf_counter() - began)
    if set(statuses) != {200}:
        raise SystemExit(f"the server answered {dict(statuses)}")
    began = time.perf_counter()
    for clip in clips * rounds:
        predict_video(predictor, clip)
    alone = len(clips) * rounds / (time.perf_counter() - began)
    print(
        f"throughput, {CLIENTS} clients   {served:7.1f} clips/s; one process alone {alone:.1f} clips/s; "
        f"{served / alone:.2f} x"
    )


def memory(server: ModelServer, clips: list[Path], requests: int) -> None:
    """Resident megabytes along the requests, made by two clients."""
    bodies = [body_of(clip) for clip in clips]
    seen: dict[int, float] = {}
    with ThreadPoolExecutor(2) as clients:
        for start in range(0, requests, 100):
            list(clients.map(server.post, [bodies[n % len(bodies)] for n in range(start, min(start + 100, requests))]))
            seen[start + 100] = resident(server)
    print("memory                 " + ", ".join(f"{count}: {size:.0f} MB" for count, size in seen.items()))


def resident(server: ModelServer) -> float:
    """Of the server's processes together."""
    root = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in [root, *root.children(recursive=True)]) / 1e6


def malformed(server: ModelServer, clips: list[Path]) -> None:
    """Statuses of 200 malformed requests."""
    statuses: Counter[int] = Counter()
    kinds: dict[int, Counter[str]] = {}
    for what, body, content_type in malformed_requests(clips, 200):
        status, _ = server.post(body, content_type)
        statuses[status] += 1
        kinds.setdefault(status, Counter())[what] += 1
    if server.process.poll() is not None:
        raise SystemExit("the server has ended")
    print("malformed, 200          " + ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())))
    for status in sorted(set(statuses) - {400}):
        print(f"  {status}: {', '.join(kinds[status])}")


if __name__ == "__main__":
    main()
