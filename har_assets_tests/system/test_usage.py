"""What a piece of work took."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from har_assets.system import usage
from har_assets.system.usage import Gpus, anonymous_bytes, measured, visible_devices
from har_assets_tests.project import Project, execute_here, make_own_videos

MEGABYTE = 10**6


def test_seconds_and_memory_of_this_process_are_those_of_the_block() -> None:
    # In a process of its own: one that has run other tests gives memory back while it is being measured.
    code = """
import time
from har_assets.system import usage
usage.INTERVAL_S = 0.02
with usage.measured() as before:
    pass
with usage.measured() as found:
    held = bytearray(100_000_000)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(0.2)
    del held
print(found.seconds, found.memory_bytes - before.memory_bytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, memory_bytes = map(float, done.stdout.split())
    assert 0.2 <= seconds < 5
    assert 90 * MEGABYTE < memory_bytes < 130 * MEGABYTE


def test_children_of_children_count_and_mapped_files_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "INTERVAL_S", 0.05)
    mapped = tmp_path / "frames"
    mapped.write_bytes(bytes(60 * MEGABYTE))
    grandchild = (
        "import mmap, time; held = bytearray(100_000_000); held[::4096] = b'x' * len(held[::4096]);"
        f"file = open({str(mapped)!r}); frames = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ);"
        "sum(frames[::4096]); time.sleep(0.5)"
    )
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}], check=True)"
    with measured() as before:
        pass
    with measured() as found:
        subprocess.run([sys.executable, "-c", child], check=True)
    assert 95 * MEGABYTE < found.memory_bytes - before.memory_bytes < 150 * MEGABYTE


def test_the_watching_ends_with_the_block_also_where_that_fails() -> None:
    import threading

    def work() -> None:
        with measured():
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        work()
    assert not [thread for thread in threading.enumerate() if thread.name == "usage"]


def test_a_process_that_is_gone_takes_no_memory() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert anonymous_bytes(child.pid) == 0


def test_figures_are_numbers_and_leave_out_what_is_not_known() -> None:
    found = usage.Usage(seconds=2.0, memory_bytes=5 * MEGABYTE)
    assert found.figures() == {"seconds": 2.0, "memory_mb": 5.0}
    found.gpu_memory_bytes, found.gpu_percents = 3 * MEGABYTE, [100.0, 50.0]
    assert found.figures(clips=30) == {
        "seconds": 2.0,
        "memory_mb": 5.0,
        "clips_per_second": 15.0,
        "gpu_memory_mb": 3.0,
        "gpu_utilisation_percent": 75.0,
    }


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("1", ["1"]),
        ("2, 0", ["2", "0"]),
        ("-1", []),
        ("1,9,0", ["1"]),
        ("GPU-8a9d", ["GPU-8a9d"]),
    ],
)
def test_the_gpus_are_those_that_cuda_would_use(
    chosen: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_devices(3) == seen


@pytest.mark.gpu
def test_memory_and_utilisation_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    monkeypatch.setattr(usage, "INTERVAL_S", 0.1)
    with measured() as before:
        torch.zeros(1, device="cuda")
    with measured() as found:
        square = torch.ones(8192, 8192, device="cuda")
        until = time.monotonic() + 2
        while time.monotonic() < until:
            square = torch.mm(square, square).clamp(max=1)
            torch.cuda.synchronize()
    assert found.gpu_memory_bytes is not None
    assert before.gpu_memory_bytes is not None
    assert found.gpu_memory_bytes - before.gpu_memory_bytes >= 8192 * 8192 * 4
    assert max(found.gpu_percents) > 50


DRIVER = """
#include <string.h>
struct memory {unsigned long long total, free, used;};
struct utilisation {unsigned gpu, memory;};
static char devices[2];
int nvmlInitWithFlags(unsigned flags) {return 0;}
int nvmlDeviceGetCount_v2(unsigned *count) {*count = 2; return 0;}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {*device = devices + index; return index > 1;}
int nvmlDeviceGetHandleByUUID(const char *name, void **device) {*device = devices; return strcmp(name, "GPU-8a9d");}
int nvmlDeviceGetMemoryInfo(void *device, struct memory *found)
    {found->used = device == devices ? 5000000000ULL : 7000000000ULL; return 0;}
int nvmlDeviceGetUtilizationRates(void *device, struct utilisation *found)
    {found->gpu = device == devices ? 40 : 80; found->memory = 1; return 0;}
int nvmlDeviceGetName(void *device, char *name, unsigned length)
    {strncpy(name, device == devices ? "Small" : "Large", length); return 0;}
int nvmlSystemGetDriverVersion(char *version, unsigned length) {strncpy(version, "570.1", length); return 0;}
"""
"""NVML's interface, by its header, and two GPUs that are not there."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_driver_is_asked_by_its_interface(tmp_path: Path) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    code = "from har_assets.system.usage import Gpus; gpus = Gpus.open(); print(gpus and {0})"

    def seen(chosen: str, asked: str = "gpus.look()") -> str:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": chosen}
        return subprocess.run(
            [sys.executable, "-c", code.format(asked)], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert seen("0,1") == "(7000000000, 60.0)"
    assert seen("0") == seen("GPU-8a9d") == "(5000000000, 40.0)"
    assert seen("1,0", "(gpus.name, gpus.memory_bytes())") == "('Large, 570.1', [7000000000, 5000000000])"
    assert seen("GPU-ffff") == seen("") == "None"


def test_without_a_gpu_there_are_no_figures_of_one() -> None:
    gpus = Gpus.open()
    if gpus is not None:
        pytest.skip("there is a GPU")
    with measured() as found:
        pass
    assert not any("gpu" in name for name in found.figures())


def test_dagster_gets_numbers_of_what_was_done_and_none_of_what_was_skipped(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project")
    config = {"raw_archive": {"source": str(make_own_videos(tmp_path / "own", 2))}, "video_clips": {"dvc": "off"}}

    def usage_of(result: dg.ExecuteInProcessResult) -> dict[str, object]:
        (event,) = result.asset_materializations_for_node("video_clips")
        return {name: entry.value for name, entry in event.metadata.items() if name.startswith("usage/")}

    first = usage_of(execute_here(project, "key:raw_archive or key:video_clips", config))
    assert set(first) >= {"usage/seconds", "usage/memory_mb", "usage/clips_per_second"}
    assert all(isinstance(value, float) for value in first.values()), "Dagster plots numbers alone"
    assert first["usage/clips_per_second"] == pytest.approx(6 / float(str(first["usage/seconds"])), rel=0.5)
    assert usage_of(execute_here(project, "key:raw_archive or key:video_clips", config)) == {}
