"""Every clip decoded once, to uint8 frames in memory-mapped packs.

A cache is a folder:

    params.json        how the frames were made (CacheParams)
    index.csv          clip, sha256, pack, first_frame, num_frames, fps, source_frames, decoder, note
    quarantine.csv     clip, reason: the clips that gave no frame
    frames-<id>.npy    packs: uint8 [frames, height, width, 3], for np.load(mmap_mode='r')

A clip is known by the SHA-256 of its file. Adding clips therefore decodes only these: the packs of the
earlier cache are hard-linked beside one with the new clips. Quarantined clips are tried again by every build.

While it is built, a pack lies in a work folder beside a journal with a line a clip, written after the clip's
frames. A build that was killed goes on after the last line whose frames are really there, and ends with the
same files as an undisturbed one, as clips get their places in the order of their names.

    cache      reads it, and holds its parameters and tables
    build      decodes clips into one, and merges several
    journal    the work folder of a build
"""

from har_assets.video.frame_cache.build import (
    CacheReport,
    build_frame_cache,
    clear_work,
    merge_frame_caches,
)
from har_assets.video.frame_cache.cache import INDEX_COLUMNS, TABLES, CacheParams, FrameCache

__all__ = [
    "INDEX_COLUMNS",
    "TABLES",
    "CacheParams",
    "CacheReport",
    "FrameCache",
    "build_frame_cache",
    "clear_work",
    "merge_frame_caches",
]
