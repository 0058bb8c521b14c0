"""The files of a model: their names."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = "video_action_model.ckpt"
ONNX = "video_action_model.onnx"
ENGINE = "video_action_model.engine"

CARD = "README.md"
"""Model card: under this name a model hub shows it."""


def onnx_name(precision: str) -> str:
    """`video_action_model.int8.onnx`: a precision beside the deployed one, which is `video_action_model.onnx`."""
    return f"{Path(ONNX).stem}.{precision}.onnx"


def sidecar_path(engine: Path) -> Path:
    """`x.engine` -> `x.engine.json`: what the engine was made from and runs on."""
    return engine.with_name(engine.name + ".json")


def reference_path(engine: Path) -> Path:
    """`x.engine` -> `x.engine.reference.npz`: clips and the scores that its ONNX file gave them."""
    return engine.with_name(engine.name + ".reference.npz")
