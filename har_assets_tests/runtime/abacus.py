"""A kind of model file that the product does not have, with two runtimes: what adding one takes.

Importing this module changes nothing; `register` adds its rows to the two tables.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from har_assets.errors import ModelFileError
from har_assets.model.files import KINDS, ModelKind
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.runtime import RUNTIMES
from har_assets.runtime.predictor import Predictor, Runtime, Scores
from har_assets.video.sampling import Clips

SUFFIX = ".abacus"


def write(path: Path, spec: ModelSpec, provenance: Provenance) -> Path:
    """A file of this kind: a line with the SHA-256 of the line below, which is JSON."""
    content = json.dumps({"spec": spec.to_json(), "provenance": provenance.to_json()})
    path.write_text(f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}")
    return path


def verify(path: Path) -> dict[str, Any]:
    digest, _, content = path.read_bytes().partition(b"\n")
    if digest != hashlib.sha256(content).hexdigest().encode():
        raise ModelFileError(f"{path} is damaged (its checksum does not fit its content): count again.")
    fields: dict[str, Any] = json.loads(content)
    return fields


def describe(path: Path) -> tuple[ModelSpec, Provenance]:
    fields = verify(path)
    return ModelSpec.from_json(fields["spec"]), Provenance.from_json(fields["provenance"])


class AbacusPredictor(Predictor):
    """Scores that depend on nothing but the mean of a clip."""

    def __init__(self, path: Path, name: str, error: float, rounds: int) -> None:
        super().__init__(*describe(path))
        self.name, self.runtime, self.error, self.rounds = name, f"{name} 1.0", error, rounds

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        for _ in range(self.rounds):
            mean_B1 = clips_BCTHW.mean(axis=(1, 2, 3, 4), dtype=np.float64)[:, None] / 255
        scores_BK = np.repeat(mean_B1, self.spec.num_classes, axis=1).astype(np.float32)
        return scores_BK + np.float32(self.error)


def runtime(name: str, *, error: float = 0.0, rounds: int = 1, exact: bool = False) -> Runtime:
    """A row whose scores are off by `error`, and which counts `rounds` times."""
    return Runtime(
        name, SUFFIX, lambda path: "", lambda path, threads: AbacusPredictor(path, name, error, rounds), exact=exact
    )


KIND = ModelKind(
    f"video_action_model{SUFFIX}",
    "abacus",
    "counted_model",
    verifier=f"{__name__}:verify",
    reader=f"{__name__}:describe",
)

BEADS, FINGERS = runtime("beads", error=0.001), runtime("fingers", rounds=200, exact=True)
"""The quick one, and the exact one."""


def register() -> None:
    """Add the kind and its runtimes, fastest first."""
    KINDS[KIND.suffix] = KIND
    RUNTIMES[BEADS.name] = BEADS
    RUNTIMES[FINGERS.name] = FINGERS
