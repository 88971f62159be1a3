"""Commands in messages: a shell reads them as they are meant, also with spaces in a path."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

import genrec
from genrec import experiment_commands, loading, override_messages, plugin_source, studies
from genrec.command_lines import command_line
from genrec.errors import UsageError
from genrec.failed_runs import resuming
from genrec.kept_rows import KeptRows
from genrec.serving import stored_rows
from genrec.serving.export_files import read_settings

FILE = """
from dataclasses import dataclass
from genrec.experiment import Experiment

def rows() -> Experiment: ...

@dataclass(frozen=True)
class Mine:
    size: int = 1
"""


def test_words_that_need_quotes_get_them() -> None:
    assert command_line("run", "a.py:rows", "--seeds", 5) == "genrec run a.py:rows --seeds 5"
    assert shlex.split(command_line("run", Path("it's here/a b.py"))) == ["genrec", "run", "it's here/a b.py"]


@pytest.mark.parametrize(
    ("given", "resumed", "seeded"),
    [
        ("--seed 1", "--seed 1", ""),
        ("--seeds=0,1 --refresh sft", "--seeds=0,1", ""),
        ("--replace --rows a,b", "--replace --rows a,b", "--rows a,b"),
        ("--refr=sft --repl --seeds 2", "--repl --seeds 2", ""),
        ("--on local:2 --sft.optimization.max-steps 5 --seed 0", "--on local:2 --sft.optimization.max-steps 5 --seed 0",
         "--on local:2 --sft.optimization.max-steps 5"),
        ("--trainer.devices 2 --offline --track wandb", "--trainer.devices 2 --offline --track wandb",
         "--trainer.devices 2 --offline --track wandb"),
    ],
)  # fmt: skip
def test_the_commands_after_a_run_leave_out_the_same_options(given: str, resumed: str, seeded: str) -> None:
    """A command that resumes keeps the seeds and --replace; one with more seeds begins no row again and names its own seeds."""
    words = ["run", "a b.py:rows", *given.split()]
    assert resuming(["/bin/genrec", *words]) == f"genrec run 'a b.py:rows' {resumed}"
    assert experiment_commands._with_seeds(words) == f"genrec run 'a b.py:rows' {seeded}{' ' if seeded else ''}--seeds 5"
    assert resuming(["/bin/genrec", *words], keep_refresh=True) == command_line(*words)


def command_in(message: str) -> list[str]:
    """Return the words of the command at the end of a message."""
    return shlex.split(message[message.rindex("genrec ") :])


def test_commands_of_messages_keep_a_path_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my files"
    folder.mkdir()
    file = folder / "a b.py"
    file.write_text(FILE)
    with pytest.raises(UsageError) as error:
        loading.load(str(file))
    assert command_in(str(error.value)) == ["genrec", "run", f"{file}:rows"]
    with pytest.raises(UsageError) as error:
        loading.component(str(file))
    assert command_in(str(error.value)) == ["genrec", "check", f"{file}:Mine"]
    assert command_in(override_messages.list_fields(f"{file}:rows")) == ["genrec", "run", f"{file}:rows", "--fields"]
    with pytest.raises(UsageError) as error:
        read_settings(folder / "out")
    assert command_in(str(error.value)) == ["genrec", "export", "NAME", str(folder / "out")]
    assert command_in(KeptRows(folder).again("row")) == ["genrec", "keep", "row", "--to", str(folder), "--replace"]
    monkeypatch.setattr(plugin_source, "place_of", lambda kind: f"{file}:7")
    assert shlex.split(plugin_source.check_command(Path)) == ["genrec", "check", f"{file}:Path"]
    found = [SimpleNamespace(name=f"{file}:rows")]
    monkeypatch.setattr(studies, "of_run", lambda *_: found)
    content = {"name": "row", "configuration": {}}
    assert command_in(stored_rows.run_command(content, 0, 7)) == ["genrec", "run", f"{file}:rows", "--seeds", "7,"]


def test_no_message_writes_a_path_into_a_command_by_hand() -> None:
    """Such as "genrec run {where}". The name of a row needs no quotes: it has letters, digits, '.', '_' and '-'."""
    by_hand = re.compile(r"genrec (run|show|compare|keep|curves|recommend|export|serve|tune|check|data|clean) [^'\"]*?\{(\w+)")
    known = {
        ("recommend", "name"),
        ("tune", "tuning"),
        ("recommend", "flag"),
        ("run", "seeds"),
        ("compare", "name"),
        ("serve", "error"),
    }
    found = {
        (path.name, *match.groups())
        for path in Path(genrec.__file__).parent.rglob("*.py")
        for match in by_hand.finditer(path.read_text(encoding="utf-8"))
        if match.groups() not in known
    }
    assert found == set()
