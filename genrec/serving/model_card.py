"""The model card of an export: README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from math import isfinite
from statistics import fmean
from typing import Any, NamedTuple

from genrec.serving.catalog_items import CatalogItems
from genrec.serving.stored_rows import UNKNOWN_FUNCTION

LICENSE = "see-data-set"  # the license of the data decides; genrec does not know it
OVERRIDES = {  # by whether settings were changed on the command line; None: not recorded
    True: "It lacks settings that were changed on the command line: see Settings below.",
    None: "Settings that were changed on the command line, if there were any, are only below, under Settings.",
    False: "",
}
MAIN = ("recall", "ndcg", "mrr")  # metrics that the front matter lists; the tables of the card have all of them
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")


class Figures(NamedTuple):
    """The results of the row."""

    seed: int  # that is exported
    metrics: Mapping[int, Mapping[str, float]]  # of each seed
    environment: Mapping[str, Any]  # of the exported seed


def model_card(about: Mapping[str, Any], figures: Figures, catalog: CatalogItems, policy: str, overridden: bool | None) -> str:
    """Return the text of the card.

    `about` is the content of genrec.json, `policy` the name of the policy's class, and `overridden` says whether settings were changed
    on the command line (None: not recorded).
    """
    protocol = about["protocol"]
    data = str(about["configuration"].get("source.class", "")).rpartition(":")[2] or "the data set"
    parts = [
        _front_matter(about, figures.metrics[figures.seed], data),
        f"# {about['row']}\n\n{policy}, seed {about['seed']}, trained with genrec {about['genrec']} on {data}: {len(catalog):,} "
        "items. It recommends items to a history of items."
        + (f"\n\n> **Warning:** {about['warning']}." if "warning" in about else ""),
        _use(catalog, not about["configuration"]["policy.class"].startswith("genrec.")),
        _results(figures, about["command"], overridden),
        "## Protocol\n\n" + _table(("setting", "value"), protocol.items()),
        "## Settings\n\n" + _table(("setting", "value"), about["configuration"].items()),
        "## Environment\n\n" + _table(("", "value"), figures.environment.items()),
        _license(data),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(about: Mapping[str, Any], metrics: Mapping[str, float], data: str) -> str:
    """Return the front matter. A JSON text is also a YAML text, so names need no quoting of their own."""
    main = {name: value for name, value in metrics.items() if name.partition("@")[0] in MAIN and "[" not in name and isfinite(value)}
    found = [{"type": name, "name": name, "value": value} for name, value in main.items()]
    result = {"task": {"type": "recommendation"}, "dataset": {"type": data.lower(), "name": data}, "metrics": found}
    entries = {
        "library_name": "genrec",
        "license": "other",
        "license_name": LICENSE,
        "tags": ["recommendation", "sequential-recommendation", "generative-recommendation", "semantic-ids"],
        "model-index": [{"name": about["row"], "results": [result]}],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in entries.items()), "---"])


def _use(catalog: CatalogItems, needs_code: bool) -> str:
    """Return how the folder is used. Ids that need quoting are left to the reader."""
    popular = (catalog.num_interactions.argsort(kind="stable")[::-1][:2] + 1).tolist()
    shown = [catalog.ids[number - 1] for number in popular if _PLAIN.fullmatch(catalog.ids[number - 1])] or ["ITEM_ID"]
    code = ', code="FILE.py"' if needs_code else ""
    flag = " --code FILE.py" if needs_code else ""
    own = "\n\nThe policy is a class of its author's own code, which this folder does not hold." if needs_code else ""
    return (
        "## Use\n\n"
        "The folder holds all that is needed; the data of the training are not read.\n\n"
        f'```python\nimport genrec\n\nrow = genrec.load("PATH/TO/FOLDER"{code})\nrow.recommend({json.dumps(shown)}, n=10)\n```\n\n'
        f"```\ngenrec recommend PATH/TO/FOLDER{flag} --history {shlex.join(shown)}\n"
        f'genrec recommend PATH/TO/FOLDER{flag} --search "words of a title"\n```' + own
    )


def _results(figures: Figures, command: str, overridden: bool | None) -> str:
    """Return the metrics of the exported seed, beside their means over all seeds if there are several."""
    seeds = sorted(figures.metrics)
    heads = ["metric", f"seed {figures.seed}"] + ([f"mean of {len(seeds)} seeds"] if len(seeds) > 1 else [])
    rows = []
    for name, value in figures.metrics[figures.seed].items():
        values = [figures.metrics[seed][name] for seed in seeds if name in figures.metrics[seed]]
        rows.append((name, f"{value:.6g}", *([f"{fmean(values):.6g}"] if len(seeds) > 1 else [])))
    parts = ["## Results", "On the test part of the data, by", f"```\n{command}\n```", _about_command(command, overridden)]
    return "\n\n".join([*filter(None, parts), _table(heads, rows)])


def _about_command(command: str, overridden: bool | None) -> str:
    """Return what the command of the row does not tell."""
    if UNKNOWN_FUNCTION in command:
        return f"The row was run by Python code, for which `{UNKNOWN_FUNCTION}` stands."
    path = "The path is that of the author." if ".py:" in command else ""
    return " ".join(filter(None, [path, OVERRIDES[overridden]]))


def _license(data: str) -> str:
    return (
        "## License and data\n\n"
        "The code of genrec is under the Apache License 2.0, which covers neither the weights nor the items. `items.parquet` holds "
        f"ids and titles of {data}, and the weights were trained on its interactions. The terms of {data} decide whether and how this "
        "folder may be shared; read them before you publish it, and replace `license: other` above by the license that they allow. "
        "The folder holds no interactions of users."
    )


def _table(heads: Any, rows: Any) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    """Return a value as a cell, without marks that Markdown or HTML would act on."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", text)
