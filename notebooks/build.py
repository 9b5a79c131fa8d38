"""Executes the notebooks of this folder: NAME.py is the source (jupytext's percent format), NAME.ipynb the result.

    python -m notebooks.build [NAME ...]    # without names: all; `make notebooks` runs it

The outputs of a cell with the tag `live` are for its reader alone, such as progress and timings: they are not stored.
The seconds of each notebook and of its long cells are printed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
TIMEOUT_S = 600  # of a cell
LONG_S = 5  # A cell that takes as long is printed with its time.
LIVE = "live"  # Tag of a cell whose outputs are not stored.
# Settings of the caller that a notebook makes itself, or that a reader's kernel does not have.
UNSET = ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION", "MPLBACKEND")


def sources() -> list[Path]:
    """Returns the source files of all notebooks, sorted by name."""
    return sorted(path for path in FOLDER.glob("*.py") if path.name not in ("__init__.py", "build.py"))


def read(source: Path) -> Any:
    """Returns the notebook of a source file, without outputs."""
    notebook = jupytext.read(source)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem}-{number}"
    return notebook


def execute(notebook: Any) -> Any:
    """Runs all cells in an empty directory; raises `CellExecutionError` if one fails.

    The kernel is this interpreter, with the repository on its path, so that it needs no installed lm_jax.
    """
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    path = [str(FOLDER.parent), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.coalesce_streams = True
        client.execute(env=environment)
        return _relative(notebook, folder)


def _relative(notebook: Any, folder: str) -> Any:
    """Writes paths below `folder` in the printed outputs as a reader's relative ones."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "text" in output:
                output.text = output.text.replace(f"{os.path.realpath(folder)}/", "").replace(f"{folder}/", "")
    return notebook


def stored(notebook: Any) -> Any:
    """Returns an executed notebook as it is committed: without what differs between two executions or machines."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        if LIVE in cell.metadata.get("tags", ()):
            cell.outputs = []
        # Progress and warnings are on standard error.
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    return notebook


def seconds(notebook: Any) -> list[float]:
    """Returns the wall time of each code cell of an executed notebook."""
    times = [cell.metadata["execution"] for cell in notebook.cells if "execution" in cell.metadata]
    parse = datetime.fromisoformat
    return [(parse(time["shell.execute_reply"]) - parse(time["iopub.execute_input"])).total_seconds() for time in times]


def main(names: Sequence[str]) -> None:
    """Executes the notebooks of these names, or all, and writes their .ipynb files."""
    known = {source.stem: source for source in sources()}
    if unknown := set(names) - set(known):
        sys.exit(f"no notebook {', '.join(sorted(unknown))}; expected one of {', '.join(known)}")
    for name in names or known:
        notebook = execute(read(known[name]))
        times = seconds(notebook)
        nbformat.write(stored(notebook), FOLDER / f"{name}.ipynb")
        long = ", ".join(f"{time:.0f}" for time in times if time >= LONG_S)
        print(f"notebooks/{name}.ipynb: {sum(times):.0f} s; cells of {LONG_S} s and more: {long or 'none'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
