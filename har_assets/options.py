"""Options of a product: plain pydantic models, each field with a docstring, published to the Launchpad.

The key of a published product hashes its options (`Options.content`), and its record keeps them. Both outlive the code,
so options evolve in three ways that leave what is published as it is:

    added     a later option is declared with `added(neutral)` and is part of the key only where it has another value
    renamed   the former name stays as a field, `former("new_name")`: old configurations are still read, and the key
              goes on using the first name
    removed   a recorded option that no longer exists is left out by `from_recorded`, which says so

`Options.from_recorded` is the only way to read a recorded configuration.
"""

import ast
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from har_assets.errors import HarError

Log = Callable[[str], None]

FORCE = "force"
"""Field of every asset's configuration in the graph, which records hold too."""


def added(neutral: Any, *, default: Any = ...) -> Any:
    """A field that was added after products had been published.

    Args:
        neutral: the value with which the product is the one that was made without the option.
        default: what the option is by default; left out, `neutral`. Another one makes every product anew.
    """
    return Field(default=neutral if default is ... else default, json_schema_extra={"neutral": neutral})


def former(name: str) -> Any:
    """The former name of the field `name`, of the same type or None, which is its default."""
    return Field(default=None, description=f"Former name of `{name}`.", json_schema_extra={"renamed_to": name})


def wrong_options(error: ValidationError) -> str:
    """The options that pydantic refused and why, in one line: `epochs (Input should be a valid integer)`."""
    return ", ".join(
        f"{'.'.join(map(str, each['loc']))} ({each['msg']})" if each["loc"] else each["msg"] for each in error.errors()
    )


class Described(BaseModel):
    """A model whose fields are described by the docstrings below them, each folded to one paragraph.

    Read from the module's file once. Pydantic's own `use_attribute_docstrings` looks through every loaded module for
    each class, which took half a second of each import of the graph.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Add the descriptions."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, text in _docstrings(cls).items():
            if name in cls.model_fields and not cls.model_fields[name].description:
                cls.model_fields[name].description = text


def _docstrings(model: type) -> dict[str, str]:
    """Field to the docstring below it, of one class."""
    file = getattr(sys.modules.get(model.__module__), "__file__", None)
    source = _source(file) if file else ""
    start = re.search(rf"^([ \t]*)class {model.__name__}\b", source, re.MULTILINE)
    if start is None:
        return {}
    indent = start[1]
    end = re.compile(rf"^(?!{indent}[ \t]|[ \t]*$)", re.MULTILINE).search(source, source.index("\n", start.end()) + 1)
    (node,) = ast.parse(textwrap.dedent(source[start.start() : end.start() if end else None])).body
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in itertools.pairwise(node.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


@cache
def _source(file: str) -> str:
    return Path(file).read_text(encoding="utf-8")


def parse_size(text: str) -> int:
    """`200 GB` -> 200_000_000_000, in decimal units or in KiB, MiB, GiB, TiB; HarError for anything else."""
    try:
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*[A-Za-z]*\s*", text):  # ByteSize takes `1,5 TB` for one byte
            return int(_BYTE_SIZE.validate_python(text))
    except ValidationError:
        pass
    raise HarError(f"{text!r} is no size: write a number and a unit, such as 200 GB or 1.5 TB.")


_BYTE_SIZE = TypeAdapter(ByteSize)


class Options(Described):
    """Base of all options."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    not_content: ClassVar[frozenset[str]] = frozenset()
    """Fields of this class that change how a product is made and not what it is; those of its bases count as well."""

    @model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        taken = dict(values)
        for old, new in cls.former_names().items():
            if taken.get(old) is None:
                taken.pop(old, None)
            elif taken.get(new) not in (None, cls.model_fields[new].default):  # Dagster fills defaults in
                raise ValueError(f"{old} is the former name of {new}, and both are set: leave {old} out")
            else:
                taken[new] = taken.pop(old)
        return taken

    @classmethod
    def former_names(cls) -> dict[str, str]:
        """Former name to name, in the order of their declaration."""
        extras = {name: field.json_schema_extra for name, field in cls.model_fields.items()}
        return {
            name: str(extra["renamed_to"])
            for name, extra in extras.items()
            if isinstance(extra, dict) and "renamed_to" in extra
        }

    @classmethod
    def find(cls, config: Mapping[str, Any], name: str, default: Any) -> Any:
        """An option in a configuration that is not validated, under its name or a former one."""
        names = (name, *(old for old, new in cls.former_names().items() if new == name))
        return next((config[each] for each in names if config.get(each) is not None), default)

    def recorded(self) -> dict[str, Any]:
        """Every option by its name, as records keep them."""
        return self.model_dump(exclude=set(self.former_names()))

    def content(self) -> dict[str, Any]:
        """The options that the product depends on, by their first names: what its key hashes."""
        left_out = frozenset[str]().union(*(vars(base).get("not_content", ()) for base in type(self).__mro__))
        first: dict[str, str] = {}
        for old, new in self.former_names().items():
            first.setdefault(new, old)
        found = {}
        for name, value in self.recorded().items():
            extra = type(self).model_fields[name].json_schema_extra
            neutral = isinstance(extra, dict) and "neutral" in extra and value == extra["neutral"]
            if name not in left_out and not neutral:
                found[first.get(name, name)] = value
        return found

    @classmethod
    def from_recorded(cls, config: Mapping[str, Any], log: Log, **changes: Any) -> Self:
        """Options that a record holds, whichever version wrote it.

        Args:
            config: `recorded` of some version.
            log: takes a sentence for each option that no longer exists.
            changes: options that take the place of recorded ones.

        Raises:
            pydantic.ValidationError: for a value that is impossible.
        """
        known = {}
        for name, value in config.items():
            if name in cls.model_fields:
                known[name] = value
            elif name not in changes and name != FORCE:
                log(f"The recorded option {name} = {value!r} no longer exists and is left out.")
        for old, new in cls.former_names().items():
            if old in changes or new in changes:
                known.pop(old, None)
                known.pop(new, None)
        return cls(**{**known, **changes})
