"""The evaluation report as one HTML page that asks for nothing from outside: pictures are inside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import jinja2
from markupsafe import Markup

from har_assets.dataset.groups import KNOWN, UNKNOWN
from har_assets.report.card import data_name
from har_assets.report.cards import strip_halves
from har_assets.report.content import Report

_MAGIC = {b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def render_page(report: Report) -> str:
    """The page: HTML 5 without scripts, every name in it escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("har_assets.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "share": share,
        "words": words,
        "data_uri": data_uri,
        "plural": plural,
        "listed": listed,
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        evaluation=report.evaluation,
        known=report.evaluation.groups == KNOWN,
        unknown=report.evaluation.groups == UNKNOWN,
        spec=report.spec,
        name_of_data=data_name(report.provenance),
        provenance=report.provenance,
        strip_frames=[[number + 1 for number in part] for part in strip_halves(report.spec.num_frames)],
    )


def percent(value: float, digits: int = 1) -> str:
    """`81.3 %`, with a space that does not break."""
    return f"{100 * value:.{digits}f}\u00a0%"


def share(value: float) -> str:
    """A share 0..1 as CSS takes it: `81.3%`."""
    return f"{100 * min(max(value, 0.0), 1.0):.1f}%"


def words(label: str) -> str:
    """A class name for people: `ride bike`."""
    return label.replace("_", " ")


def plural(count: int, one: str, several: str = "") -> str:
    """`1 video`, `1,530 videos`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def listed(items: Sequence[object]) -> str:
    """`1, 4 and 7`."""
    texts = [str(item) for item in items]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def data_uri(picture: bytes) -> Markup:
    """A PNG or WebP file as the address of an image."""
    kind = _MAGIC[picture[:4]]
    return Markup(f"data:{kind};base64,{base64.b64encode(picture).decode()}")
