"""Execute notebooks in place and keep their outputs: `make notebooks`.

    python notebooks/execute.py                        # all notebooks of this folder
    python notebooks/execute.py notebooks/NAME.ipynb

Each notebook runs in a new kernel, in its folder, with one thread and an empty data folder, which its outputs call `data`. Lines of
progress, which go to standard error, are not kept.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def execute(path: Path) -> NotebookNode:
    """Return the notebook with the outputs of a fresh run. Raises nbclient's CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    packages = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as data:
        environment = os.environ | {"GENREC_HOME": data, "PYTHONPATH": packages} | dict.fromkeys(THREADS, "1")
        client = NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, timeout=None, record_timing=False)
        client.execute(env=environment)
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = kept_outputs(cell.outputs)
    return nbformat.reads(nbformat.writes(notebook).replace(data, "data"), as_version=4)


def kept_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return the outputs without standard error, and standard output joined: the kernel sends it in pieces that depend on the time."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main(names: list[str]) -> None:
    """Execute the notebooks of these files, or all of the folder, in place."""
    for path in [Path(name).absolute() for name in names] or sorted(FOLDER.glob("*.ipynb")):
        print(f"{path.name} ...", flush=True)
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main(sys.argv[1:])
