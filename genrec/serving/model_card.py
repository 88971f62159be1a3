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

LICENSE = "see-data-set"  # the license of the data decides; genrec does not know it
OVERRIDES = "The path is that of the author, and the command lacks settings that were changed on the command line: see Settings below."
MAIN = ("recall", "ndcg", "mrr")  # metrics that the front matter lists; the tables of the card have all of them
_PLAIN = re.compile(r"[A-Za-z0-9._-]+")


class Figures(NamedTuple):
    """The results of the row."""

    seed: int  # that is exported
    metrics: Mapping[int, Mapping[str, float]]  # of each seed
    environment: Mapping[str, Any]  # of the exported seed


def model_card(about: Mapping[str, Any], figures: Figures, catalog: CatalogItems, policy: str) -> str:
    """Return the text of the card. `about` is the content of genrec.json, `policy` the name of the policy's class."""
    protocol = about["protocol"]
    data = str(about["configuration"].get("source.class", "")).rpartition(":")[2] or "the data set"
    parts = [
        _front_matter(about, figures.metrics[figures.seed], data),
        f"# {about['row']}\n\n{policy}, seed {about['seed']}, trained with genrec {about['genrec']} on {data}: {len(catalog):,} "
        "items. It recommends items to a history of items."
        + (f"\n\n> **Warning:** {about['warning']}." if "warning" in about else ""),
        _use(catalog, not about["configuration"]["policy.class"].startswith("genrec.")),
        _results(figures, about["command"]),
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


def _results(figures: Figures, command: str) -> str:
    """Return the metrics of the exported seed, beside their means over all seeds if there are several."""
    seeds = sorted(figures.metrics)
    heads = ["metric", f"seed {figures.seed}"] + ([f"mean of {len(seeds)} seeds"] if len(seeds) > 1 else [])
    rows = []
    for name, value in figures.metrics[figures.seed].items():
        values = [figures.metrics[seed][name] for seed in seeds if name in figures.metrics[seed]]
        rows.append((name, f"{value:.6g}", *([f"{fmean(values):.6g}"] if len(seeds) > 1 else [])))
    return f"## Results\n\nOn the test part of the data, by\n\n```\n{command}\n```\n\n{OVERRIDES}\n\n" + _table(heads, rows)


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
