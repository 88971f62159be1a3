"""The page of a report: one HTML file with Vega-Lite inlined; only this file imports vl-convert and Jinja2.

The page's policy forbids every request, and every script but the three that are in it, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from functools import cache
from importlib import resources
from typing import Any

from genrec import __version__
from genrec.errors import ResourceError
from genrec.reports.report_tables import is_long, name_parts

VEGA_LITE = "6.1"  # version of the inlined library
NEEDED = "genrec compare --html needs {name}, which is not installed: pip install 'genrec[report]'"


def page(content: dict[str, Any]) -> str:
    """Return the content of a report (`genrec.reports.report_content`) as an HTML file. Raises ResourceError without the libraries."""
    library, script = vega(), _file("report.js")
    policy = " ".join(f"'sha256-{_hash(text)}'" for text in (library, script))
    template = _environment().from_string(_file("report.html.jinja"))
    number = itertools.count()
    sections = [each | {"charts": [chart | {"number": next(number)} for chart in each["charts"]]} for each in content["sections"]]
    shown = {name: content[name] for name in ("rows", "highlighted", "users")}
    shown["charts"] = [{name: chart[name] for name in ("title", "spec")} for each in sections for chart in each["charts"]]
    parts = {"style": _file("report.css"), "library": library, "script": script, "policy": policy, "version": __version__}
    html: str = template.render(**content | parts | {"sections": sections}, json=json_in_html(shown))
    return html


def check_libraries() -> None:
    """Raise ResourceError if a library of the page is missing."""
    _environment()
    _vl_convert()


def json_in_html(value: object) -> str:
    """Return JSON that can stand in a script element: no text of it ends the element or begins a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: line separators are escaped, too
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    script = str(_vl_convert().javascript_bundle(vl_version=VEGA_LITE))
    assert "</script" not in script.lower()
    assert "<!--" not in script
    return script


def _vl_convert() -> Any:
    try:
        import vl_convert
    except ImportError as error:
        raise ResourceError(NEEDED.format(name="vl-convert-python")) from error
    return vl_convert


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ResourceError(NEEDED.format(name="Jinja2")) from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"name_parts": name_parts, "is_long": is_long}
    return environment


def _file(name: str) -> str:
    return resources.files("genrec.reports").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
