"""Rules about the source: which packages import which, and the length of files and functions."""

import ast
from pathlib import Path

import jaxtyping
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lm_jax"

# A package imports only packages of lower levels.
LEVELS = {
    "main": 8,
    "verbs": 7,
    "flags": 6,
    "experiment": 5,
    "train": 4,
    "evaluate": 4,
    "decode": 4,
    "export": 4,
    # Compares imported models with the reference, including generated text, so it imports decode.
    "interop.verify": 5,
    "objectives": 3,
    "adapt": 3,
    "compress": 3,
    "privacy": 3,
    "interpret": 3,
    "interop": 3,
    # Reads compiled programs; what it plans is given by verbs.
    "plan": 2,
    "models": 2,
    "data": 2,
    "parallel": 1,
    "core": 0,
}
# These take seconds to import, so they are imported inside the functions that need them.
HEAVY = (
    *("tensorflow_datasets", "grain", "orbax", "sentencepiece", "tokenizers", "rjieba"),
    *("matplotlib", "pyarrow", "tensorboardX", "wandb"),
    *("sklearn", "sacrebleu", "rouge_score", "nervaluate", "scipy"),
)
LONG_FUNCTIONS = {"fit", "generate"}


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """The module name of a file: `models.stack` for `lm_jax/models/stack.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def package_of(module):
    """The subpackage of a module such as `models.stack`, or None for `lm_jax` itself."""
    if module.startswith(("interop.verify", "interop.outputs")):
        return "interop.verify"
    return module.split(".")[0] or None


def imports(path, *, top_level_only=False):
    """Full names of the modules that a file imports, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import on line {node.lineno}; write the full name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_package_has_a_level():
    packages = {package_of(name_of(path)) for path in sources()} - {None}
    assert packages <= set(LEVELS), f"give these a level: {sorted(packages - set(LEVELS))}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_packages_import_only_lower_packages(path):
    package = package_of(name_of(path))
    for name in imports(path):
        if not name.startswith("lm_jax."):
            continue
        other = package_of(name.removeprefix("lm_jax."))
        if other not in LEVELS or other == package:
            continue
        assert package is not None, f"{path.name} imports {name}: lm_jax/__init__.py imports nothing"
        assert LEVELS[other] < LEVELS[package], f"{path.relative_to(ROOT)} imports {name}: {package} may not"


def test_interop_imports_models_and_core_only():
    for path in sources():
        if package_of(name_of(path)) == "interop":
            names = [name.removeprefix("lm_jax.") for name in imports(path) if name.startswith("lm_jax.")]
            packages = {package_of(name) for name in names}
            assert packages <= {"interop", "models", "core"}, f"{path.relative_to(ROOT)} imports {sorted(packages)}"


def test_plan_imports_parallel_and_core_only():
    for path in sources():
        if package_of(name_of(path)) == "plan":
            names = [name.removeprefix("lm_jax.") for name in imports(path) if name.startswith("lm_jax.")]
            packages = {package_of(name) for name in names}
            assert packages <= {"plan", "parallel", "core"}, f"{path.relative_to(ROOT)} imports {sorted(packages)}"


def test_only_models_build_blocks():
    for path in sources():
        if package_of(name_of(path)) != "models" and "stack.block" in path.read_text(encoding="utf-8"):
            names = {name.removeprefix("lm_jax.models.stack.block.") for name in imports(path)}
            assert "Block" not in names, f"{path.relative_to(ROOT)} builds a Block; use the model, with `show`"


def test_data_runs_no_device_code():
    for path in (PACKAGE / "data").rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"jax", "flax", "optax"}, f"{path.relative_to(ROOT)} imports {sorted(roots)}"


def test_recipes_import_config_dicts_and_presets_only():
    for path in (ROOT / "configs").glob("*.py"):
        for name in imports(path):
            allowed = name.startswith(("ml_collections", "lm_jax.models.presets", "lm_jax.data.tasks", "__future__"))
            assert allowed or name in ("lm_jax", "lm_jax.data", "lm_jax.models"), (
                f"{path.relative_to(ROOT)} imports {name}"
            )


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(path):
    heavy = [name for name in imports(path, top_level_only=True) if name.split(".")[0] in HEAVY]
    assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} at the top"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_files_and_functions_stay_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines; the limit is 400"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            most = 120 if node.name in LONG_FUNCTIONS else 80
            assert length <= most, f"{path.relative_to(ROOT)}: {node.name} has {length} lines; the limit is {most}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_every_module_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path.relative_to(ROOT)} has no docstring"


def test_shapes_in_annotations_are_strings():
    # jaxtyping does not check an annotation that it cannot read, and does not say so.
    kinds = {name for name, value in vars(jaxtyping).items() if isinstance(value, type(jaxtyping.Float))}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and getattr(node.value, "id", None) in kinds:
                array = isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2 and node.slice.elts
                assert array and isinstance(array[1], ast.Constant) and isinstance(array[1].value, str), (
                    f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
                )
