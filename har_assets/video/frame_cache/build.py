"""Building a frame cache: every clip decoded by a process a core, written in the order of the names.

workers ──a file of frames a clip──► places in a pack, in order ──► copied by threads ──► noted, in order
"""

import os
import shutil
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

from har_assets.errors import HarError, VideoError
from har_assets.system.files import DISK_FULL_ERRNOS, Log, format_bytes, format_seconds, sha256_of
from har_assets.system.locks import exclusive
from har_assets.video.decode import VideoReader
from har_assets.video.frame_cache.cache import INDEX_COLUMNS, CacheParams, Entry, FrameCache, write_tables
from har_assets.video.frame_cache.journal import LOCK, Decoded, Journal, write_all
from har_assets.video.workers import available_cores, decode_many

# A pack ends at the clip that would make it larger. Small enough to copy and upload in one go.
PACK_BYTES = 2 << 30

# Clips that are decoded first to learn how many frames and seconds a clip takes; kept, not thrown away.
SAMPLE_CLIPS = 16

PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class CacheReport:
    """Counts of a build."""

    clips: int
    """Clips in the index."""
    decoded: int
    """Videos decoded by this call."""
    resumed: int
    """Videos taken over from a build that was interrupted."""
    reused: int
    """Videos taken over from the earlier cache."""
    quarantined: dict[str, str]
    """Clip name to reason."""
    notes: dict[str, str]
    """Clip name to what is odd about it, where something is."""
    frames: int
    """Frames that the index names, a video under two names counted once."""
    bytes: int
    """Size of the packs."""
    seconds: float
    """Wall-clock time of the call."""


def build_frame_cache(
    clips: Mapping[str, Path],
    *,
    params: CacheParams,
    folder: Path,
    work: Path,
    whole: Collection[str] = (),
    previous: Path | None = None,
    workers: int | None = None,
    timeout_s: float = 120,
    pack_bytes: int = PACK_BYTES,
    may_be_empty: bool = False,
    log: Log = print,
) -> CacheReport:
    """Decode every clip into a cache in `folder`.

    Args:
        clips: clip name to video file.
        params: frame size, stride and frame count.
        folder: made or filled; the packs in it are hard links to those in `work`.
        work: kept between calls, so that a killed build is resumed; `clear_work` when the cache is published.
        whole: names of the clips of which every frame is kept, whatever `max_frames` says.
        previous: the folder of an earlier cache, whose packs are hard-linked where the parameters agree.
        workers: processes; None takes one a core.
        timeout_s: seconds that decoding one video may take.
        pack_bytes: a pack ends before the clip that would make it larger.
        may_be_empty: not one decodable clip is no error: this is a part of a cache.
        log: takes a line at a time: the need in disk and time, then progress every few seconds.

    Returns:
        Counts and the quarantine.

    Raises:
        HarError: no clips, not one decodable clip, too little disk, or another build at work in `work`.

    """
    if not clips:
        raise HarError("There are no clips to cache: the list of clips is empty.")
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    with (
        exclusive(work, "a frame cache", name=LOCK, wait_s=0),
        _disk_errors_in_words(work),
        ExitStack() as opened,
    ):
        log(f"Hashing {len(clips):,} videos.")
        sha_of_clip, quarantine = _hash_all(clips, workers or available_cores())
        clip_of_sha: dict[str, str] = {}
        for clip in sorted(sha_of_clip):
            clip_of_sha.setdefault(sha_of_clip[clip], clip)

        whole_shas = {sha_of_clip[clip] for clip in whole if clip in sha_of_clip}

        def is_enough(entry: Entry) -> bool:
            return entry.sha256 not in whole_shas or not params.cuts(entry.num_frames)

        reused = {
            sha: entry
            for sha, entry in _reusable_entries(previous, params, set(clip_of_sha)).items()
            if is_enough(entry)
        }
        journal = opened.enter_context(closing(Journal(work, params, pack_bytes)))
        if journal.entries and all(sha in reused for sha in journal.entries):
            journal.start_again()  # what it holds is published
        held = {sha: entry for sha, entry in journal.entries.items() if is_enough(entry)}
        done = {**held, **reused}
        plan = [
            _Planned(sha, clips[clip], sha in whole_shas)
            for sha, clip in clip_of_sha.items()
            if sha not in done and sha not in journal.reasons
        ]
        resumed = len(held.keys() & clip_of_sha.keys() - reused.keys())
        log(
            f"Frame cache of {params.height}x{params.width} frames: {len(plan):,} videos to decode, "
            f"{len(reused):,} reused, {resumed:,} resumed."
        )
        _decode_into(journal, plan, workers=workers, timeout_s=timeout_s, log=log)

        final_names = journal.seal()
        packs = {name: work / pack for pack, name in final_names.items()}
        if previous is not None:
            packs.update({entry.pack: previous / entry.pack for entry in reused.values()})
        entries = {
            **{sha: replace(entry, pack=final_names[entry.pack]) for sha, entry in journal.entries.items()},
            **reused,
        }
        for clip, sha in sha_of_clip.items():
            if sha not in entries:
                quarantine[clip] = journal.reasons[sha]
        rows = {clip: entries[sha] for clip, sha in sorted(sha_of_clip.items()) if sha in entries}
        if not rows and not may_be_empty:
            clip, reason = next(iter(sorted(quarantine.items())))
            raise HarError(
                f"None of the {len(clips):,} clips could be decoded; the first, {clip}: {reason}. "
                "Check the folder that the clips come from."
            )
        names = {entry.pack for entry in rows.values()}
        for name in names:
            _link_or_copy(packs[name], folder / name)
        write_tables(folder, params, rows, quarantine)
    return CacheReport(
        clips=len(rows),
        decoded=len(plan),
        resumed=resumed,
        reused=len(reused),
        quarantined=dict(sorted(quarantine.items())),
        notes={clip: entry.note for clip, entry in rows.items() if entry.note},
        frames=sum(entries[sha].num_frames for sha in {entry.sha256 for entry in rows.values()}),
        bytes=sum((folder / name).stat().st_size for name in names),
        seconds=time.monotonic() - started,
    )


def merge_frame_caches(parts: list[Path], folder: Path, *, packs_elsewhere: bool = False) -> CacheReport:
    """One cache in `folder` from caches of different clips with the same parameters, whose packs are hard-linked.

    With `packs_elsewhere` none is: the parts are tables alone, and the caller sees to the packs.
    Returns counts and the quarantine. Raises HarError where parameters differ or no part has a clip.
    """
    caches = [FrameCache(part) for part in parts]
    if len({cache.params for cache in caches}) != 1:
        raise HarError("Frame caches that were made with different parameters cannot be merged: build them again.")
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Entry] = {}
    quarantine: dict[str, str] = {}
    for cache in caches:
        for row in cache.index.to_dict("records"):
            facts = {name: row[name] for name in INDEX_COLUMNS[1:]}
            rows[str(row["clip"])] = Entry(**facts, crc32=0)
        quarantine.update(zip(cache.quarantine["clip"], cache.quarantine["reason"], strict=True))
        for name in [] if packs_elsewhere else cache.pack_names:
            _link_or_copy(cache.folder / name, folder / name)
    if not rows:
        clip, reason = next(iter(sorted(quarantine.items())))
        raise HarError(
            f"None of the {len(quarantine):,} clips could be decoded; the first, {clip}: {reason}. "
            "Check the folder that the clips come from."
        )
    write_tables(folder, caches[0].params, dict(sorted(rows.items())), quarantine)
    frames = {entry.sha256: entry.num_frames for entry in rows.values()}
    return CacheReport(
        clips=len(rows),
        decoded=0,
        resumed=0,
        reused=0,
        quarantined=dict(sorted(quarantine.items())),
        notes={clip: entry.note for clip, entry in sorted(rows.items()) if entry.note},
        frames=sum(frames.values()),
        bytes=sum(pack.stat().st_size for pack in folder.glob("*.npy")),
        seconds=0.0,
    )


def clear_work(work: Path) -> None:
    """Remove what an interrupted or published build keeps in `work`; the cache's own links stay."""
    if work.exists():
        with exclusive(work, "a frame cache", name=LOCK, wait_s=0):
            for path in work.iterdir():
                if path.name != LOCK:
                    path.unlink()


@dataclass
class _Progress:
    """Says every few seconds how far the build is."""

    total: int
    log: Log
    done: int = 0
    refused: int = 0
    first: float = 0.0
    """When the first video was done: until then the workers start, which says nothing of the rate."""
    said: float = field(default_factory=time.monotonic)

    @property
    def seconds_a_video(self) -> float:
        """Mean since the first one; 0.0 before the second."""
        return (time.monotonic() - self.first) / (self.done - 1) if self.done > 1 else 0.0

    def step(self, refused: bool) -> None:
        now = time.monotonic()
        self.first = self.first or now
        self.done += 1
        self.refused += refused
        pace = self.seconds_a_video
        if (now - self.said >= PROGRESS_SECONDS and pace) or self.done == self.total:
            self.said = now
            rate = f" {1 / pace:.1f} a second, {format_seconds((self.total - self.done) * pace)} left," if pace else ""
            self.log(f"{self.done:,} of {self.total:,} videos,{rate} {self.refused:,} quarantined.")


@dataclass(frozen=True)
class _Planned:
    """A video that is to be decoded."""

    sha: str
    path: Path
    whole: bool
    """Every frame is kept."""


def _decode_into(
    journal: Journal,
    plan: list[_Planned],
    *,
    workers: int | None,
    timeout_s: float,
    log: Log,
) -> None:
    """Decode the plan in parallel and append to the journal's packs in the order of the plan."""
    params = journal.params
    # A sample from all over the plan goes first; its frames wait on the disk for their turn.
    step = max(len(plan) // SAMPLE_CLIPS, 1)
    sample = list(range(0, len(plan), step))[:SAMPLE_CLIPS] if len(plan) > 2 * SAMPLE_CLIPS else []
    chosen = set(sample)
    order = sample + [position for position in range(len(plan)) if position not in chosen]
    tasks = ((plan[position], os.fspath(journal.part(plan[position].sha))) for position in order)
    waiting: dict[int, Decoded | VideoError] = {}
    sampled: list[int] = []
    progress = _Progress(len(plan), log)
    next_to_write = 0
    function = partial(_decode_to_file, params=params)
    decoding = decode_many(tasks, function, workers=workers, timeout_s=timeout_s, queued=2, pinned=True)
    with closing(decoding) as results:
        for number, result in results:
            waiting[order[number]] = result
            progress.step(isinstance(result, VideoError))
            if number < len(sample):
                sampled.append(0 if isinstance(result, VideoError) else result.num_frames)
                if len(sampled) == len(sample):
                    _say_need(journal, len(plan), sampled, len(plan) * progress.seconds_a_video, log)
            while next_to_write in waiting:
                ready = waiting.pop(next_to_write)
                sha = plan[next_to_write].sha
                if isinstance(ready, VideoError):
                    journal.refuse(sha, str(ready))
                else:
                    journal.append(sha, ready)
                next_to_write += 1


def _say_need(journal: Journal, clips: int, sampled: list[int], seconds: float, log: Log) -> None:
    """Say the disk and the time that the build will take; raise where the disk has not got it."""
    need = int(clips * (sum(sampled) / len(sampled)) * journal.params.frame_bytes)
    have = shutil.disk_usage(journal.work).free
    log(
        f"Judged by {len(sampled)} clips, this needs {format_bytes(need)} of disk "
        f"({format_bytes(have)} are free) and {format_seconds(seconds)}."
    )
    if need > have:
        raise HarError(
            f"The frame cache needs {format_bytes(need)} of disk and {format_bytes(have)} are free in "
            f"{journal.work}: free some, or ask for smaller or fewer frames a clip."
        )


def _decode_to_file(task: tuple[_Planned, str], *, params: CacheParams) -> Decoded:
    """Decode one video in a worker process and leave its frames in a file, one at a time: a video may be long."""
    video, part = task
    size = params.height, params.width
    reader = VideoReader(video.path, size=size, sampling=params.sampling, resize=params.resize)
    num_frames = crc32 = 0
    with _disk_errors_in_words(Path(part).parent), open(part, "wb", buffering=0) as file:
        for frame_HWC in islice(reader, None if video.whole else params.max_frames):
            content = memoryview(frame_HWC.data).cast("B")
            write_all(file, content)
            crc32 = zlib.crc32(content, crc32)
            num_frames += 1
    return Decoded(num_frames, reader.fps, reader.num_source_frames, reader.decoder, reader.note, crc32)


def _hash_all(clips: Mapping[str, Path], threads: int) -> tuple[dict[str, str], dict[str, str]]:
    """SHA-256 of every video by clip name, and the reason where a file cannot be read."""

    def hashed(path: Path) -> str | VideoError:
        try:
            return sha256_of(path)
        except OSError as error:
            return VideoError(f"the file cannot be read: {error.strerror}")

    with ThreadPoolExecutor(threads) as pool:
        results = dict(zip(clips, pool.map(hashed, clips.values()), strict=True))
    hashes = {clip: result for clip, result in results.items() if isinstance(result, str)}
    reasons = {clip: str(result) for clip, result in results.items() if isinstance(result, VideoError)}
    return hashes, reasons


def _reusable_entries(previous: Path | None, params: CacheParams, wanted: set[str]) -> dict[str, Entry]:
    """Entries of an earlier cache for the wanted videos, from packs of which at least half is wanted."""
    if previous is None or not (previous / "index.csv").is_file():
        return {}
    earlier = FrameCache(previous)
    if earlier.params != params:
        return {}
    entries: dict[str, Entry] = {}
    used: dict[str, int] = {}
    for row in earlier.index.to_dict("records"):
        sha, pack = str(row["sha256"]), str(row["pack"])
        if sha not in wanted or sha in entries or not (previous / pack).is_file():
            continue
        entries[sha] = Entry(
            sha256=sha,
            pack=pack,
            first_frame=int(row["first_frame"]),
            num_frames=int(row["num_frames"]),
            fps=float(row["fps"]),
            source_frames=int(row["source_frames"]),
            decoder=str(row["decoder"]),
            note=str(row["note"]),
            crc32=0,
        )
        used[pack] = used.get(pack, 0) + int(row["num_frames"])
    sizes = {pack: (previous / pack).stat().st_size // params.frame_bytes for pack in used}
    return {sha: entry for sha, entry in entries.items() if 2 * used[entry.pack] >= sizes[entry.pack]}


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


@contextmanager
def _disk_errors_in_words(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        free = shutil.disk_usage(work).free
        raise HarError(
            f"The disk is full while the frame cache is built ({format_bytes(free)} free in {work}): "
            "free some space and run the same command, which goes on from here."
        ) from None
