"""The architecture page lists every module of the package, and the page on upgrading every renamed field, class and module."""

from __future__ import annotations

import re
from pathlib import Path

from genrec import former_modules, renamed

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
UPGRADING = (PROJECT / "docs" / "upgrading.md").read_text(encoding="utf-8")


def listed_modules() -> list[str]:
    """Return the modules of the listing as paths: a folder ends in '/', and its modules are indented below it."""
    block = re.search(r"```\n(genrec/\n.*?)```", PAGE, flags=re.DOTALL)
    assert block is not None, "docs/architecture.md has no block that begins with genrec/"
    folders: list[tuple[int, str]] = []  # indentation and name of the open folders
    found = []
    for line in block[1].splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        folders = [folder for folder in folders if folder[0] < indent]
        if name.endswith("/"):
            folders.append((indent, name))
        path = "".join(folder for _, folder in folders)
        found += [path + module for module in re.findall(r"\w+\.py\b", line)]
    return found


def test_the_listing_names_every_module() -> None:
    modules = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "genrec").rglob("*.py") if path.name != "__init__.py"}
    listed = listed_modules()
    assert len(listed) == len(set(listed))
    missing, extra = sorted(modules - set(listed)), sorted(set(listed) - modules)
    assert not missing, f"add to the listing in docs/architecture.md: {', '.join(missing)}"
    assert not extra, f"remove from the listing in docs/architecture.md: {', '.join(extra)}"


def test_the_listing_describes_every_folder() -> None:
    for path in (PROJECT / "genrec").rglob("__init__.py"):
        if path.parent.name != "genrec":
            assert re.search(rf"^ +{path.parent.name}/ +\S", PAGE, flags=re.MULTILINE), path.parent


def test_the_page_names_every_renamed_field() -> None:
    moved = {component: {field: name} for (component, field), name in renamed.MOVED.items()}
    for component, fields in [*renamed.FIELDS.items(), *moved.items()]:
        for former, present in fields.items():
            row = rf"^\|[^|]*`{component}`[^|]*\| `{former}` \| `{re.escape(present)}` \|$"
            assert re.search(row, UPGRADING, flags=re.MULTILINE), f"{component}.{former} -> {present}"


def test_the_page_names_every_renamed_class_and_module() -> None:
    for former, present in (renamed.CLASSES | renamed.FUNCTIONS).items():
        assert f"`{former}`" in UPGRADING, former
        assert f"`{present}`" in UPGRADING, present
    for names in former_modules.MODULES.items():
        for name in names:
            parts = name.split(".")
            assert any(f"`{form}`" in UPGRADING for form in (name, parts[-1], "/".join(parts[-2:]))), name
