"""The table of all settings, as a page: `python -m tools.settings > docs/settings.md`."""

from har_assets.settings import fields


def page() -> str:
    """The Markdown page; it depends on har_assets/settings/fields.py alone."""
    rows = "\n".join(
        f"| `{name}` | {f'`{default}`' if default else ''} | {fields.meaning_of(name)} |"
        for name in fields.NAMES.values()
        for default in [fields.default_of(name)]
    )
    return f"""# Settings

A deployment is set up by environment variables. They are validated when Dagster, `har` or a training starts: one
sentence names every variable that holds what it cannot mean. An empty variable counts as not set, except where its
description says otherwise. A variable `HAR_...` that is not in the table changes nothing, and a warning says so.
`har doctor` shows the values that hold in a shell; it masks secrets.

Written by `python -m tools.settings > docs/settings.md` from har_assets/settings/fields.py; a test holds that it is
current.

| variable | default | meaning |
|---|---|---|
{rows}
"""


if __name__ == "__main__":
    print(page(), end="")
