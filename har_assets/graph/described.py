"""What the page of every asset shows besides its stage: its owners, the columns of its table, where its code is."""

import inspect
import warnings
from collections.abc import Iterable
from typing import Any

import dagster as dg

from har_assets.graph.asset import MAIN
from har_assets.system.tables import Table

OWNERS = ("team:har",)
"""Owners of every asset: mail addresses, or `team:` and a name."""


def described(assets: Iterable[dg.AssetsDefinition | dg.SourceAsset]) -> list[dg.AssetsDefinition | dg.SourceAsset]:
    """Add owners, column schemas and code references to all assets that are made."""
    return [_described(asset) if isinstance(asset, dg.AssetsDefinition) else asset for asset in assets]


def _described(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    code = _code_reference(asset)
    return asset.map_asset_specs(
        lambda spec: spec.merge_attributes(owners=OWNERS, metadata={**code, **column_schema(spec.key.to_user_string())})
    )


def column_schema(name: str) -> dict[str, Any]:
    """The metadata `dagster/column_schema` of an asset that is a table; nothing for another one."""
    table = MAIN.get(name)
    if not isinstance(table, Table):
        return {}
    columns = [
        dg.TableColumn(
            column,
            declared.type.removesuffix("?"),
            declared.meaning,
            dg.TableColumnConstraints(nullable=declared.type in ("int?", "float")),
        )
        for column, declared in table.columns.items()
    ]
    return {"dagster/column_schema": dg.TableSchema(columns)}


def _code_reference(asset: dg.AssetsDefinition) -> dict[str, Any]:
    """File and line of the function of an asset.

    `dg.with_source_code_references` would name contextlib.py, where the outermost decorator is.
    """
    function: Any = asset.op.compute_fn
    code = inspect.unwrap(function.decorated_fn).__code__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # code references, in dagster 1.13
        reference = dg.LocalFileCodeReference(file_path=code.co_filename, line_number=code.co_firstlineno)
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}
