"""The project as people install it: editable installs, the wheel, pinned versions, make targets, shell completion, metadata files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from installed_package import check_commands, check_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import genrec
from genrec import completion
from genrec.__main__ import main

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "genrec", "experiments", "tests")
VERSION = "Programming Language :: Python :: "
VERSIONS = [line.removeprefix(VERSION) for line in PYPROJECT["project"]["classifiers"] if line.startswith(VERSION)]
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # sha256 of the published text


def clone(folder: Path) -> Path:
    """Copy what a build reads to `folder`; symbolic links stay links, as in a clone."""
    folder.mkdir()
    for name in SHIPPED:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, folder / name)
    return folder


def python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Run Python in `cwd` with nothing but `path` as PYTHONPATH, and return its output."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GENREC_HOME")}
    environment |= {} if path is None else {"PYTHONPATH": str(path)}
    result = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(hook: str, project: Path, target: Path) -> Path:
    """Call a hook of setuptools' build backend, as pip does, and return the file that it made."""
    code = f"from setuptools import build_meta as b; open({str(target / 'name')!r}, 'w').write(b.{hook}({str(target)!r}))"
    target.mkdir()
    python("-c", code, cwd=project)
    return target / (target / "name").read_text()


def package_files() -> set[str]:
    """Return the files of the package, code and others, as paths below the project."""
    files = (path.relative_to(PROJECT) for path in (PROJECT / "genrec").rglob("*") if path.is_file())
    return {path.as_posix() for path in files if not any(part == "__pycache__" or part.startswith(".") for part in path.parts)}


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a new virtual environment that finds the dependencies in this one, and return its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    programs = folder / "bin"
    python("-m", "pip", "--python", str(programs / "python"), "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    places = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (packages / "dependencies.pth").write_text("\n".join(places))  # searched after the wheel; .pth files in there are not read
    return programs


def test_an_editable_install_works_beside_the_clone(tmp_path: Path) -> None:
    """In the folder that contains the clone, `import genrec` finds the package and not the clone's folder of the same name."""
    pytest.importorskip("setuptools")
    folder = clone(tmp_path / "genrec")
    wheel = build("build_editable", folder, tmp_path / "wheels")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import site; site.addsitedir({str(tmp_path / 'site')!r});"
        "import genrec, importlib.util as util; print(genrec.__file__); print(util.find_spec('genrec.experiment').origin)"
    )
    # -S: without the packages of this environment, among them its own genrec
    printed = python("-S", "-c", code, cwd=tmp_path).split()
    assert printed == [str(folder / "genrec" / "__init__.py"), str(folder / "genrec" / "experiment.py")]


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["checkout", "sdist"])
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path, origin: str) -> None:
    pytest.importorskip("setuptools")
    folder = clone(tmp_path / "project")
    if origin == "sdist":
        with tarfile.open(build("build_sdist", folder, tmp_path / "sdist")) as archive:
            archive.extractall(tmp_path / "extracted", filter="data")
        (folder,) = (tmp_path / "extracted").iterdir()
    python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), ".", cwd=folder)
    (wheel,) = tmp_path.glob("genrec-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"genrec-{genrec.__version__}.dist-info/METADATA").decode()
        quickstart = archive.read("genrec/quickstart.py")
    assert quickstart == (PROJECT / "experiments" / "quickstart.py").read_bytes()
    assert {"genrec/py.typed", "genrec/reports/report.html.jinja", f"genrec-{genrec.__version__}.dist-info/licenses/LICENSE"} <= names
    assert {name.partition("/")[0] for name in names} == {"genrec", f"genrec-{genrec.__version__}.dist-info"}
    assert {name for name in names if name.startswith("genrec/")} == package_files()
    assert (PROJECT / "README.md").read_text(encoding="utf-8").strip() in metadata.replace("\r\n", "\n")

    programs = install(wheel, tmp_path / "venv")
    check_package(programs, tmp_path / "empty")
    check_commands(programs, tmp_path / "work")


def test_the_quick_start_is_named_as_a_file_or_as_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENREC_HOME", raising=False)
    assert main(["run", f"{PROJECT}/experiments/quickstart.py:sft", "--dry-run"]) == 0
    file = capsys.readouterr().out
    assert main(["run", "genrec.quickstart:sft", "--dry-run"]) == 0
    assert capsys.readouterr().out == file
    for wrong, message in [
        ("genrec.quickstart", "expected FILE.py:FUNCTION or MODULE:FUNCTION, got 'genrec.quickstart'"),
        ("./quickstart:sft", "expected FILE.py:FUNCTION or MODULE:FUNCTION, got './quickstart'"),
        ("genrec.slowstart:sft", "there is no module 'genrec.slowstart'"),
        ("genrec.quickstart:st", "genrec.quickstart has no 'st'; it has: sft, sft_liked, aligned"),
    ]:
        assert main(["run", wrong]) == 2
        assert message in capsys.readouterr().err


def test_every_dependency_is_pinned() -> None:
    """Each requirement of pyproject.toml has a version in requirements.lock, and the version satisfies it."""
    lines = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    assert len(pinned) == len(lines) - sum(line.startswith("#") for line in lines), "a package is pinned twice"
    project = PYPROJECT["project"]
    groups = {"dependencies": project["dependencies"], "build": PYPROJECT["build-system"]["requires"]}
    groups |= project["optional-dependencies"]
    for group, requirements in groups.items():
        for requirement in map(Requirement, requirements):
            version = pinned.get(canonicalize_name(requirement.name))
            assert version is not None, f"{group}: {requirement.name} is not in requirements.lock"
            assert requirement.specifier.contains(version, prereleases=True), f"{group}: {requirement}, but {version} is pinned"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
def test_make_lists_every_target() -> None:
    """`make` alone prints the same as `make help`: one line for each public target."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.*)", makefile, flags=re.MULTILINE)[0].split()
    alone = subprocess.run(["make", "--no-print-directory"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    lines = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert alone.splitlines() == lines
    assert [line.split()[:2] for line in lines] == [["make", target] for target in targets]
    assert all(len(line.split()) > 2 for line in lines)


def test_the_license_and_the_citation_agree_with_the_package() -> None:
    assert hashlib.sha256((PROJECT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == genrec.__version__
    assert citation["license"] == PYPROJECT["project"]["license"] == "Apache-2.0"
    assert citation["authors"] == PYPROJECT["project"]["authors"]


def test_hooks_run_the_installed_tools() -> None:
    """pre-commit downloads nothing: every hook is local and calls a tool of .venv."""
    (repository,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert {(hook["language"], hook["entry"].split()[0]) for hook in repository["hooks"]} == {
        ("system", ".venv/bin/ruff"),
        ("system", ".venv/bin/mypy"),
    }


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "data/README.md"])
def test_links_of_pages_exist(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!https?://|#)[^)]+)\)", text):
        assert ((PROJECT / page).parent / target.partition("#")[0]).exists(), target


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: an experiment file, a folder and two runs."""
    lines = ("def row(): ...", "def rows(seed=0): ...", "def helper(name): ...", "def _hidden(): ...", "class Mine: ...")
    (tmp_path / "mine.py").write_text("\n".join(lines))
    (tmp_path / "broken.py").write_text("def (\n")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "data" / "runs").mkdir(parents=True)
    for name in ("shop-sft", "shop-dpo"):
        (tmp_path / "data" / "runs" / f"{name}.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENREC_HOME", raising=False)
    return tmp_path


def test_completers(folder: Path) -> None:
    """Files and folders before the colon; after it what the command can call, read without an import."""
    assert sorted(completion.functions("")) == ["broken.py:", "data/", "mine.py:"]
    assert completion.functions("./m") == completion.functions("./")
    assert set(completion.functions("./")) == {"./broken.py:", "./data/", "./mine.py:"}
    assert completion.functions("mine.py:r") == ["mine.py:row", "mine.py:rows"]
    assert completion.classes("mine.py:") == ["mine.py:Mine"]
    assert completion.functions("broken.py:") == completion.functions("missing.py:") == []
    assert sorted(completion.runs("")) == ["shop-dpo", "shop-sft"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("genrec to", ["tokenize"]),
        ("genrec run m", ["mine.py:"]),
        ("genrec run mine.py:r", ["mine.py:row", "mine.py:rows"]),
        ("genrec check mine.py:", ["mine.py:Mine"]),
        ("genrec run mine.py:row --dr", ["--dry-run"]),
        ("genrec compare shop-dpo shop-s", ["shop-sft"]),
        ("genrec curves shop-sft --stage s", ["sft"]),
    ],
)
def test_the_shell_is_answered(folder: Path, line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The request that the shell's hook makes: the line in the environment, the answer in a file."""
    pytest.importorskip("argcomplete")
    request = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n", "COMP_LINE": line}
    request |= {"COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "answer")}
    for name, value in request.items():
        monkeypatch.setenv(name, value)
    python("-m", "genrec", cwd=folder, path=PROJECT)
    assert [answer.strip() for answer in (folder / "answer").read_text().split("\n")] == expected


def test_every_page_names_the_supported_versions_of_python() -> None:
    """The classifiers are the list; the other places name its first and last version."""
    first, last = VERSIONS[0], VERSIONS[-1]
    assert [f"3.{minor}" for minor in range(int(first[2:]), int(last[2:]) + 1)] == VERSIONS
    assert PYPROJECT["project"]["requires-python"] == f">={first}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{first.replace('.', '')}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == first
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^PYTHONS := (.*)", makefile, flags=re.MULTILINE) == [" ".join(VERSIONS)]
    for name in ("README.md", "CONTRIBUTING.md", "docs/installation.md", ".ci/run"):
        named = re.findall(r"Python (3\.\d+) (?:to|or|and) (3\.\d+)", (PROJECT / name).read_text(encoding="utf-8"))
        assert named, name
        assert set(named) == {(first, last)}, name


# Compiles each file below a folder, and prints the modules of sys.argv[2:] that it imports and that this Python does not have.
COMPILE = """
import ast, pathlib, sys
imported = set()
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.py")):
    tree = ast.parse(path.read_bytes(), str(path))
    compile(tree, str(path), "exec")
    for node in ast.walk(tree):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
        imported |= {name.partition(".")[0] for name in names}
print("%d.%d" % sys.version_info[:2], *sorted(imported & set(sys.argv[2:]) - sys.stdlib_module_names))
"""


OTHERS = [version for version in VERSIONS if version != "{}.{}".format(*sys.version_info)]  # the tests import the package on this one


@pytest.mark.parametrize("version", OTHERS)
def test_the_package_compiles_on_the_other_supported_pythons(version: str) -> None:
    """Without warnings, and without modules that left the standard library. Needs no packages; `make test-pythons` runs the tests."""
    variables = dict(os.environ)
    if shutil.which("pyenv"):  # its python3.12 starts only if a version is chosen
        known = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout.split()
        variables["PYENV_VERSION"] = ":".join(known)
    program = shutil.which(f"python{version}")
    if program is None or subprocess.run([program, "-c", ""], env=variables, capture_output=True).returncode:
        pytest.skip(f"this machine has no python{version}")
    command = [program, "-I", "-W", "error", "-c", COMPILE, str(PROJECT / "genrec"), *sorted(sys.stdlib_module_names)]
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == [version]
