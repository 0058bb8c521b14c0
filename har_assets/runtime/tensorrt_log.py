"""Messages of TensorRT and TensorRT-RTX while they build or run an engine, kept from the terminal."""

from collections.abc import Callable
from typing import Any


class TensorRTLog:
    """Keeps the first error for the sentence that people read, and hands every message on."""

    def __init__(self, trt: Any, tell: Callable[[str, str], None]) -> None:
        """`trt` is the library's module; `tell` gets the severity (`VERBOSE`, `INFO`, `WARNING`, ...) and the text."""
        self.first_error = ""
        outer = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            """The library's view of this log."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                """Called by the library with each message."""
                if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                    outer.first_error = outer.first_error or message
                tell(severity.name, message)

        self.logger = Logger()
        """For the library."""
