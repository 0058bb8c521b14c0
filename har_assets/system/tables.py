"""Tables in CSV files: the columns of each are declared once, for those who write it, read it and describe it."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from har_assets.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd

PANDAS_TYPES = {"str": "str", "bool": "bool", "int": "int64", "int?": "Int64", "float": "float64"}
"""Type of a column to its type in pandas. An empty cell is an empty `str`, a missing `int?` or a `float` NaN."""


@dataclass(frozen=True)
class Column:
    """One column."""

    type: str
    """A key of PANDAS_TYPES."""
    meaning: str
    """What a cell holds, with its unit."""


@dataclass(frozen=True)
class Table:
    """A CSV file with a header."""

    file: str
    """Name of the file, of the product that publishes it."""
    columns: Mapping[str, Column]
    """In the order of the file."""

    @property
    def types(self) -> dict[str, str]:
        """Column to its type in pandas."""
        return {name: PANDAS_TYPES[column.type] for name, column in self.columns.items()}

    def read(self, path: Path) -> pd.DataFrame:
        """Read a file of this form; further columns are texts, and a class named `nan` or `NA` stays one.

        Raises:
            DatasetError: columns are missing, or a cell does not have the type of its column.
        """
        import pandas as pd

        types = self.types
        try:
            table = pd.read_csv(
                path,
                dtype=defaultdict(lambda: "str", types),
                keep_default_na=False,
                na_values={name: [""] for name, kind in types.items() if kind in ("Int64", "float64")},
            )
        except ValueError as error:
            raise DatasetError(f"{path} is damaged ({error}): materialize its asset again with force: true.") from None
        if missing := [name for name in types if name not in table]:
            raise DatasetError(f"{path} lacks {', '.join(missing)}: materialize its asset again with force: true.")
        return table

    def count(self, path: Path) -> int:
        """Count the rows of a file, without its header."""
        with path.open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.reader(file)) - 1
