"""Checks of the machine and of what is installed."""

from __future__ import annotations

import platform
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import har_assets
from har_assets.cli.doctor.finding import (
    OK,
    PROBLEM,
    WARNING,
    Check,
    Finding,
    installed,
    some,
    tried_in_python,
)
from har_assets.settings import fields

PYTHON_VERSIONS = ((3, 11), (3, 14))
"""First that is supported, first that is not."""


HOLD_ANTLR = "pip install 'hydra-core==1.4.0rc3' 'omegaconf==2.4.1rc1' 'antlr4-python3-runtime==4.13.2'"


def check_python(project: Path) -> Finding:
    """Version of Python and platform."""
    here = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    first, beyond = PYTHON_VERSIONS
    if not first <= sys.version_info[:2] < beyond:
        return Finding("python", PROBLEM, here, "use Python 3.11, 3.12 or 3.13: `make install PYTHON=python3.11`")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Finding("python", PROBLEM, here, "use Linux on x86-64: decord and TensorRT-RTX have no other wheels")
    return Finding("python", OK, here)


def check_packages(project: Path) -> Finding:
    """Installed versions against what har_assets requires and against requirements.lock."""
    from packaging.requirements import Requirement

    broken = []
    for line in metadata.requires("har_assets") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed(requirement.name)
        if version is None:
            broken.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            broken.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if broken:
        return Finding("packages", PROBLEM, some(broken), "pip install --no-deps --requirement requirements.lock")
    lock = next(
        (path for path in (project / "requirements.lock", _source_folder() / "requirements.lock") if path.is_file()),
        None,
    )
    if lock is None:
        return Finding("packages", OK, "all in the versions that har_assets asks for; no requirements.lock here")
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", lock.read_text(), flags=re.MULTILINE))
    different = [
        f"{name} is {version or 'missing'}, locked {wanted}"
        for name, wanted in pinned.items()
        # `2.14.1+cpu` is another build of 2.14.1
        if (version := installed(name)) is None or version.split("+")[0] != wanted.split("+")[0]
    ]
    if different:
        return Finding("packages", WARNING, some(different), f"pip install --no-deps --requirement {lock}")
    return Finding("packages", OK, f"{len(pinned)} in the versions of {lock.name}")


def check_asset_selection(project: Path) -> Finding:
    """The trap of antlr: dvc's hydra-core 1.3 brings antlr4 4.9, with which every --select of Dagster dies."""
    version = installed("antlr4-python3-runtime")
    if version is None or not version.startswith("4.13"):
        return Finding("asset selection", PROBLEM, f"antlr4 {version}: `dagster --select` needs 4.13", HOLD_ANTLR)
    tried = tried_in_python(
        "import warnings; warnings.simplefilter('ignore')\n"
        "from dagster import AssetSelection; print(AssetSelection.from_string('+key:trt_engine'))"
    )
    if tried.returncode:
        return Finding("asset selection", PROBLEM, f"Dagster cannot parse `+key:trt_engine`: {tried.said}", HOLD_ANTLR)
    return Finding("asset selection", OK, f"Dagster parses `+key:trt_engine` (antlr4 {version})")


def check_gpu(project: Path) -> Finding:
    """GPU, its compute capability, and whether PyTorch can use it."""
    from har_assets.system.gpu import gpu_compute_capability

    capability = gpu_compute_capability()
    if capability is None:
        return Finding("gpu", OK, "none: training and inference run on the CPU, engines are built all the same")
    shown = f"compute capability {capability[0]}.{capability[1]}"
    tried = tried_in_python("import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')")
    if tried.returncode or not tried.said:
        return Finding(
            "gpu",
            PROBLEM,
            f"{shown}, but PyTorch cannot use it: {tried.said or 'no CUDA device'}",
            "install a torch built for CUDA, or a newer driver",
        )
    return Finding("gpu", OK, f"{tried.said}, {shown}")


def check_tensorrt(project: Path) -> Finding:
    """Builders of engines, and whether one of them makes engines that this GPU runs."""
    from har_assets.export.engine_options import BUILDERS, RTX_CAPABILITIES
    from har_assets.system.gpu import gpu_compute_capability

    tried = {
        name: tried_in_python(f"import {module}; print({module}.__version__)") for name, module in BUILDERS.items()
    }
    versions = [f"{name} {result.said}" for name, result in tried.items() if result.returncode == 0]
    if not versions:
        return Finding(
            "tensorrt", PROBLEM, f"no builder of engines: {tried['tensorrt_rtx'].said}", "pip install tensorrt-rtx-cu13"
        )
    capability = gpu_compute_capability()
    if capability and tried["tensorrt"].returncode and f"{capability[0]}.{capability[1]}" not in RTX_CAPABILITIES:
        return Finding(
            "tensorrt",
            WARNING,
            f"{', '.join(versions)}, whose engines do not run on this GPU",
            "pip install 'har_assets[tensorrt]'",
        )
    return Finding("tensorrt", OK, ", ".join(versions))


def check_onnxruntime(project: Path) -> Finding:
    """Execution providers of ONNX Runtime."""
    from har_assets.system.gpu import gpu_compute_capability

    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name)]
    tried = tried_in_python("import onnxruntime as o; print(o.__version__, *o.get_available_providers())")
    if tried.returncode:
        return Finding(
            "onnxruntime", PROBLEM, f"cannot be imported: {tried.said}", "pip install --force-reinstall onnxruntime-gpu"
        )
    if len(both) == 2:
        return Finding(
            "onnxruntime",
            WARNING,
            "onnxruntime and onnxruntime-gpu overwrite each other's files",
            "pip uninstall onnxruntime && pip install --force-reinstall onnxruntime-gpu",
        )
    if gpu_compute_capability() and "CUDAExecutionProvider" not in tried.said:
        return Finding("onnxruntime", WARNING, f"{tried.said}: not for this GPU", "pip install onnxruntime-gpu")
    return Finding("onnxruntime", OK, tried.said)


def check_decoders(project: Path) -> Finding:
    """Decord and PyAV decode a small made clip, in a process of their own, to the same frames."""
    remedy = "pip install --force-reinstall decord==0.6.0 av"
    with tempfile.TemporaryDirectory() as folder:
        tried = tried_in_python(DECODE_BOTH, str(Path(folder, "clip.avi")))
    if tried.returncode:
        return Finding("decoders", PROBLEM, tried.said, remedy)
    if tried.said != "[20, 20, 0]":
        frames = ", ".join(tried.said.strip("[]").split(", ")[:2])
        return Finding("decoders", PROBLEM, f"decord and PyAV disagree on a clip of 20 frames ({frames})", remedy)
    return Finding("decoders", OK, f"decord {installed('decord')} and PyAV {installed('av')} give the same frames")


DECODE_BOTH = """
import sys
import av, decord, numpy as np
path = sys.argv[1]
with av.open(path, "w") as container:
    stream = container.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for time in range(20):
        picture = np.full((48, 64, 3), 10 * time, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    container.mux(stream.encode())
reader = decord.VideoReader(path, num_threads=1)
first = np.stack([reader.next().asnumpy() for _ in range(len(reader))])
with av.open(path) as container:
    second = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
count = min(len(first), len(second))
print([len(first), len(second), int(np.abs(first[:count].astype(int) - second[:count]).max())])
"""


def _source_folder() -> Path:
    return Path(har_assets.__file__).resolve().parents[1]


def check_settings(project: Path) -> list[Finding]:
    """Each setting, its value and its meaning; variables that hold what they cannot mean, or that nothing reads."""
    wrong, findings = fields.faults(), []
    for name in fields.NAMES.values():
        default, meaning = fields.default_of(name), fields.meaning_of(name).partition(". ")[0].rstrip(".")
        if name in wrong:
            findings.append(Finding(name, PROBLEM, fields.shown(name), wrong[name]))
        elif fields.is_set(name):
            findings.append(Finding(name, OK, f"{fields.shown(name)} (environment): {meaning}"))
        else:
            findings.append(Finding(name, OK, f"{f'{default!r} (default)' if default else 'not set'}: {meaning}"))
    findings += [Finding("settings", PROBLEM, remedy) for name, remedy in wrong.items() if not name]
    return findings + [Finding(name, WARNING, sentence) for name, sentence in fields.unknown().items()]


CHECKS: tuple[Check, ...] = (
    check_settings,
    check_python,
    check_packages,
    check_asset_selection,
    check_gpu,
    check_tensorrt,
    check_onnxruntime,
    check_decoders,
)
