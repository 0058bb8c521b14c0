"""Errors that a person reads. Each message is one sentence that names the remedy."""


class HarError(Exception):
    """A fault that the user can mend. The message says what is wrong and what to do."""


class SettingsError(HarError):
    """Environment variables that hold what they cannot mean."""


class PassingError(HarError):
    """A fault that may be gone in a minute, and that nothing has tried again yet (a network, a server that is away).

    A step of the graph is then tried again after a while; every other HarError fails it at once.
    """


class ArchiveError(HarError):
    """An archive that cannot or must not be unpacked (damaged, encrypted, unsafe, no video inside)."""


class DownloadError(HarError):
    """A download that could not be completed or whose bytes are not the expected ones."""


class VideoError(HarError):
    """A video that yields no frames. The message is the reason that the quarantine table shows."""


class DatasetError(HarError):
    """A data set, class list or split list that contradicts itself or the request."""


class ModelFileError(HarError):
    """A model file that is missing, foreign, damaged or made for another machine."""


class MissingArtifactError(HarError):
    """A product that has not been materialized yet. The message names the command that makes it."""


class StorageError(HarError):
    """A bucket that refuses, or does not hold what it should."""


class StorageGoneError(StorageError, PassingError):
    """A version that a prune removed from a bucket before it was copied; the newest one can be read."""


class StorageAwayError(StorageError, PassingError):
    """A bucket that does not answer."""


class StorageLostError(StorageError, PassingError):
    """A bucket that was held alone and that another machine has taken over, as this one gave no sign of life."""
