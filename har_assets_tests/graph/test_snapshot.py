"""What the web UI shows of every asset, as a snapshot: a change of the graph shows in review.

python -m har_assets_tests.graph.test_snapshot    writes the snapshot anew
"""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from har_assets import defs
from har_assets.graph.stage import MANIFESTS, STAGES, demo_selection, mermaid
from har_assets_tests.project import REPOSITORY

SNAPSHOT = Path(__file__).with_name("snapshot.json")


def described(key: dg.AssetKey) -> dict[str, Any]:
    graph = defs.resolve_asset_graph()
    node = graph.get(key)
    definition = node.assets_def
    spec = definition.get_asset_spec(key)
    checks = {check.name: check for check in definition.check_specs if check.asset_key == key}
    return {
        "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
        "group": spec.group_name,
        "owners": list(spec.owners),
        "columns": columns(spec.metadata),
        "kinds": sorted(spec.kinds),
        "description": spec.description,
        "code_version": spec.code_version,
        "automation": spec.automation_condition.get_label() if spec.automation_condition else None,
        "freshness": "a week old" if spec.freshness_policy else None,
        "partitions": type(spec.partitions_def).__name__ if spec.partitions_def else None,
        "checks": {
            name: {"blocking": check.blocking, "description": check.description}
            for name, check in sorted(checks.items())
        },
        **(of_the_op(definition) if definition.is_materializable else {}),
    }


def columns(metadata: Any) -> dict[str, str]:
    found = metadata.get("dagster/column_schema")
    return {column.name: f"{column.type}: {column.description}" for column in found.columns} if found else {}


def of_the_op(definition: dg.AssetsDefinition) -> dict[str, Any]:
    op: Any = definition.op
    return {
        "pool": op.pool,
        "tags": dict(op.tags),
        "config": {
            name: {
                "type": str(field.config_type.given_name or field.config_type.key),
                "default": field.default_value if field.default_provided else None,
                "description": field.description,
            }
            for name, field in sorted(op.config_field.config_type.fields.items())
        },
    }


def snapshot() -> dict[str, Any]:
    keys = sorted(defs.resolve_asset_graph().get_all_asset_keys(), key=lambda key: key.to_user_string())
    return {key.to_user_string(): described(key) for key in keys}


@pytest.mark.parametrize("name", [*STAGES, "data_dvc"])
def test_an_asset_is_as_the_snapshot_has_it(name: str) -> None:
    kept = json.loads(SNAPSHOT.read_text())
    assert json.loads(json.dumps(described(dg.AssetKey(name)))) == kept[name], (
        "if that is meant: python -m har_assets_tests.graph.test_snapshot"
    )


def test_the_snapshot_has_every_asset() -> None:
    assert json.loads(SNAPSHOT.read_text()).keys() == {
        key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()
    }


def test_the_table_is_the_graph() -> None:
    graph = defs.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == STAGES.keys()
    for name, stage in STAGES.items():
        assert {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys} == set(stage.deps), name
        assert set(stage.follows) <= set(stage.deps), name
    order = [*STAGES]
    for name, stage in STAGES.items():
        assert all(order.index(parent) < order.index(name) for parent in stage.deps if parent in STAGES), name


def test_the_readme_and_the_demo_show_the_table() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert readme.split("```mermaid\n")[1].split("\n```")[0] == mermaid()
    listed = readme.split("asset                 time")[1].split("```")[0]
    built = dg.AssetSelection.from_string(demo_selection()).resolve(defs.resolve_asset_graph())
    assert {line.split()[0] for line in listed.splitlines()[1:] if line.strip()} == {
        key.to_user_string() for key in built
    }
    assert set(MANIFESTS) <= {key.to_user_string() for key in built}
    assert "python -m har_assets.graph.stage" in (REPOSITORY / "Makefile").read_text()


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(snapshot(), indent=1, ensure_ascii=False, sort_keys=True) + "\n")
