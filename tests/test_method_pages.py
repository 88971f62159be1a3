"""The pages in docs/methods: one template, listed in the index, and every public loss and objective stands on one of them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from genrec import objectives
from genrec.preference import losses

METHODS = Path(__file__).parents[1] / "docs" / "methods"
INDEX = METHODS / "index.md"
PAGES = sorted(page for page in METHODS.glob("*.md") if page != INDEX)
HEADINGS = ["Formula", "In genrec", "When it helped here, and when not", "Cost", "Defaults, and why", "Source"]


def prose(page: Path) -> str:
    """Return a page without its blocks, in which a line may begin like a heading."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def sections(page: Path) -> dict[str, str]:
    """Return the text below each second-level heading of a page, "" for what stands before the first one."""
    first, *others = re.split(r"^## (.+)$", prose(page), flags=re.MULTILINE)
    return {"": first} | dict(zip(others[::2], others[1::2], strict=True))


def classes(module: ModuleType) -> list[str]:
    """Return the names of the public classes of a module."""
    return [name for name in module.__all__ if inspect.isclass(getattr(module, name))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_follows_the_template(page: Path) -> None:
    found = sections(page)
    assert list(found) == ["", *HEADINGS]
    title, idea = re.fullmatch(r"# (.+?)\n\n(.+?)\n*", found[""], flags=re.DOTALL).groups()  # type: ignore[union-attr]
    assert "\n" not in title
    sentences = re.split(r"(?<=[a-z)])\.\s+", idea.strip())
    assert len(sentences) == 2, f"the idea of {page.name} has {len(sentences)} sentences: {sentences}"
    assert "$$" in found["Formula"]
    assert "```python\n" in page.read_text(encoding="utf-8").partition("## In genrec")[2].partition("\n## ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_results_of_a_page_have_a_study_or_the_command_that_is_missing(page: Path) -> None:
    """A table of results links to its study; what has not been run with five seeds has a command. Costs are measured or not."""
    found = sections(page)
    results, cost = found["When it helped here, and when not"], found["Cost"]
    assert re.search(r"`(?:genrec run |experiments/)[^`]+`", results), "name the command"
    if re.search(r"\d\.\d{3}", results):
        assert "experiments/results/" in results
    else:
        assert "has not been run with five seeds yet" in results or "have not been run with five seeds yet" in results
    assert re.search(r"experiments/benchmarks/README.md|not measured|one\s+fit", cost, re.IGNORECASE)


def test_the_index_lists_every_page_in_its_table() -> None:
    rows = [line for line in INDEX.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    linked = [link for row in rows for link in re.findall(r"\]\(([\w-]+)\.md\)", row)]
    assert sorted(linked) == [page.stem for page in PAGES]


@pytest.mark.parametrize("module", [losses, objectives], ids=lambda module: module.__name__)
def test_every_public_class_stands_on_a_page(module: ModuleType) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in classes(module) if not re.search(rf"\b{name}\b", text)] == []
