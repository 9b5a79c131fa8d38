"""A small task and its recipe: two classes of short texts, a model that `--fork` supplies, training and dev files."""

import json
from pathlib import Path

import workdirs

from lm_jax.data import tokenizers
from tests.commands import GOLDEN

ROWS, DEV, BATCH = 36, 8, 8
RECIPE = '''"""Classifies texts; --fork supplies the model."""

from ml_collections import ConfigDict


def get_config(variant=""):
    return ConfigDict(
        dict(
            objective=dict(name="classify"),
            data=dict(
                path={train!r},
                dev={dev!r},
                columns=dict(text=dict(), label=dict(kind="label")),
                length=16,
                batch={batch},
                store={store!r},
                workers=1,
                threads=0,
            ),
            # So that all evaluations of a run are equal.
            optimizer=dict(learning_rate=0.0, schedule=dict(name="constant")),
            train=dict(epochs=2),
            evaluate=dict(per_epoch=1, best="accuracy"),
            log=dict(writers=("jsonl",)),
        )
    )
'''


def write(folder: Path) -> None:
    """Writes train.jsonl, dev.jsonl, other.jsonl, recipe.py, and the run `parent` of an untrained tiny BERT."""
    words = ("lantern", "basket"), ("shells", "river")
    for name, rows in (("train", ROWS), ("dev", DEV), ("other", 3)):
        lines = [{"text": f"The {words[row % 2][row % 4 // 2]} {row}.", "label": "ab"[row % 2]} for row in range(rows)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paths = {name: str(folder / f"{name}.jsonl") for name in ("train", "dev")}
    (folder / "recipe.py").write_text(RECIPE.format(**paths, store=str(folder / "store"), batch=BATCH))
    workdirs.draw(folder / "parent", "bert", tokenizers.load(GOLDEN / "tokenizer"), stack__depth=1)
