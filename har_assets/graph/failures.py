"""Failures as sentences: a HarError becomes a dagster.Failure of one sentence, a PassingError a retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
import dagster as dg

from har_assets.errors import HarError, PassingError
from har_assets.graph.dagster_private import DagsterUserCodeProcessError, SerializableErrorInfo


class SentenceFailure(dg.Failure, DagsterUserCodeProcessError):  # noqa: N818 - named as its parent
    """A dagster.Failure that is shown as its sentence, without a stack trace, which would not help its reader.

    Dagster shows the one error info of a DagsterUserCodeProcessError in place of the exception's own.
    """

    def __init__(self, sentence: str) -> None:
        Exception.__init__(self, sentence)  # the two parents take different arguments
        self.description, self.metadata, self.allow_retries = sentence, {}, False
        self.user_code_process_error_infos = [SerializableErrorInfo(f"{sentence}\n", stack=[], cls_name="Failure")]


class LoadError(DagsterUserCodeProcessError, click.ClickException):
    """A graph that cannot be loaded, shown as its sentence by the web UI and by Dagster's commands."""

    def __init__(self, sentence: str) -> None:
        info = SerializableErrorInfo(f"{sentence}\n", stack=[], cls_name="LoadError")
        super().__init__(sentence, user_code_process_error_infos=[info])  # type: ignore[no-untyped-call]


RETRY_PAUSES_S = (15.0, 60.0, 240.0)
"""Pauses before a step is tried again after a PassingError, seconds: long enough for a server to restart."""


@contextmanager
def load_failures_in_words() -> Iterator[None]:
    """Turn a HarError while the graph is loaded into a LoadError."""
    try:
        yield
    except HarError as error:
        raise LoadError(str(error)) from None


@contextmanager
def failures_in_words() -> Iterator[None]:
    """Turn a HarError into a dagster.Failure whose description is its sentence.

    A PassingError has Dagster try the step again, after the pauses in RETRY_PAUSES_S; then the step fails.
    """
    try:
        yield
    except PassingError as error:
        step = dg.OpExecutionContext.get()
        if step.retry_number >= len(RETRY_PAUSES_S):
            raise SentenceFailure(str(error)) from None
        pause_s = RETRY_PAUSES_S[step.retry_number]
        step.log.warning(f"{error} The step is tried again in {pause_s:g} s.")
        raise dg.RetryRequested(len(RETRY_PAUSES_S), pause_s) from SentenceFailure(str(error))
    except HarError as error:
        raise SentenceFailure(str(error)) from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise dg.Failure(
            description=f"The operating system refused: {error.strerror}{where}; mend that and run the same command.",
            allow_retries=False,
        ) from error
