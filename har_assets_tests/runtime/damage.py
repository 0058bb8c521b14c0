"""Load damaged model files in a process of its own, one line of JSON each: what became of it.

`python -m har_assets_tests.runtime.damage FOLDER COUNT SEED` damages `sound.ckpt`, `sound.onnx`, `sound.engine` with
its JSON, and whatever other kind of model file the folder has a sound one of. Each damaged file has to be refused by a
ModelFileError, or to give exactly the scores of the sound one (one that nothing runs here: exactly what its verifier
reads). A process that crashes writes no further line, which the test counts.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from har_assets.errors import ModelFileError
from har_assets.model.files import KINDS, ModelKind
from har_assets.runtime import available_runtimes, open_model, read_spec

KINDS_OF_DAMAGE = ("cut", "flip", "flips", "zeros", "noise", "insert", "swap")


def sound_kinds(folder: Path) -> list[ModelKind]:
    """The kinds of which the folder has a sound file."""
    return [kind for kind in KINDS.values() if (folder / f"sound{kind.suffix}").is_file()]


def targets_of(kind: ModelKind) -> list[str]:
    """Names of the files that are damaged: the model, and what has to lie beside it."""
    return [f"sound{kind.suffix}{ending}" for ending in ("", *kind.beside)]


def runtimes_of(sound: Path, kind: ModelKind) -> list[str]:
    """Those that run a file here; only the plainest of a kind whose runtimes take long to load."""
    names = [found.name for found in available_runtimes(sound) if found.available]
    return (names if kind.measured else names[-1:]) or ["auto"]


def damage(content: bytes, kind: str, rng: random.Random) -> bytes:
    """One damaged copy, never equal to the original."""
    broken = bytearray(content)
    place = rng.randrange(len(broken))
    length = min(rng.choice((1, 8, 64, 512, 4096)), len(broken) - place)
    if kind == "cut":
        del broken[place:]
    elif kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else 20):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    elif kind == "zeros":
        broken[place : place + length] = bytes(length)
    elif kind == "noise":
        broken[place : place + length] = rng.randbytes(length)
    elif kind == "insert":
        broken[place:place] = rng.randbytes(length)
    else:
        other = rng.randrange(len(broken) - length + 1)
        first, second = bytes(broken[place : place + length]), bytes(broken[other : other + length])
        broken[place : place + length], broken[other : other + length] = second, first
    if broken == content:
        broken[place] ^= 0x40
    return bytes(broken)


def answers(path: Path, kind: ModelKind, runtime: str, clips_BCTHW: Any) -> Any:
    """What a file says: its scores, or where nothing runs it here, what its verifier reads."""
    try:
        return open_model(path, runtime).predict(clips_BCTHW).tobytes()
    except ModelFileError as error:
        if runtime != "auto" or "cannot run here, as " not in str(error):
            raise
    return kind.verify(path)


def run_trials(folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Damage, load, report: `number`, `target`, `kind` of damage, `runtime` and `outcome` of each load."""
    rng = random.Random(seed)
    kinds = sound_kinds(folder)
    shape_CTHW = read_spec(folder / f"sound{kinds[0].suffix}").clip_shape_CTHW
    clips_BCTHW = np.random.default_rng(0).integers(0, 256, (2, *shape_CTHW), np.uint8)
    sound = {
        (kind.suffix, runtime): answers(folder / f"sound{kind.suffix}", kind, runtime, clips_BCTHW)
        for kind in kinds
        for runtime in runtimes_of(folder / f"sound{kind.suffix}", kind)
    }
    targets = [(kind, target) for kind in kinds for target in targets_of(kind)]
    trial = folder / "trial"
    trial.mkdir()
    for number in range(count):
        kind, target = targets[number % len(targets)]
        way = KINDS_OF_DAMAGE[number // len(targets) % len(KINDS_OF_DAMAGE)]
        for name in targets_of(kind):
            content = (folder / name).read_bytes()
            (trial / name).write_bytes(damage(content, way, rng) if name == target else content)
        for (suffix, runtime), expected in sound.items():
            if suffix != kind.suffix:
                continue
            try:
                found = answers(trial / f"sound{suffix}", kind, runtime, clips_BCTHW)
                outcome = "same" if found == expected else "DIFFERENT"
            except ModelFileError as error:
                outcome = f"refused: {error}"
            yield {"number": number, "target": target, "kind": way, "runtime": runtime, "outcome": outcome}


if __name__ == "__main__":
    for report in run_trials(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])):
        print(json.dumps(report), flush=True)
