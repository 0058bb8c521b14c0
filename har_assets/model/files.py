"""The files of a model: their names, and the table of the kinds of file that hold a whole model.

Whatever differs by the kind of a file is read from its row of KINDS: the sentences about it, how it is verified, how
labels and sizes are read from it, how `auto` chooses among its runtimes, which asset publishes it. A new kind is one
row here, its verifier and reader, and a module in har_assets/runtime/ that runs it, named in runtime/choice.py.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from har_assets.errors import ModelFileError

if TYPE_CHECKING:
    from har_assets.model.spec import ModelSpec, Provenance

CHECKPOINT = "video_action_model.ckpt"
ONNX = "video_action_model.onnx"
ENGINE = "video_action_model.engine"

CARD = "README.md"
"""Model card: under this name a model hub shows it."""
CURVES = "curves.png"
"""Learning curves of a training, beside its checkpoint."""
WEIGHTS = "weights.pt"
"""State dict of published weights, from which training starts."""


def onnx_name(precision: str) -> str:
    """`video_action_model.int8.onnx`: a precision beside the deployed one, which is `video_action_model.onnx`."""
    return f"{Path(ONNX).stem}.{precision}.onnx"


def sidecar_path(engine: Path) -> Path:
    """`x.engine` -> `x.engine.json`: what the engine was made from and runs on."""
    return engine.with_name(engine.name + ".json")


def reference_path(engine: Path) -> Path:
    """`x.engine` -> `x.engine.reference.npz`: clips and the scores that its ONNX file gave them."""
    return engine.with_name(engine.name + ".reference.npz")


def parity_path(engine: Path) -> Path:
    """`x.engine` -> `x.engine.parity.json`: how its first load on a machine compared with the reference."""
    return engine.with_name(engine.name + ".parity.json")


@dataclass(frozen=True)
class ModelKind:
    """A kind of file that holds a whole model: weights, spec and provenance.

    The two functions are named as `module:function` and imported when they are called, since most need heavy packages.
    Both take the path of an existing file and raise ModelFileError for one that is damaged or foreign.
    """

    file: str
    """Name of the published file; the kind is known by its suffix."""
    noun: str
    """Name of the kind in sentences: `checkpoint`."""
    asset: str
    """Asset that publishes it."""
    verifier: str
    """Checks that every byte is as it was written."""
    reader: str
    """Verifies the file and returns its spec and provenance."""
    beside: tuple[str, ...] = ()
    """Endings of the files that must lie beside it: `.json` for `x.engine.json`."""
    measured: bool = True
    """Whether `auto` measures its runtimes where several work. False takes the first one of their table, for files
    that take longer to load than the faster runtime could save."""

    @property
    def suffix(self) -> str:
        """`.ckpt`"""
        return Path(self.file).suffix

    def missing(self, path: Path) -> ModelFileError:
        """The error for a path without a file."""
        return ModelFileError(f"There is no {self.noun} {path}: materialize {self.asset} or name another file.")

    def verify(self, path: Path) -> Any:
        """The result of the verifier, the bytes for most kinds; ModelFileError unless they are as they were written."""
        return _function(self.verifier)(path)

    def describe(self, path: Path) -> tuple[ModelSpec, Provenance]:
        """Spec and provenance of a file; ModelFileError where it is damaged or foreign."""
        described: tuple[ModelSpec, Provenance] = _function(self.reader)(path)
        return described


KINDS: dict[str, ModelKind] = {
    kind.suffix: kind
    for kind in (
        ModelKind(
            ONNX,
            "ONNX file",
            "onnx_model",
            verifier="har_assets.model.integrity:verify",
            reader="har_assets.model.describe:describe_onnx",
        ),
        ModelKind(
            CHECKPOINT,
            "checkpoint",
            "trained_checkpoint",
            verifier="har_assets.model.integrity:verify_checkpoint",
            reader="har_assets.model.describe:describe_checkpoint",
            measured=False,  # torch.compile takes some 10 s a batch size
        ),
        ModelKind(
            ENGINE,
            "engine",
            "trt_engine",
            verifier="har_assets.model.integrity:verify_engine",
            reader="har_assets.model.describe:describe_engine",
            beside=(".json",),
        ),
    )
}
"""Suffix -> kind. The order is that of `har bench`; the first is the one that is deployed."""


def kind_of(path: Path) -> ModelKind:
    """The kind of a model file.

    Raises:
        ModelFileError: there is no such file, or no kind has its suffix.
    """
    kind = KINDS.get(path.suffix)
    if kind is None:
        raise ModelFileError(f"{path} is no model file: name one that ends in {' or '.join(KINDS)}.")
    if not path.is_file():
        raise kind.missing(path)
    return kind


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
