"""The README and the pages in docs/: Python blocks run, commands parse and plan, links resolve, messages exist, sizes are kept.

- A Python block runs in a sandbox of its page, after the blocks before it. A first line `# NAME.py` also saves it as that file.
- A command `genrec run` is planned (`--dry-run`) if its data need no download; otherwise its experiments are built with the overrides.
- `<!-- setup ... -->` holds hidden Python. `<!-- not run: REASON -->` before a block excludes it.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.numpy import load_file

from genrec import command_parser, loading, pipeline
from genrec.__main__ import main
from genrec.data.sources import Frames
from genrec.embeddings import TfidfSvd
from genrec.experiment import SFT, Experiment, Optimization, Tokenize, Validation
from genrec.model import Tiger
from genrec.overrides import override
from genrec.preference.draw_contract import check_draw
from genrec.randomness import generator
from genrec.testing import Cyclic, Shop, Taste, batches_of, sampler_context
from genrec.tokenizer import RQKMeans

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
METHODS = sorted((PROJECT / "docs" / "methods").glob("*.md"))
GUIDE = [*sorted((PROJECT / "docs").glob("*.md")), *METHODS]
PAGES = [README, *GUIDE]
LINKED = [*PAGES, *(PROJECT / "docs" / "api").glob("*.md"), *(PROJECT / "experiments").glob("results*/*.md")] + [
    PROJECT / name
    for name in ("CONTRIBUTING.md", "data/README.md", "genrec/README.md", "experiments/results.md", "experiments/benchmarks/README.md")
    if (PROJECT / name).is_file()
]
COMMANDS = {"genrec", "make", "python", "bash", "source", "git", "pip", "export", "eval", "docker", "apptainer", "sbatch", "torchrun"}
SILENT = ("text", "csv", "json", "toml", "yaml")  # languages of blocks that are shown, not run
RIDDLES = ["whose", "of one's own", "says so", "is worth", "are worth", "none is left", "by itself", "by its own", "is told", "as if"]
BRITISH = ["catalogue", "neighbour", "normalis", "behaviour", "colour", "optimis", "tokenis", "initialis"]
PLACES = ["/work/", "/root/", "/tmp/", "/home/"]


def name_of(page: Path) -> str:
    """Return the name of a page in the tests' ids: `methods/dpo` for docs/methods/dpo.md."""
    return f"methods/{page.stem}" if page in METHODS else page.stem


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int  # number of its first line in the page
    language: str  # "" for none, "setup" for hidden Python
    text: str
    skipped: str  # the reason of a mark, or ""


def blocks(page: Path) -> Iterator[Block]:
    """Iterate over the fenced blocks and the hidden setups of a page."""
    text = page.read_text(encoding="utf-8")
    pattern = r"^<!-- setup\n(?P<setup>.*?)^-->|(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>[^\n]*)\n(?P<body>.*?)^```$"
    for match in re.finditer(pattern, text, flags=re.DOTALL | re.MULTILINE):
        line = text[: match.start()].count("\n") + 1
        if match["setup"] is not None:
            yield Block(line, "setup", match["setup"], "")
        else:
            yield Block(line, match["language"].strip(), match["body"], match["reason"] or "")


def commands(block: Block) -> list[list[str]]:
    """Return the command lines of a block as words, without comments and environment variables."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    found = []
    for line in words:
        while line and re.fullmatch(r"[A-Z_]+=.*", line[0]):
            line = line[1:]
        if line:
            found.append(line)
    return found


def is_shell(block: Block) -> bool:
    """Return whether a block without a language, or with a shell's, holds commands rather than output or a drawing."""
    if block.language in ("bash", "sh", "console"):
        return True
    first = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", block.text.strip()).split(" ")[0]
    return block.language == "" and first in COMMANDS


class Sandbox:
    """A folder with the project's experiments, in which the blocks of one page run one after the other."""

    def __init__(self, folder: Path, page: Path) -> None:
        self.folder, self.page = folder, page
        self.names: dict[str, Any] = {}  # what earlier blocks defined
        self.written: set[str] = set()  # files that blocks have written
        for name in ("experiments", "notebooks"):
            (folder / name).mkdir()
            for file in (PROJECT / name).glob("*.py"):
                (folder / name / file.name).symlink_to(file)

    def python(self, block: Block) -> None:
        """Run a block as a module of its own that sees the names of the blocks before it."""
        named = re.match(r"# (\S+\.py)\b", block.text)
        places = [Path(named[1])] if named else [Path(f"{self.page.stem.replace('-', '_')}_line_{block.line}.py")]
        if named and places[0].parent == Path():
            places.append(Path("experiments") / places[0])
        for place in places:
            (self.folder / place).parent.mkdir(exist_ok=True)
            (self.folder / place).write_text(block.text, encoding="utf-8")
            self.written.add(str(place))
        module = ModuleType(places[0].stem)
        module.__file__ = str(self.folder / places[0])
        vars(module).update(self.names)
        sys.modules[module.__name__] = module
        exec(compile(block.text, module.__file__, "exec"), vars(module))
        self.names |= {name: value for name, value in vars(module).items() if not name.startswith("__")}

    def command(self, words: list[str]) -> None:
        """Check one command line."""
        if words[0] == "genrec":
            self.genrec(words[1:])
        elif words[0] == "make":
            targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert words[1] in targets
        elif words[0] in ("python", "bash"):
            assert (PROJECT / words[1]).is_file(), f"there is no file {words[1]}"
        else:
            assert words == ["source", ".venv/bin/activate"], f"mark the block '<!-- not run: REASON -->': {shlex.join(words)}"

    def genrec(self, words: list[str]) -> None:
        """Parse a command; plan or build its experiments; run it if it is cheap and its file is in the sandbox."""
        if words == ["--version"]:
            return
        options, flags = command_parser.build().parse_known_args(words)
        if options.command == "check":
            file = options.components[0].partition(":")[0]
            if not file.endswith(".py") or (self.folder / file).exists():
                assert main(words) == 0
            return
        if options.command == "tune":
            override([loading.load_tuning(options.experiment).experiment], flags)
            return
        if options.command not in ("run", "data", "tokenize"):
            assert not flags
            return
        file = options.experiment.partition(":")[0]
        if file.endswith(".py") and not (self.folder / file).exists():
            raise AssertionError(f"there is no file {file}")
        experiments = built(options.experiment) if file not in self.written else loading.load(options.experiment)
        experiments = override(experiments, flags)
        local = all(isinstance(experiment.source, Shop | Taste | Cyclic | Frames) for experiment in experiments)
        if options.command == "run":
            if local:
                assert main([*words, *(["--dry-run"] if "--dry-run" not in words and "--fields" not in words else [])]) == 0
        elif file in self.written:
            assert main(words) == 0


@functools.cache
def built(where: str) -> list[Experiment]:
    """Return the experiments of the project's own files, once for all pages."""
    return loading.load(str(PROJECT / where) if where.partition(":")[0].endswith(".py") else where)


@pytest.fixture
def sandbox_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder without downloads; modules that are imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("GENREC_OFFLINE", "1")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "experiments"), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_confirmation_of_a_tuning_has_the_row_and_its_reference(sandbox_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last command of the page on tuning runs S-DPO and SFT, and nothing else, with five fresh seeds."""
    page = PROJECT / "docs" / "tuning.md"
    sandbox = Sandbox(sandbox_folder, page)
    for block in blocks(page):
        if block.language == "python":
            sandbox.python(block)
    ((_, *words),) = commands([block for block in blocks(page) if is_shell(block)][-1])
    assert "--dry-run" not in words
    assert main([*words, "--dry-run"]) == 0
    planned = re.findall(r"^(\S+) \(seed (\d+)\)", capsys.readouterr().out, flags=re.MULTILINE)
    assert planned == [(name, str(seed)) for name in ("taste-sft", "taste-sdpo") for seed in (5, 6, 7, 8, 9)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_a_page_run(page: Path, sandbox_folder: Path) -> None:
    sandbox = Sandbox(sandbox_folder, page)
    run = [block for block in blocks(page) if not block.skipped and not block.language.startswith(("{", *SILENT))]
    for block in sorted(run, key=lambda block: block.language not in ("python", "setup")):  # Python first: commands use its files
        try:
            if block.language in ("python", "setup"):
                sandbox.python(block)
            elif is_shell(block):
                for words in commands(block):
                    sandbox.command(words)
            else:
                assert block.language == "", f"language {block.language!r} is not known: mark the block '<!-- not run: REASON -->'"
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{page.relative_to(PROJECT)}:{block.line}: {error}") from error
    for text in re.findall(r"`(genrec [^`]+\.py:\w+[^`]*)`", page.read_text(encoding="utf-8")):  # commands within sentences
        words = shlex.split(text)
        if any((sandbox_folder / word.partition(":")[0]).is_file() for word in words):
            sandbox.command(words)


def python_block(page: Path, contains: str) -> str:
    """Return the Python block of a page that contains a text."""
    return next(block.text for block in blocks(page) if block.language == "python" and contains in block.text)


def test_sampler_and_loss_of_the_readme_are_short() -> None:
    _, sampler, loss = python_block(README, "class SimilarPopularity").split("@dataclass(frozen=True)\n")
    assert [len([line for line in code.splitlines() if line.strip()]) <= 13 for code in (sampler, loss)] == [True, True]


def test_plugins_of_the_readme_keep_their_contracts(sandbox_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plug-ins pass their checks, the sampler draws, and its field is overridden in an experiment."""
    sandbox = Sandbox(sandbox_folder, README)
    for block in blocks(README):
        if block.language == "python":
            sandbox.python(block)
    for plugin in ("SimilarPopularity", "MarginDPO"):
        assert main(["check", f"my_plugins.py:{plugin}"]) == 0
        assert "keeps its contract" in capsys.readouterr().out
    code = """
from dataclasses import replace
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled
from mine import comparison
from my_plugins import MarginDPO, SimilarPopularity

def similar():
    sdpo = comparison()[-1]
    objective = Preference(MarginDPO(), Sampled(SimilarPopularity(), 3))
    return replace(sdpo, name="mine-similar", align=replace(sdpo.align, objective=objective))
"""
    (sandbox_folder / "similar_experiment.py").write_text(code)
    (found,) = override(loading.load("similar_experiment.py:similar"), ["--align.negatives.window", "20"])
    assert found.align is not None
    sampler = found.align.objective.candidates.negatives
    assert vars(sampler) == {"window": 20}
    context = sampler_context()
    for batch in batches_of(context):
        check_draw(batch, sampler.build(context).draw(batch, 3, generator(0)), 3, context)


def test_catalog_of_the_guide_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy recommends items that were added after its training."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    names: dict[str, Any] = {}
    exec(compile(python_block(PROJECT / "docs" / "semantic-ids.md", "def grown"), "semantic-ids.md", "exec"), names)
    experiment = Experiment(
        name="tiny",
        source=Cyclic(),
        embed=TfidfSvd(dim=8),
        tokenize=Tokenize(RQKMeans(num_levels=2, codebook_size=4)),
        policy=Tiger(d_model=16, d_ff=16, num_heads=2, d_kv=8, num_encoder_layers=1, num_decoder_layers=1, num_beams=50),
        sft=SFT(
            optimization=Optimization(max_steps=2, batch_size=8, learning_rate=3e-4, warmup_steps=1_000, weight_decay=0.035),
            validation=Validation(every=2, patience=15),
        ),
    )
    vectors = load_file(pipeline.run(experiment, last="embed")["embed"].folder / "vectors.safetensors")["vectors"]
    policy = names["grown"](experiment, vectors[:3] + 1e-3)
    assert policy.semantic_ids.items == len(vectors) + 3
    assert policy.semantic_ids.collided == 0
    n = min(50, len(vectors) + 3)
    assert policy.recommend(torch.tensor([[0, 1, 2]]), n).items.max() > len(vectors)


def test_commands_are_all_described() -> None:
    text = (PROJECT / "docs" / "command-line.md").read_text(encoding="utf-8")
    (actions,) = (action for action in command_parser.build()._actions if action.choices)
    assert [name for name in actions.choices or () if f"genrec {name}" not in text] == []


def test_generated_page_describes_every_argument() -> None:
    specification = importlib.util.spec_from_file_location("generated_pages", PROJECT / "docs" / "_ext" / "generated_pages.py")
    assert specification is not None
    assert specification.loader is not None
    pytest.importorskip("sphinx")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    text = "\n".join(module.commands(command_parser.build()))
    (actions,) = (action for action in command_parser.build()._actions if action.choices)
    for name, command in (actions.choices or {}).items():  # type: ignore[attr-defined]
        assert f"### genrec {name}\n" in text
        for argument in command._actions:
            assert all(option in text for option in argument.option_strings if argument.dest != "help")


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(PROJECT)))
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(((?!https?://|#)[^)#\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.relative_to(PROJECT)} links to {target}"


def anchors(page: Path) -> list[str]:
    """Return the anchors of a page's headings, to the third level as in docs/conf.py."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#{1,3} (.+)$", re.sub(r"\[([^\]\n]*)\]\([^)\n]*\)", r"\1", text), flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.strip().lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(PROJECT)))
def test_anchors_of_links_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", text)
    assert [f"{target}#{name}" for target, name in links if name not in anchors(page.parent / target if target else page)] == []


def test_every_page_is_in_the_table_of_contents() -> None:
    for folder, further in ((PROJECT / "docs", ["methods/index", "api/index"]), (PROJECT / "docs" / "methods", [])):
        names = [page.stem for page in GUIDE if page.parent == folder and page.stem != "index"] + further
        index = (folder / "index.md").read_text(encoding="utf-8")
        assert [name for name in names if not re.search(rf"^{name}$", index, re.MULTILINE)] == []


def test_front_pages_are_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert len((PROJECT / "experiments" / "results.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_avoid_riddles_british_spelling_and_local_paths(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE).lower()
    prose = " ".join(prose.split())
    found = [word for word in RIDDLES + BRITISH if re.search(rf"\b{word}", prose)] + [place for place in PLACES if place in prose]
    assert found == []
    assert re.findall(r"(?<![\w.])\.\d", prose) == []  # figures have a leading zero


def messages() -> list[str]:
    """Return all texts of the package, with `…` for the values of f-strings."""
    found = []
    for path in (PROJECT / "genrec").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_of_the_troubleshooting_page_exist() -> None:
    text = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\*\*`.*$", text, flags=re.MULTILINE)))
    known = messages()
    lost = []
    for entry in entries:
        parts = [part.strip(" ;:,()") for part in entry.split("…")]
        pattern = re.compile(".*?".join(re.escape(part) for part in parts if part), re.DOTALL)
        if not any(pattern.search(message) for message in known):
            lost.append(entry)
    assert len(entries) > 20
    assert lost == []


@pytest.mark.slow
def test_documentation_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    project, pages = tmp_path / "project", tmp_path / "pages"  # a copy, because the build writes pages beside its sources
    ignored = shutil.ignore_patterns(
        ".*", "_build", "_generated", "__pycache__", "artifacts", "raw", "reports", "tensorboard", "shared"
    )
    shutil.copytree(PROJECT, project, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(project / "docs"), str(pages)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project)
    assert result.returncode == 0, result.stderr
    assert (pages / "api" / "experiment.html").is_file()
