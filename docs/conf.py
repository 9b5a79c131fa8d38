"""Configuration of the documentation's site, which `make docs` builds in docs/_build.

The pages of the reference are written before each build, one for a package, from the docstrings of its modules.
"""

import pkgutil
from pathlib import Path

import lm_jax

project = "lm_jax"
version = release = lm_jax.__version__
html_theme, html_title = "furo", "lm_jax"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # links to headings, as on GitHub

default_role = "code"  # docstrings write names in backquotes, as Markdown does
napoleon_use_ivar = True
napoleon_custom_sections = [("Returns", "prose")]  # ours have no type before a colon: the signature has it
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
# Other libraries and type variables have no page here.
nitpick_ignore_regex = [("py:.*", r"(?!lm_jax\.).*"), ("py:.*", r"lm_jax\.core\.config\.(Config|Entry)")]
# The names of axes in a shape, such as "batch", are not references.
suppress_warnings = ["ref.python"]

REFERENCE = Path(__file__).parent / "reference"
PACKAGES = "core parallel plan models data objectives adapt train evaluate decode interop experiment".split()
# Details of one family of checkpoints each: docs/design.md says how such a table works.
OMITTED = ("lm_jax.interop.tables.",)


def modules(package: str) -> list[str]:
    """Returns the names of a package and of all modules below it."""
    folder, name = Path(lm_jax.__file__).parent / package, f"lm_jax.{package}"
    below = [info.name for info in pkgutil.walk_packages([str(folder)], f"{name}.")]
    return [name, *(each for each in below if not each.startswith(OMITTED))]


def write_reference(app: object) -> None:
    """Writes one page of directives for each package; unchanged pages keep their dates, so they are not built again."""
    REFERENCE.mkdir(exist_ok=True)
    for package in PACKAGES:
        names = modules(package)
        # A function that a package exports from a module of the same name would have two entries under one name.
        hidden = {
            name: [each.rpartition(".")[2] for each in names if each.rpartition(".")[0] == name] for name in names
        }
        directive = "{0} {1}\n\n```{{eval-rst}}\n.. automodule:: {1}\n   :exclude-members: {2}\n```\n"
        levels = ["#", *["##"] * (len(names) - 1)]
        sections = [
            directive.format(level, each, ", ".join(hidden[each])) for level, each in zip(levels, names, strict=True)
        ]
        page, text = REFERENCE / f"{package}.md", "\n".join(sections)
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def shorten(app: object, what: str, name: str, obj: object, options: object, signature: str, returns: str) -> object:
    """Shortens jax's internal name of its arrays in a signature."""
    short = lambda text: text and text.replace("jaxlib._jax.Array", "Array").replace("numpy.ndarray", "np.ndarray")
    return short(signature), short(returns)


def setup(app) -> None:
    """Connects the two functions to Sphinx's events."""
    app.connect("builder-inited", write_reference)
    app.connect("autodoc-process-signature", shorten)
