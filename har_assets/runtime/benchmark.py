"""Every runtime that can run here on the same clips: latency, throughput, memory, start-up, and from video files.

Each runtime has a process of its own, so that memory and start-up are its own and one that crashes is a row with
a reason. The processes stay warm and are asked in turn, round by round: whatever else the machine does meets all
of them. The parent speaks with them in lines of JSON.

B clips of a batch, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from har_assets.errors import HarError
from har_assets.runtime.benchmark_options import BenchmarkOptions
from har_assets.runtime.choice import RUNTIMES, available_runtimes, open_model
from har_assets.runtime.predictor import Scores
from har_assets.runtime.video import VideoPrediction, predict_videos
from har_assets.system.files import Log
from har_assets.system.usage import Gpus
from har_assets.video.sampling import Clips
from har_assets.video.workers import available_cores

ANSWER_SECONDS = 600
"""A runtime that does not answer for so long is stopped; compiling for a GPU takes a minute."""

PACKAGES = ("torch", "onnxruntime-gpu", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13", "onnx", "numpy")
"""Packages whose versions describe the machine."""

VECTOR_UNITS = {
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
"""Flag in /proc/cpuinfo -> what convolutions gain from."""


@dataclass(frozen=True)
class Row:
    """One runtime at one batch size; a runtime that could not be measured has one row, with the reason."""

    runtime: str
    """Name as `open_model` takes it."""
    model: str
    """Name of the model file."""
    engine: str = ""
    """The runtime that executes it, with its version."""
    batch: int | None = None
    p50_ms: float | None = None
    """Median time of a call, milliseconds, from uint8 clips in memory to scores in memory."""
    p95_ms: float | None = None
    p99_ms: float | None = None
    """The 99th percentile; with fewer than 100 rounds nearly the slowest one."""
    clips_per_s: float | None = None
    """batch / the median time of a call."""
    videos_per_s: float | None = None
    """From video files to predictions, decoding included, all cores; the same for each batch size."""
    start_up_s: float | None = None
    """From the start of the process to its first scores."""
    memory_mb: float | None = None
    """Most memory that the process has held, 10^6 bytes; before any video."""
    gpu_memory_mb: float | None = None
    """Memory of the GPU that it took, 10^6 bytes; None where it uses none."""
    max_difference: float | None = None
    """Largest |difference| of any score from the plainest runtime here that computes in float32."""
    top1_agreement: float | None = None
    """Share of the clips with the same top-1 as that one."""
    reason: str = ""
    """Why there are no figures."""


@dataclass(frozen=True)
class Benchmark:
    """Measurements, and the machine and model that they were made on."""

    rows: list[Row]
    machine: dict[str, str]
    clips: int
    """Different clips that were scored."""
    videos: int
    """Video files that were predicted; 0 where none were given."""
    options: BenchmarkOptions

    def fastest(self) -> Row | None:
        """The row with the most clips a second; None where nothing could be measured."""
        measured = [row for row in self.rows if row.clips_per_s is not None]
        return max(measured, key=lambda row: row.clips_per_s or 0.0, default=None)

    def write_csv(self, target: TextIO) -> None:
        """Write the rows under a header of Row's fields, the machine repeated in each."""
        names = [entry.name for entry in dataclasses.fields(Row)]
        writer = csv.DictWriter(target, [*names, *self.machine], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: _rounded(value) for name, value in dataclasses.asdict(row).items()} | self.machine)

    def table(self) -> list[dict[str, Any]]:
        """The rows for people: without columns that nothing is known for, figures rounded."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        kept = [name for name in rows[0] if any(row[name] not in (None, "") for row in rows)] if rows else []
        return [{name: _rounded(row[name]) for name in kept} for row in rows]


def run_benchmark(
    models: Sequence[Path],
    clips_BCTHW: Clips,
    *,
    videos: Sequence[Path] = (),
    options: BenchmarkOptions | None = None,
    runtimes: Sequence[str] = (),
    log: Log = lambda line: None,
) -> Benchmark:
    """Measure every runtime of every model file.

    Args:
        models: files of one and the same network, such as checkpoint, ONNX file and engine.
        clips_BCTHW: uint8 clips, repeated to fill the batches.
        videos: files for the measurement from video files; none leaves it out.
        options: how long and on what.
        runtimes: names to measure; none takes all.
        log: takes a line a step.

    Raises:
        HarError: there is no clip, nothing at all to measure, or an option is impossible.
    """
    options = options or BenchmarkOptions()
    options.check()
    if not len(clips_BCTHW) or not models:
        raise HarError("A benchmark needs a model file and a clip: name some.")
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="har-benchmark-")))
        clips_file = folder / "clips.npy"
        np.save(clips_file, clips_BCTHW)
        running: list[_Child] = []
        for model in models:
            for choice in available_runtimes(model):
                if choice.suffix != model.suffix or (runtimes and choice.name not in runtimes):
                    continue
                if not choice.available:
                    rows.append(Row(choice.name, model.name, reason=choice.reason))
                    continue
                log(f"starting {choice.name} on {model.name}")
                child = stack.enter_context(_started(choice.name, model, clips_file))
                # One after the other: the start-up of each is its own.
                if child.failed(rows, lambda child: child.begin()) is None:
                    running.append(child)
        for batch in options.batch_sizes:
            log(f"batches of {batch}")
            running = _measure_batch(running, batch, options, rows)
        for child in running:
            if videos:
                log(f"from video files: {child.runtime}")
                child.failed(rows, lambda child: child.ask_videos(videos, options))
        rows = [row for child in running for row in child.rows(options)] + rows
    return Benchmark(_with_agreement(rows, running), describe_machine(), len(clips_BCTHW), len(videos), options)


def _measure_batch(running: list[_Child], batch: int, options: BenchmarkOptions, rows: list[Row]) -> list[_Child]:
    """Ask all in turn for that batch size; returns those still alive."""
    alive = [child for child in running if child.failed(rows, lambda child: child.ask(batch, keep=False)) is None]
    for number in range(options.rounds):
        asked = [child for child in alive if number < 3 or sum(child.times[batch]) < options.max_seconds]
        for child in asked:
            if child.failed(rows, lambda child: child.ask(batch, keep=True)) is not None:
                alive.remove(child)
    return alive


@dataclass
class _Child:
    """The process of one runtime."""

    runtime: str
    model: Path
    process: subprocess.Popen[str]
    began: float
    gpu_before: float | None
    engine: str = ""
    start_up_s: float = 0.0
    memory_mb: float = 0.0
    gpu_memory_mb: float | None = None
    videos_per_s: float | None = None
    scores_BK: Scores | None = None
    times: dict[int, list[float]] = field(default_factory=dict)
    """Batch size -> seconds of each call."""

    def begin(self) -> None:
        """Wait until the model is loaded and has answered for one clip, then for all."""
        self.engine = self._answer()["engine"]
        self.start_up_s = time.monotonic() - self.began
        self.scores_BK = np.array(self._answer()["scores"], np.float32)

    def ask(self, batch: int, *, keep: bool) -> None:
        """One call with that batch size."""
        found = self._send({"batch": batch})
        self.memory_mb = found["memory_mb"]
        after = _gpu_memory_mb()
        if after is not None and self.gpu_before is not None and not keep:
            self.gpu_memory_mb = max(after - self.gpu_before, self.gpu_memory_mb or 0.0)
        self.times.setdefault(batch, [])
        if keep:
            self.times[batch].append(found["seconds"])

    def ask_videos(self, videos: Sequence[Path], options: BenchmarkOptions) -> None:
        """From video files to predictions."""
        found = self._send({"videos": [str(path) for path in videos], "windows": options.windows})
        self.videos_per_s = found["videos_per_s"]

    def failed(self, rows: list[Row], action: Callable[[_Child], None]) -> str | None:
        """Do it; where the process reports an error or dies, add a row with the reason and return that."""
        try:
            action(self)
        except _ChildError as error:
            reason = str(error)
            rows.append(Row(self.runtime, self.model.name, self.engine, reason=reason))
            return reason
        return None

    def rows(self, options: BenchmarkOptions) -> list[Row]:
        """The figures, a row a batch size."""
        rows = []
        for batch in options.batch_sizes:
            p50, p95, p99 = np.percentile(self.times[batch], (50, 95, 99)) * 1e3
            rows.append(
                Row(
                    self.runtime,
                    self.model.name,
                    self.engine,
                    batch,
                    float(p50),
                    float(p95),
                    float(p99),
                    float(batch / p50 * 1e3),
                    self.videos_per_s,
                    self.start_up_s,
                    self.memory_mb,
                    self.gpu_memory_mb,
                )
            )
        return rows

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        # A hang must not be one of the benchmark: the pipe ends when the process is killed.
        timer = threading.Timer(ANSWER_SECONDS, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            code = self.process.wait()
            raise _ChildError(f"its process ended with status {code}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise _ChildError(found["error"])
        return found


class _ChildError(Exception):
    """A runtime gave an error or died."""


@contextlib.contextmanager
def _started(runtime: str, model: Path, clips_file: Path) -> Iterator[_Child]:
    """The process of a runtime, ended at the end; its first answer comes when the model has answered."""
    gpu_before = _gpu_memory_mb()
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "har_assets.runtime.benchmark", runtime, str(model), str(clips_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        child = _Child(runtime, model, process, began, gpu_before)
        yield child
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _with_agreement(rows: list[Row], children: list[_Child]) -> list[Row]:
    """Fill in how the scores of each runtime differ from those of the plainest float32 one."""
    scores = {(child.runtime, child.model.name): child.scores_BK for child in children}
    order = [name for name in reversed(RUNTIMES) if RUNTIMES[name].exact]
    parent_BK = next((found for name in order for (runtime, _), found in scores.items() if runtime == name), None)
    if parent_BK is None:
        return rows
    compared = []
    for row in rows:
        child_BK = scores.get((row.runtime, row.model)) if row.batch else None
        if child_BK is None:
            compared.append(row)
            continue
        difference = float(np.abs(child_BK - parent_BK).max())
        agreement = float((child_BK.argmax(1) == parent_BK.argmax(1)).mean())
        compared.append(dataclasses.replace(row, max_difference=difference, top1_agreement=agreement))
    return compared


def describe_machine() -> dict[str, str]:
    """The machine that the figures hold for: processor, cores, its vector units, GPU, system, versions."""
    facts = _cpu_facts()
    flags = facts.get("flags", "").split()
    units = [name for flag, name in VECTOR_UNITS.items() if flag in flags]
    gpus = Gpus.open()
    machine = {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "cores": str(available_cores()),
        "vector_units": ", ".join(units),
        "gpu": gpus.name if gpus else "none",
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            machine[package] = importlib.metadata.version(package)
    return machine


def _cpu_facts() -> dict[str, str]:
    """Facts about the first processor in /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _gpu_memory_mb() -> float | None:
    """Memory in use on the first GPU by all processes: of one process it cannot be asked inside containers."""
    gpus = Gpus.open()
    used = gpus.memory_bytes() if gpus else []
    return used[0] / 1e6 if used else None


def _rounded(value: Any) -> Any:
    if value is None:
        return ""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _serve(runtime: str, model: Path, clips_file: Path) -> None:
    """The process of one runtime: answer each line of JSON on stdin by one on what stdout was at the start."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print must not come between the answers
    clips_BCTHW = np.load(clips_file)
    try:
        predictor = open_model(model, runtime)
        predictor.predict(clips_BCTHW[:1])
        print(json.dumps({"engine": predictor.runtime}), file=answers)
        print(json.dumps({"scores": predictor.predict(clips_BCTHW).tolist()}), file=answers)
        for line in sys.stdin:
            request = json.loads(line)
            if "batch" in request:
                count = request["batch"]
                batch_BCTHW = np.resize(clips_BCTHW, (count, *clips_BCTHW.shape[1:]))
                began = time.perf_counter()
                predictor.predict(batch_BCTHW)
                seconds = time.perf_counter() - began
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
                print(json.dumps({"seconds": seconds, "memory_mb": memory}), file=answers)
            else:
                paths = [Path(path) for path in request["videos"]]
                began = time.perf_counter()
                found = list(predict_videos(predictor, paths, windows=request["windows"]))
                seconds = time.perf_counter() - began
                predicted = sum(isinstance(video, VideoPrediction) for video in found)
                if not predicted:
                    print(json.dumps({"error": "none of the videos could be decoded"}), file=answers)
                else:
                    print(json.dumps({"videos_per_s": predicted / seconds}), file=answers)
    except HarError as error:
        print(json.dumps({"error": str(error)}), file=answers)


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
