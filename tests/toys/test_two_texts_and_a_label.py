"""A toy task, textual entailment: does a hypothesis follow from a premise? A table has columns for both and a label."""

import dataclasses

import jax
import laws
import numpy as np
import tiny

from lm_jax.core.config import Tree
from lm_jax.data import corpora, tokenizers
from lm_jax.data.config import DataConfig
from lm_jax.data.rows import Reads
from lm_jax.models.interface import Inputs
from lm_jax.objectives.base import Field, Loss, Objective, Work, accuracy, padded, per_weight, weighted
from lm_jax.objectives.cross_entropy import cross_entropy
from lm_jax.objectives.roles import Role

LENGTH = 24
TABLE = """premise\thypothesis\tlabel
The tide comes in twice a day.\tThe tide comes in.\tyes
The lamp burned all night.\tThe lamp was dark.\tno
She rows across the harbour.\tShe is in a boat.\tyes
He keeps bees.\tHe owns no animals.\tno
The bridge was closed.\tNobody crossed the bridge.\tyes
Two ships left port.\tOne ship stayed.\tno
It has rained for a week.\tThe ground is wet.\tyes
All shops open at nine.\tThe shops open at noon.\tno
"""


@dataclasses.dataclass(frozen=True)
class Entailment(Objective):
    vocabulary: object

    roles = {"model": Role(kinds=("encoder",))}
    terms = ("loss",)
    reads = Reads(
        plan="columns", length=LENGTH, columns=Tree({"premise": LENGTH // 2, "hypothesis": LENGTH // 2 - 3, "label": 0})
    )
    spec = {
        **dict.fromkeys(("tokens", "types", "segments"), Field(shape=(LENGTH,), axes=("length",))),
        "label": Field(),
        "weights": Field(dtype="float32"),
    }
    work = (Work(role="model", length=LENGTH, scored=0, heads=Tree(pair=1)),)

    def features(self, row, rng):
        cls, sep = self.vocabulary.require("entails", "cls", "sep")
        first, second = [cls, *row["premise"], sep], [*row["hypothesis"], sep]
        return {
            "tokens": padded(np.array([*first, *second]), LENGTH, self.vocabulary.pad),
            "types": padded(np.repeat([0, 1], [len(first), len(second)]), LENGTH),
            "segments": padded(np.ones(len(first) + len(second)), LENGTH),
            "label": np.int32(row["label"]),
            "weights": np.float32(1),
        }

    def weights(self, batch):
        return {"rows": batch["weights"].sum()}

    def loss(self, models, part):
        model, batch = models["model"], part.batch
        inputs = Inputs(tokens=batch["tokens"], types=batch["types"], segments=batch["segments"])
        logits = model.head("pair", model(inputs, dropout=part.key).hidden[:, 0])
        loss = weighted(cross_entropy(logits, batch["label"]), batch["weights"])
        metrics = {"loss": loss, "accuracy": accuracy(logits, batch["label"], batch["weights"])}
        return Loss(total=per_weight(loss.total, part.weights["rows"]), metrics=metrics)


def test_it_keeps_the_laws_on_the_rows_of_a_table(tmp_path, repository):
    (tmp_path / "table.tsv").write_text(TABLE)
    path = repository / "tests" / "golden" / "tokenizer"
    data = DataConfig(
        path=str(tmp_path / "table.tsv"),
        columns=Tree({"premise": Tree(), "hypothesis": Tree(), "label": Tree(kind="label")}),
        tokenizer=tokenizers.TokenizerConfig(path=str(path)),
        store=str(tmp_path / "store"),
        workers=1,
    )
    corpus, objective = corpora.prepare(data), Entailment(tiny.VOCABULARY)
    plan = corpora.make_rows(
        corpus, config=data.rows, split="train", reads=objective.reads, validation=0.0, seed=0, lanes=8
    )
    assert len(plan) == 8 and list(corpus.names["label"]) == ["no", "yes"]
    rows = [plan.row(index, 0, np.random.default_rng(index)) for index in range(8)]
    assert [int(row["label"]) for row in rows] == [1, 0] * 4
    over = {**tiny.STILL, "embed.vocab": corpus.tokenizer.vocab_size, "embed.max_length": LENGTH}
    case = laws.case(objective, {"model": tiny.config("bert", over=over)}, rows, rate=0.02)
    states = laws.check(case, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[-1].params))
