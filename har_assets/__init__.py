"""har_assets: HMDB51 from raw archive to a measured TensorRT engine, as a graph of Dagster assets.

`defs` is loaded on first use, so that `har predict` and the training process, which need no
graph, do not pay for the import of Dagster.
"""

import os
from typing import Any

# PyTorch's threads on a CPU wait for each other by spinning, so that a second program on one of the cores may hold them
# all up: on one machine a training of cnn3d on two cores fell to a fourteenth, on another it made no difference. They
# spin shorter with this; where nothing else runs no cost was seen (`benchmarks/bench_shared_cores.py`). Read when torch
# is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
__all__ = ["defs"]


def __getattr__(name: str) -> Any:
    if name == "defs":
        from har_assets.graph.failures import load_failures_in_words

        with load_failures_in_words():
            from har_assets.definitions import defs

        return defs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names of the module, `defs` among them: Dagster's `-m har_assets` finds it by this list."""
    return [*globals(), "defs"]
