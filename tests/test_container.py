"""The Dockerfile: what it pins and copies, and its steps in an empty folder.

Tests have no container engine. `make lint` runs hadolint for the style.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from installed_package import check_commands, environment, run

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
ROOTS = ("/opt/genrec", "/build", "/home/genrec")  # folders of the image that its steps name


class Instruction(NamedTuple):
    """A line of the Dockerfile, continued lines joined."""

    name: str
    text: str


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage; those before the first FROM are the first entry."""
    lines = (PROJECT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith("#"))
    result: list[list[Instruction]] = [[]]
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        name, _, rest = line.partition(" ")
        result += [[]] if name == "FROM" else []
        result[-1].append(Instruction(name, rest))
    return result


HEAD, BUILD, LAST = stages()


def arguments(stage: list[Instruction]) -> dict[str, str]:
    """Return the build arguments of a stage with their defaults."""
    return dict(each.text.split("=", 1) for each in stage if each.name == "ARG")  # type: ignore[misc]


def copies() -> list[tuple[list[str], str]]:
    """Return sources and target of what the build copies from the checkout."""
    words = [shlex.split(each.text) for each in BUILD if each.name == "COPY"]
    return [(each[:-1], each[-1]) for each in words]


def steps(stage: list[Instruction]) -> list[str]:
    return [each.text for each in stage if each.name == "RUN"]


def test_the_base_image_is_pinned_and_its_python_is_supported() -> None:
    version = arguments(HEAD)["PYTHON_VERSION"]
    assert re.fullmatch(r"3\.\d+\.\d+", version)
    assert f"Programming Language :: Python :: {version.rpartition('.')[0]}" in PYPROJECT["project"]["classifiers"]
    images = [stage[0].text.split(" AS ")[0] for stage in (BUILD, LAST)]
    assert images == ["python:${PYTHON_VERSION}-slim-bookworm"] * 2


def test_every_package_has_the_version_of_the_lock() -> None:
    installs = [command for step in steps(BUILD) for command in step.split("&&") if "pip install" in command]
    assert len(installs) == 2
    for command in installs:
        assert "--constraint requirements.lock" in command
        assert "--no-cache-dir" in command
        assert "==" not in command, "a version stands in requirements.lock alone"
    assert installs[0].split()[-2:] == ["torch", "setuptools"]
    assert any(line.startswith("torch==") for line in (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    assert "--no-build-isolation" in installs[1]


def test_build_arguments_name_extras_of_the_package() -> None:
    defaults = arguments(BUILD)
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert defaults["DEVICE"] == "cpu"
    assert {"cpu", "gpu", *defaults["EXTRAS"].split(",")} <= extras.keys()
    assert defaults["TORCH_INDEX"] == ""
    page = (PROJECT / "docs" / "installation.md").read_text(encoding="utf-8")
    for name in (*arguments(HEAD), *defaults, *arguments(LAST)):
        assert f"| `{name}` |" in page, f"docs/installation.md does not describe the build argument {name}"


def test_the_context_holds_exactly_what_is_copied() -> None:
    """`.dockerignore` leaves out everything but the sources of COPY, and each of these exists."""
    sources = {source for names, _ in copies() for source in names}
    assert all((PROJECT / source).exists() for source in sources)
    lines = [line for line in (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == sources
    assert [line for line in lines[1:] if not line.startswith("!")] == ["**/__pycache__"]


def test_the_image_runs_genrec_as_a_user_without_rights() -> None:
    by_name = {each.name: each.text for each in LAST}
    assert by_name["USER"] == "${USER_ID}"
    assert int(arguments(LAST)["USER_ID"]) > 0
    assert by_name["ENTRYPOINT"] == '["genrec"]'
    assert by_name["WORKDIR"].startswith("/home/genrec/")


def inside(root: Path, step: str) -> str:
    """Return a step with the folders of the image below `root`."""
    for folder in ROOTS:
        step = step.replace(folder, f"{root}{folder}")
    return step


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("useradd") is None, reason="needs the rights of root and useradd")
def test_the_step_of_the_last_stage_makes_a_user_and_its_folder(tmp_path: Path) -> None:
    """The step runs on a list of users below `tmp_path` (`useradd --prefix`), not on that of this machine."""
    (tmp_path / "etc").mkdir()
    (step,) = steps(LAST)
    user, folder = step.split(" && ")
    assert user.startswith("useradd ")
    variables = environment() | {"PATH": os.environ["PATH"], "USER_ID": "1234"}
    run("sh", "-ec", user.replace("useradd ", f"useradd --prefix {tmp_path} ", 1), cwd=tmp_path, variables=variables)
    run("sh", "-ec", inside(tmp_path, folder), cwd=tmp_path, variables=variables)
    assert (tmp_path / "etc" / "passwd").read_text().startswith("genrec:!:1234:")
    assert {path.stat().st_uid for path in (tmp_path / "home" / "genrec", tmp_path / "home" / "genrec" / "work")} == {1234}


@pytest.mark.slow
def test_the_steps_install_a_genrec_that_runs(tmp_path: Path) -> None:
    """Run COPY and RUN of the build stage in an empty folder with the arguments' defaults, then the commands of genrec."""
    root, python = tmp_path / "image", tmp_path / "python"
    (root / "build").mkdir(parents=True)
    python.mkdir()
    (python / "python").symlink_to(Path(sys._base_executable).resolve())
    probe = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
        "--dest",
        str(tmp_path / "probe"),
        "rich",
    ]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("pip reaches no package index")
    variables = environment(root / "opt" / "genrec" / "bin", python) | arguments(BUILD)
    for instruction in BUILD:
        if instruction.name == "RUN":
            run("sh", "-ec", inside(root, instruction.text), cwd=root / "build", variables=variables)
        elif instruction.name == "COPY":
            *sources, target = shlex.split(instruction.text)
            for source in sources:
                copy(PROJECT / source, root / "build" / target, into=target.endswith("/"))
    shutil.rmtree(root / "build")  # the last stage copies the environment alone
    check_commands(root / "opt" / "genrec" / "bin", tmp_path / "work")


def copy(source: Path, target: Path, into: bool) -> None:
    """Copy a file or the content of a folder as COPY does; symbolic links below a folder stay links."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        return
    if into:
        target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
