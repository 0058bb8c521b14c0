"""A process that dies while it replaces the data set: at the first rename or at the second."""

KILLED_SWAP = """
import os, signal, sys
from pathlib import Path
from har_assets.dataset.folder import new_data
steps, rename = int(sys.argv[2]), Path.rename

def rename_and_die(path, target):
    global steps
    done = rename(path, target)
    steps -= 1
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

Path.rename = rename_and_die
with new_data(Path(sys.argv[1])) as staging:
    (staging / "dataset.json").write_text("{}")
"""
"""Script: the folder of the data set and the number of renames after which the process is killed."""
