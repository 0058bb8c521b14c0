"""Made evaluations of videos that come from films: which videos a film has, and answers that are alike in a film.

N videos, M films, R rounds.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from har_assets.dataset.archive import extract_split_lists
from har_assets.dataset.groups import hmdb51_film
from har_assets.dataset.lists import read_split_lists

Videos = tuple[list[str], list[str]]
"""Source film and class of each of N videos."""


def hmdb51_test_videos(folder: str = "") -> dict[str, Videos]:
    """The test videos of HMDB51's three official splits, from `test_train_splits.rar` in a folder."""
    shared = Path(folder or os.environ.get("HAR_SHARED_DATA", "../shared/data"))
    with tempfile.TemporaryDirectory() as temporary:
        lists = Path(temporary) / "lists"
        extract_split_lists(shared / "test_train_splits.rar", lists)
        table = read_split_lists(lists)
    found = {}
    for number, part in table[table["role"] == "test"].groupby("split"):
        labels = part["label"].tolist()
        films = [hmdb51_film(name, label) or name for name, label in zip(part["name"], labels, strict=True)]
        found[f"HMDB51 split {number}"] = (films, labels)
    return found


def made_videos(films: int, kind: str, classes: int = 5) -> Videos:
    """Videos of a few films, each of two of the classes.

    `kind`: `equal`, 20 videos a film; `unequal`, 300 / rank; `half`, half of all in the first and 10 in each other.
    """
    rank = np.arange(films)
    sizes = {
        "equal": np.full(films, 20),
        "unequal": 300 // (rank + 1),
        "half": np.where(rank == 0, 10 * (films - 1), 10),
    }[kind]
    rng = np.random.default_rng(films)
    labels = [label for size in sizes for label in rng.choice(rng.permutation(classes)[:2], size)]
    return [str(film) for film in np.repeat(rank, sizes)], [str(label) for label in labels]


def numbers(names: list[str]) -> NDArray[np.int64]:
    """Each name as its position among the different ones."""
    return np.unique(names, return_inverse=True)[1]


def drawn_rates(
    rng: np.random.Generator, kind: str, accuracy_K: NDArray[np.float64], alike: float, videos_N: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The chance of a right answer of each video in one round; its mean over films is that of the class.

    `videos_N`: film and class of each, [2, N]. `alike` is the correlation of two videos of a film: where `kind` is
    `beta` of the answers, for each class anew, where it is `probit` of what decides them, for all classes together.
    """
    film_N, class_N = videos_N
    films, classes = film_N.max() + 1, len(accuracy_K)
    if kind == "probit":
        easy_M = rng.standard_normal(films)
        return ndtr((ndtri(accuracy_K)[class_N] + np.sqrt(alike) * easy_M[film_N]) / np.sqrt(1 - alike))
    strength = 1 / alike - 1
    cell_N = film_N * classes + class_N
    used_C, cell_N = np.unique(cell_N, return_inverse=True)
    accuracy_C = accuracy_K[used_C % classes]
    return rng.beta(accuracy_C * strength + 1e-9, (1 - accuracy_C) * strength + 1e-9)[cell_N]
