"""The notebooks run, agree with their sources, and hold nothing of the machine that executed them."""

import json
import re

import pytest

from tests.commands import ROOT

FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SMALLEST = "objectives"  # It trains nothing and reads one sentence.
MACHINE = {
    "absolute path": r"(?<![\w.:/<])/(?:[A-Za-z]+/|(?:tmp|root|home|content)\b)",
    "timing": r"(?<![\w.])\d[\d.,]*\s?(?:ms|s|min|h)\b|\bseconds?\b|(?:tokens|it|steps)/s",
    "address in memory": r"0x[0-9a-f]{6,}",
    "progress": r"\d%\|",
}


def committed(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text())


def printed(notebook):
    """The printed output of each code cell but the first, which describes the machine."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join("".join(output.get("text", "")) for output in cell["outputs"]) for cell in code[1:]]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache for all notebooks, most of which read the same text."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == SMALLEST else pytest.mark.notebooks) for name in NAMES]
)
def test_a_notebook_runs_in_an_empty_directory(name, cache, monkeypatch):
    build = pytest.importorskip("notebooks.build", reason="needs the extra notebooks")
    monkeypatch.setenv("LM_JAX_CACHE", str(cache))

    executed = build.execute(build.read(FOLDER / f"{name}.py"))
    times = build.seconds(executed)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert len(times) == len(code) and min(times) >= 0
    executed = build.stored(executed)
    assert not any("execution" in cell.metadata for cell in code)

    if name == SMALLEST:
        assert printed(executed) == printed(committed(name)), "run make notebooks"


def test_every_source_has_a_notebook_with_the_same_cells():
    build = pytest.importorskip("notebooks.build", reason="needs the extra notebooks")
    assert [path.stem for path in build.sources()] == NAMES
    for name in NAMES:
        cells = [(cell.cell_type, cell.source) for cell in build.read(FOLDER / f"{name}.py").cells]
        stored = [(cell["cell_type"], "".join(cell["source"])) for cell in committed(name)["cells"]]
        assert stored == cells, f"{name}: run make notebooks"


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_outputs_hold_no_path_timing_or_error(name):
    for cell in committed(name)["cells"]:
        assert "execution" not in cell["metadata"]
        for output in cell.get("outputs", ()):
            assert output["output_type"] != "error" and output.get("name") != "stderr"
            text = "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", ""))
            for what, pattern in MACHINE.items():
                found = re.search(pattern, text)
                assert not found, f"{what} {found[0]!r} in an output of {name}: give its cell the tag live"


@pytest.mark.parametrize("name", NAMES)
def test_the_first_code_cell_installs_on_colab_alone_and_names_the_devices(name):
    first = next(cell for cell in committed(name)["cells"] if cell["cell_type"] == "code")
    source = "".join(first["source"])
    assert re.search(r'if "google.colab" in sys.modules:.*\n +subprocess.run\(.*"install"', source)
    assert source.endswith("print(doctor.summary())")
    assert "devices " in "".join(first["outputs"][0]["text"])
