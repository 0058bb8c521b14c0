"""One predictor over many engines: `open_model(path).predict(clips_BCTHW)`."""

from har_assets.runtime.choice import RUNTIMES, RuntimeChoice, available_runtimes, open_model, read_spec
from har_assets.runtime.predictor import Predictor

__all__ = ["RUNTIMES", "Predictor", "RuntimeChoice", "available_runtimes", "open_model", "read_spec"]
