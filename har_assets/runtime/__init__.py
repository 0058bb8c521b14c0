"""One predictor over many engines: `open_model(path).predict(clips_BCTHW)`.

The names below are imported when they are first asked for, so that whoever needs one light module of this package does
not wait for NumPy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from har_assets.runtime.choice import RUNTIMES, RuntimeChoice, available_runtimes, open_model, read_spec
    from har_assets.runtime.predictor import Predictor

__all__ = ["RUNTIMES", "Predictor", "RuntimeChoice", "available_runtimes", "open_model", "read_spec"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from har_assets.runtime import choice

    return getattr(choice, name)
