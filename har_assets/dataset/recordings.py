"""Recordings of videos that nobody told: parts of names that the pictures confirm, else videos before one background.

N videos, F values of a fingerprint. Distances are root mean squares of grey levels, 0 to 255. Thresholds are measured:
docs/own_data.md, `python -m benchmarks.recordings`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TWINS = 4.0
"""Videos that are nearer show the same place at about the same time."""
NEAR, FAR = 12.0, 18.0
"""One background, narrowly and widely: recordings are what FAR links. NEAR has to link about the same videos."""
_NEIGHBOURS = 16
_BLOCK = 256
_FEW = 256
_SHARED = 0.9
"""Backgrounds are believed where so large a share of the videos has another's: elsewhere they miss recordings."""
_FEWEST = 12
"""Fewer videos show nothing."""
_SAME_PART, _OF_CHANCE = 0.3, 3.0
"""A part of the names is a recording where so many videos share it with the video of another class that looks most
alike, and so many times more than by chance."""


@dataclass(frozen=True)
class Found:
    """Recordings that were inferred."""

    groups_N: list[str]
    how: str
    """A clause: `by ...`."""


def find_recordings(clips_N: Sequence[str], prints_NF: NDArray[np.uint8], seen_N: NDArray[np.bool_]) -> Found | None:
    """Recordings of videos, None where neither names nor pictures tell them.

    Args:
        clips_N: `<class>/<file>`.
        prints_NF: a fingerprint each, see `har_assets.dataset.fingerprints`.
        seen_N: False where a video gave no fingerprint; it becomes a recording of its own, unless its name tells one.
    """
    if int(seen_N.sum()) < _FEWEST:
        return None
    return _by_names(clips_N, prints_NF, seen_N) or _by_backgrounds(clips_N, prints_NF, seen_N)


def _by_names(clips_N: Sequence[str], prints_NF: NDArray[np.uint8], seen_N: NDArray[np.bool_]) -> Found | None:
    candidates = _parts_of_names(clips_N)
    if not candidates:
        return None
    _, labels_N = np.unique([clip.partition("/")[0] for clip in clips_N], return_inverse=True)
    shown_M = np.flatnonzero(seen_N)
    _, nearest_M1 = neighbours(prints_NF[shown_M], prints_NF[shown_M], 1, apart=(labels_N[shown_M], labels_N[shown_M]))
    best = 0.0
    found = None
    for what, parts_N in candidates:
        names_G, group_N = np.unique(parts_N, return_inverse=True)
        group_M = group_N[shown_M]
        same = float((group_M[nearest_M1[:, 0]] == group_M).mean())
        chance = _chance(group_M, labels_N[shown_M])
        if len(names_G) >= 3 and same >= max(_SAME_PART, _OF_CHANCE * chance) and same - chance > best:
            best = same - chance
            found = Found(
                [f"name {part}" for part in parts_N],
                f"by {what} of the file names: {same:.0%} of the videos look most like one that shares it, "
                f"{chance:.0%} would by chance",
            )
    return found


def _parts_of_names(clips_N: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What of the names may be a recording: each word or number after the class is taken out, where 19 of 20 have it.

    A name without it is a recording of its own.
    """
    words_N = []
    for clip in clips_N:
        label, _, name = clip.partition("/")
        stem = name.rpartition(".")[0] or name
        rest = re.sub(rf"(?<![^\W_]){re.escape(label)}(?![^\W\d_])", " ", stem, flags=re.IGNORECASE)
        words_N.append(re.findall(r"[^\W_]+", rest))
    common = sorted(map(len, words_N))[len(words_N) // 20]

    def at(place: int) -> list[str]:
        return [words[place] if len(words) >= common else clip for words, clip in zip(words_N, clips_N, strict=True)]

    places = {f"part {place + 1}": at(place) for place in range(min(common, 4))}
    if common > 1:
        places["the last part"] = at(-1)
    return [(what, parts) for what, parts in places.items() if 3 <= len(set(parts)) <= len(clips_N) / 2]


def _chance(group_N: NDArray[np.intp], label_N: NDArray[np.intp]) -> float:
    """Share of the pairs of different classes that are of one group."""

    def pairs(codes: NDArray[np.intp]) -> float:
        count = np.unique(codes, return_counts=True)[1].astype(float)
        return float((count * (count - 1)).sum())

    total = float(len(group_N) * (len(group_N) - 1)) - pairs(label_N)
    both = pairs(group_N * (int(label_N.max()) + 1) + label_N)
    return (pairs(group_N) - both) / total if total else 1.0


def _by_backgrounds(clips_N: Sequence[str], prints_NF: NDArray[np.uint8], seen_N: NDArray[np.bool_]) -> Found | None:
    """Groups of videos that a chain of like backgrounds links; None where other thresholds give quite other groups."""
    shown_M = np.flatnonzero(seen_N)
    distance_MK, nearest_MK = neighbours(prints_NF[shown_M], prints_NF[shown_M], _NEIGHBOURS, within=FAR)
    narrow_M, wide_M = (linked(distance_MK, nearest_MK, limit) for limit in (NEAR, FAR))
    narrow_G, wide_G = np.bincount(narrow_M), np.bincount(wide_M)
    pairs = [float((count * (count - 1.0)).sum()) for count in (narrow_G, wide_G)]
    shared = float((wide_G[wide_M] > 1).mean())
    if shared < _SHARED or wide_G.max() > 0.25 * len(shown_M) or pairs[1] > 2 * pairs[0]:
        return None
    first_G = shown_M[np.unique(wide_M, return_index=True)[1]]
    groups_N = [f"background of {clip}" for clip in clips_N]
    for video, group in zip(shown_M, wide_M, strict=True):
        groups_N[video] = f"background of {clips_N[first_G[group]]}"
    return Found(groups_N, f"by their backgrounds: {shared:.0%} of the videos share theirs with another")


def linked(distance_NK: NDArray[np.float32], nearest_NK: NDArray[np.intp], limit: float) -> NDArray[np.intp]:
    """Numbers of the groups [N] that chains of neighbours nearer than `limit` link; arguments as of `neighbours`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.nonzero(distance_NK < limit)
    links = coo_array(
        (np.ones(len(rows), dtype=np.int8), (rows, nearest_NK[rows, columns])), shape=(len(distance_NK),) * 2
    )
    found: NDArray[np.intp] = connected_components(links, directed=False)[1].astype(np.intp)
    return found


def neighbours(
    prints_NF: NDArray[np.uint8],
    among_MF: NDArray[np.uint8],
    count: int,
    *,
    within: float = math.inf,
    apart: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Distances and places of the `count` nearest of M fingerprints to each of N, itself left out, in no order.

    Memory is that of the fingerprints as float32 and of 256 rows of distances, so 100,000 videos do.

    Args:
        prints_NF: uint8.
        among_MF: uint8; the same object as `prints_NF` leaves each video itself out.
        count: at most M of them are returned.
        within: nothing farther is looked for; the distance of a place that is left over is infinite.
        apart: codes of N and of M videos; those of one code are no neighbours.
    """
    itself = prints_NF is among_MF or (prints_NF.shape == among_MF.shape and np.shares_memory(prints_NF, among_MF))
    among_FM = np.ascontiguousarray(among_MF.T, dtype=np.float32)
    square_M = (among_FM**2).sum(axis=0)
    count = min(count, len(square_M))
    distances = np.full((len(prints_NF), count), np.inf, dtype=np.float32)
    places = np.zeros((len(prints_NF), count), dtype=np.intp)
    for start in range(0, len(prints_NF), _BLOCK):
        block_BF = prints_NF[start : start + _BLOCK].astype(np.float32)
        rows = np.arange(len(block_BF))
        square_BM = block_BF @ among_FM
        square_BM *= -2
        square_BM += square_M
        if itself:
            square_BM[rows, start + rows] = np.inf
        if apart is not None:
            square_BM[apart[0][start : start + _BLOCK, None] == apart[1][None]] = np.inf
        own_B1 = (block_BF**2).sum(axis=1)[:, None]
        near_BM = square_BM < within**2 * prints_NF.shape[1] - own_B1
        if count > 1 and np.count_nonzero(near_BM) < _FEW * len(rows):
            # Few are near, as a rule: these are sorted, where finding the nearest of all takes four times as long.
            row, chosen = np.nonzero(near_BM)
            order = np.lexsort((square_BM[row, chosen], row))
            row, chosen = row[order], chosen[order]
            rank = np.arange(len(row)) - np.searchsorted(row, row)
            row, chosen, rank = (each[rank < count] for each in (row, chosen, rank))
        else:
            nearest = square_BM.argmin(axis=1)[:, None]
            if count > 1:
                nearest = np.argpartition(square_BM, count - 1, axis=1)[:, :count]
            row, rank = (each.ravel() for each in np.indices(nearest.shape))
            chosen = nearest.ravel()
        square = square_BM[row, chosen] + own_B1[row, 0]
        distances[start + row, rank] = np.sqrt(np.maximum(square, 0) / prints_NF.shape[1])
        places[start + row, rank] = chosen
    return distances, places
