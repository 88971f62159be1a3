"""An installed genrec, as a user runs it: its command, in a folder without a checkout.

As a program, checks the genrec of the Python that runs it: `ENVIRONMENT/bin/python tests/installed_package.py`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

TINY = """\
from genrec.experiment import SFT, Experiment, Optimization, Validation
from genrec.model import Tiger
from genrec.testing import Cyclic


def tiny():
    return Experiment(
        name="tiny",
        source=Cyclic(num_items=64, num_users=60),
        policy=Tiger(d_model=16, d_ff=32, num_heads=2, d_kv=8, num_encoder_layers=1, num_decoder_layers=1, num_beams=50),
        sft=SFT(Optimization(max_steps=4, batch_size=16, warmup_steps=1), Validation(every=4)),
    )
"""
FROM_OUTSIDE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GENREC_HOME")  # they would lead to another genrec or to other data


def environment(*folders: Path) -> dict[str, str]:
    """Return the environment variables of a shell that finds programs in these folders and in the system's alone."""
    kept = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    return kept | {"PATH": os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"]), "OMP_NUM_THREADS": "1"}


def run(*command: str, cwd: Path, variables: dict[str, str]) -> str:
    """Run a command in a folder and return its output; a failure shows what it printed."""
    result = subprocess.run(command, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"
    return result.stdout


def check_package(programs: Path, folder: Path) -> None:
    """Import the genrec of the environment with these programs from an empty folder, and plan the quick start there."""
    folder.mkdir()
    variables = environment(programs)
    place = run("python", "-c", "import genrec; print(genrec.__file__)", cwd=folder, variables=variables)
    assert place.startswith(str(programs.parent / "lib")), place
    assert run("genrec", "--version", cwd=folder, variables=variables).split() == ["genrec", version("genrec")]
    planned = run("genrec", "run", "genrec.quickstart:comparison", "--dry-run", cwd=folder, variables=variables)
    assert planned.count("evaluate ") == 27  # 2 baselines, 8 rows with 3 seeds each, and the line of the totals
    assert not any(folder.iterdir())


def check_commands(programs: Path, folder: Path) -> None:
    """Run the commands of the genrec in `programs` from the new folder `folder`: help, a tiny experiment and what reads its row."""
    folder.mkdir()
    variables = environment(programs)

    def genrec(*words: str) -> str:
        return run("genrec", *words, cwd=folder, variables=variables)

    assert "usage: genrec" in genrec("--help")
    assert "has no rows" in genrec("list")
    assert not any(folder.iterdir())

    (folder / "mine.py").write_text(TINY, encoding="utf-8")
    assert "tiny" in genrec("run", "mine.py:tiny")
    assert "tiny" in genrec("list")
    listed = json.loads(genrec("recommend", "tiny", "--history", "item-0", "--n", "3", "--json"))
    items = [each["item_id"] for each in listed["recommendations"]]
    assert len(set(items)) == 3
    genrec("compare", "tiny", "--html", "report.html")
    assert "</html>" in (folder / "report.html").read_text(encoding="utf-8")
    genrec("export", "tiny", "exported")
    exported = json.loads(genrec("recommend", "exported", "--history", "item-0", "--n", "3", "--json"))
    assert [each["item_id"] for each in exported["recommendations"]] == items


def main() -> None:
    """Check the genrec of this Python in a temporary folder."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        check_package(programs, Path(folder) / "empty")
        check_commands(programs, Path(folder) / "work")
    print(f"genrec {version('genrec')} works with Python {platform.python_version()}.")


if __name__ == "__main__":
    main()
