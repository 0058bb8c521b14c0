"""Recordings found by `groups: auto` against true ones, and the time and memory that many fingerprints take.

    python -m benchmarks.recordings SET...          folders that hold videos/CLASS/VIDEO and groups.csv (clip,group)
    python -m benchmarks.recordings --made 100000   made fingerprints

A row for the names as they are, one for names that tell nothing. The share is that of test videos of the seeded
70/30 split with a video of the same true recording in train or validation.
"""

import argparse
import csv
import hashlib
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from har_assets.dataset.fingerprints import VALUES, Content
from har_assets.dataset.recordings import find_recordings, linked, neighbours
from har_assets.dataset.splits import build_manifests


def shares(videos: Path, true: dict[str, str], groups: str, content: Content) -> tuple[str, float, float]:
    """What is known of the recordings, the adjusted Rand index against the true ones, and the share, of one split."""
    from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]

    classes = tuple(sorted(path.name for path in videos.iterdir()))
    made = build_manifests(videos, None, split=1, class_names=classes, groups=groups, content=content)
    films = {clip: film for _, part in made.items() for clip, film in zip(part["clip"], part["film"], strict=True)}
    trained = {true[clip] for part in (made.train, made.val) for clip in part["clip"]}
    rand = adjusted_rand_score([true[clip] for clip in films], list(films.values()))
    shared = float(np.mean([true[clip] in trained for clip in made.test["clip"]]))
    return f"{made.summary['groups']} {made.summary['groups_found'].partition(':')[0]}".strip(), float(rand), shared


def measure_set(folder: Path) -> None:
    """Print the rows of one data set."""
    with (folder / "groups.csv").open() as file:
        true = {row["clip"]: row["group"] for row in csv.DictReader(file)}
    hashes = {clip: hashlib.sha256((folder / "videos" / clip).read_bytes()).hexdigest() for clip in true}
    with tempfile.TemporaryDirectory() as made:
        work, nameless = Path(made) / "work", Path(made) / "videos"
        hidden = {clip: f"{clip.partition('/')[0]}/{hashes[clip][:12]}.mp4" for clip in true}
        for clip, name in hidden.items():
            (nameless / name).parent.mkdir(parents=True, exist_ok=True)
            (nameless / name).symlink_to((folder / "videos" / clip).absolute())
        unnamed = Content({hidden[clip]: hashes[clip] for clip in true}, work, print)
        named = Content(hashes, work, print)
        rows = [
            ("none", *shares(folder / "videos", true, "none", named)),
            ("auto", *shares(folder / "videos", true, "auto", named)),
            ("auto, names hidden", *shares(nameless, {hidden[clip]: true[clip] for clip in true}, "auto", unnamed)),
        ]
        prints_NF, _ = named.fingerprints(folder / "videos", list(true))
        distances, nearest = neighbours(prints_NF, prints_NF, 16)
    for groups, knowledge, rand, share in rows:
        print(f"| {folder.name} | {groups} | {knowledge} | {rand:.2f} | {share:.1%} |")
    for limit in (4, 8, 12, 18, 24):
        counts = np.bincount(linked(distances, nearest, limit))
        alone, pairs = int((counts == 1).sum()), int((counts * (counts - 1)).sum()) // 2
        print(f"limit {limit}: {len(counts)} groups, the largest of {counts.max()}, {alone} alone, {pairs} pairs")


def measure_made(count: int, per_recording: int = 40) -> None:
    """Print time and memory for made fingerprints, some recordings of `per_recording` videos each."""
    rng = np.random.default_rng(0)
    places_RF = rng.integers(0, 256, (count // per_recording + 1, VALUES))
    prints_NF = places_RF[np.arange(count) // per_recording] + rng.normal(0, 3, (count, VALUES)).round().astype(int)
    clips = [f"class{number % 50}/{number:x}x.mp4" for number in range(count)]
    began = time.monotonic()
    found = find_recordings(clips, prints_NF.clip(0, 255).astype(np.uint8), np.ones(count, dtype=bool))
    seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    right = found is not None and len(set(found.groups_N)) == -(-count // per_recording)
    print(f"{count:,} fingerprints: {seconds:.0f} s, {peak:.2f} GiB, recordings {'right' if right else 'wrong'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--made", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.made:
        measure_made(options.made)
    if options.sets:
        print("| data | groups | recordings | adjusted Rand | test videos of a recording in train |")
        print("|---|---|---|---|---|")
    for folder in options.sets:
        measure_set(folder)


if __name__ == "__main__":
    main()
