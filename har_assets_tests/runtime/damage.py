"""Load damaged model files in a process of its own, one line of JSON each: what became of it.

`python -m har_assets_tests.runtime.damage FOLDER COUNT SEED` damages `sound.ckpt`, `sound.onnx` and `sound.engine` with
its JSON of the folder. Each damaged file has to be refused by a ModelFileError, or to give exactly the scores of the
sound one (an engine, which only a GPU executes: exactly its bytes and fields). A process that crashes writes no
further line, which the test counts.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from har_assets.errors import HarError, ModelFileError
from har_assets.model.integrity import verify_engine
from har_assets.runtime import available_runtimes, open_model

TARGETS = ("sound.ckpt", "sound.onnx", "sound.engine", "sound.engine.json")
KINDS = ("cut", "flip", "flips", "zeros", "noise", "insert", "swap")


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


def answers(path: Path, runtime: str, clips_BCTHW: Any) -> Any:
    """What a file says: scores, or of an engine its bytes and fields."""
    if path.suffix != ".engine":
        return open_model(path, runtime).predict(clips_BCTHW).tobytes()
    try:
        open_model(path, runtime)
    except HarError as error:
        # A sound one does not run without a GPU either, but nothing else is to be said of it.
        if "cannot run here, as it is for GPUs" not in str(error):
            raise
    return verify_engine(path, path.with_name(path.name + ".json"))


def main() -> None:
    """Damage, load, report."""
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    spec = open_model(folder / "sound.onnx", "onnxruntime_cpu").spec
    clips_BCTHW = np.random.default_rng(0).integers(0, 256, (2, *spec.clip_shape_CTHW), np.uint8)
    runtimes = {
        ".ckpt": ["pytorch"],
        ".onnx": [found.name for found in available_runtimes(folder / "sound.onnx") if found.available],
        ".engine": ["auto"],
    }
    sound = {
        (suffix, runtime): answers(folder / f"sound{suffix}", runtime, clips_BCTHW)
        for suffix, names in runtimes.items()
        for runtime in names
    }
    trial = folder / "trial"
    trial.mkdir()
    for number in range(count):
        target, kind = TARGETS[number % len(TARGETS)], KINDS[number // len(TARGETS) % len(KINDS)]
        for name in TARGETS:
            content = (folder / name).read_bytes()
            (trial / name).write_bytes(damage(content, kind, rng) if name == target else content)
        suffix = Path(target.removesuffix(".json")).suffix
        for runtime in runtimes[suffix]:
            try:
                same = answers(trial / f"sound{suffix}", runtime, clips_BCTHW) == sound[suffix, runtime]
                outcome = "same" if same else "DIFFERENT"
            except ModelFileError as error:
                outcome = f"refused: {error}"
            report = {"number": number, "target": target, "kind": kind, "runtime": runtime, "outcome": outcome}
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
