"""requirements.lock holds everything that pyproject.toml asks for, and the hash of each of its files."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from har_assets_tests.project import REPOSITORY

LOCK = (REPOSITORY / "requirements.lock").read_text()
DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text()
UNLOCKED = {"tensorrt"}
"""Extras whose packages are not locked."""


def pins(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Name to version and hashes of every package in the text of a lock."""
    found = {}
    for entry in re.split(r"\n(?=[^\s#])", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE)):
        name, version = re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", entry).groups()  # type: ignore[union-attr]
        found[canonicalize_name(name)] = version, re.findall(r"--hash=sha256:([0-9a-f]{64})(?:\s|$)", entry)
    return found


def test_every_package_has_its_hashes() -> None:
    assert not [name for name, (_, hashes) in pins(LOCK).items() if not hashes]


def test_everything_that_is_declared_is_locked_in_an_allowed_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(line for name in extras.keys() - UNLOCKED for line in extras[name])]
    locked = pins(LOCK)
    for requirement in map(Requirement, declared):
        name = canonicalize_name(requirement.name)
        if name != "har-assets":
            assert name in locked, f"run `make lock`: {requirement} is not locked"
            assert requirement.specifier.contains(locked[name][0], prereleases=True), requirement


def test_everything_is_installed_by_its_hash() -> None:
    for text in ((REPOSITORY / "Makefile").read_text(), DOCKERFILE):
        installs = re.findall(r"pip install(?: \S+)* --requirement [\w./]+", text.replace("\\\n", ""))
        assert installs
        # PyTorch's builds for CPUs lie on an index of their own, and have other hashes.
        assert all("--require-hashes" in line or line.endswith("/tmp/torch.txt") for line in installs)


def test_a_package_with_another_hash_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "harmless-1.0-py3-none-any.whl"
    info = "harmless-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: harmless\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"harmless==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    options = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "site")]
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", *options, "--requirement", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the image is built on Linux")
def test_the_cpu_image_leaves_out_nvidias_packages_alone(tmp_path: Path) -> None:
    filters = re.search(r"then \\\n(.*?)&& pip install", DOCKERFILE, re.DOTALL)
    assert filters
    script = filters[1].replace("/tmp/", f"{tmp_path}/").replace("/opt/har/", f"{REPOSITORY}/")
    subprocess.run(["bash", "-euc", script.rstrip().rstrip("\\")], check=True)
    torch = (tmp_path / "torch.txt").read_text().splitlines()
    kept = pins((tmp_path / "rest.txt").read_text())
    whole = pins(LOCK)
    assert sorted(torch) == [f"{name}=={whole[name][0]}" for name in ("torch", "torchvision")]
    assert kept == {name: pin for name, pin in whole.items() if name in kept}, "each with its own hashes"
    left_out = whole.keys() - kept.keys()
    assert {"torch", "torchvision", "triton"} < left_out
    assert all(name.startswith(("nvidia-", "cuda-")) for name in left_out - {"torch", "torchvision", "triton"})
