"""A toy objective with two models: a generator fills masks, a discriminator detects the replaced tokens.

They share their embedding tables. The generator's replacements are sampled on the device, with a key per row.
"""

import dataclasses

import jax
import jax.numpy as jnp
import laws
import numpy as np
import tiny
from ml_collections import ConfigDict

from lm_jax import experiment, flags
from lm_jax.core.config import Tree
from lm_jax.data import tokenizers
from lm_jax.data.rows import Reads
from lm_jax.models.heads import gather
from lm_jax.models.interface import Inputs
from lm_jax.models.presets.bert import bert
from lm_jax.objectives import OBJECTIVES
from lm_jax.objectives.base import Field, Loss, Objective, Part, Work, padded, per_weight, row_keys, weighted
from lm_jax.objectives.cross_entropy import cross_entropy, token_loss
from lm_jax.objectives.roles import Role

LENGTH, MASKED = 12, 3
SHARED = ("token", "embed/position")


@dataclasses.dataclass(frozen=True)
class ReplacedTokens(Objective):
    config: object
    vocabulary: object
    length: int
    kind: str = "encoder"

    roles = {
        "generator": Role(kinds=("encoder",), shares=dict.fromkeys(SHARED, "discriminator")),
        "discriminator": Role(kinds=("encoder",), product=True),
    }
    terms = ("generator_loss", "discriminator_loss")

    @property
    def spec(self):
        row, masked = Field(shape=(self.length,), axes=("length",)), Field(shape=(MASKED,))
        weights = {
            "weights": Field(shape=(MASKED,), dtype="float32"),
            "real": Field(shape=(self.length,), dtype="float32"),
        }
        return {"tokens": row, "segments": row, "positions": masked, **weights}

    @property
    def work(self):
        return (
            Work(role="generator", length=self.length, scored=MASKED),
            Work(role="discriminator", length=self.length, scored=0, heads=Tree(pair=self.length)),
        )

    @property
    def reads(self):
        return Reads(plan="packed", length=self.length)

    def features(self, row, rng):
        tokens = row["tokens"]
        chosen = np.sort(rng.permutation(len(tokens))[:MASKED])
        real = padded(np.ones(len(tokens), np.int32), self.length)
        return {
            "tokens": padded(tokens, self.length, self.vocabulary.pad),
            "segments": real,
            "real": real.astype(np.float32),
            "positions": padded(chosen, MASKED),
            "weights": (np.arange(MASKED) < len(chosen)).astype(np.float32),
        }

    def weights(self, batch):
        return {"masked": batch["weights"].sum(), "read": batch["real"].sum()}

    def loss(self, models, part):
        batch, key, weights = part.batch, part.key, part.weights
        tokens, at = batch["tokens"], batch["positions"]
        rows, labels = jnp.arange(len(tokens))[:, None], jnp.take_along_axis(tokens, at, 1)
        # A position without weight keeps its token.
        place = lambda new: tokens.at[rows, at].set(jnp.where(batch["weights"] > 0, new, labels))
        generator, discriminator = models["generator"], models["discriminator"]
        masked = place(jnp.full_like(labels, self.vocabulary.mask))
        hidden = gather(generator(Inputs(tokens=masked, segments=batch["segments"]), dropout=key).hidden, at)
        filled, _ = token_loss(generator, hidden, labels, batch["weights"])
        logits = jax.lax.stop_gradient(generator.readout(hidden))
        samples = jax.vmap(jax.random.categorical)(row_keys(batch), logits)
        corrupted = place(samples.astype(tokens.dtype))
        states = discriminator(Inputs(tokens=corrupted, segments=batch["segments"]), dropout=key).hidden
        detected = discriminator.head("pair", states.reshape(-1, states.shape[-1])).reshape(*tokens.shape, 2)
        detection = weighted(cross_entropy(detected, (corrupted != tokens).astype(jnp.int32)), batch["real"])
        total = per_weight(filled.total, weights["masked"]) + per_weight(detection.total, weights["read"])
        return Loss(total=total, metrics={"generator_loss": filled, "discriminator_loss": detection})


ROWS = [{"tokens": laws.text(count, seed)} for seed, count in enumerate((12, 5, 9, 12, 2, 12, 7, 12))]
NARROW = {"stack.depth": 1, "stack.block.feedforward.width": 16}


def replaced_tokens():
    objective = ReplacedTokens(None, tiny.VOCABULARY, LENGTH)
    still = {**tiny.STILL, "embed.max_length": LENGTH, "embed.types": 0}
    small, large = (tiny.config("bert", over={**still, **over}) for over in (NARROW, {}))
    return laws.case(objective, {"generator": small, "discriminator": large}, ROWS)


def test_it_keeps_the_laws_with_shared_tables_and_a_key_per_row(tmp_path):
    case = replaced_tokens()
    states = laws.check(case, tmp_path)
    assert not {"token", "position"} & {*states[-1].params["generator"], *states[-1].params["generator"]["embed"]}
    before, after = laws.all_params(states[0]), laws.all_params(states[-1])
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert {"discriminator/token/embedding", "generator/stack/layers/attention/query/kernel"} <= changed


def test_the_discriminators_loss_trains_only_the_shared_parameters_of_the_generator():
    case = replaced_tokens()
    batch = {name: jnp.asarray(value) for name, value in case.batch.items()}

    def loss(params):
        weights = {**case.objective.weights(batch), "masked": jnp.float32(1e30)}
        return case.objective.loss(case.models.bind(params), Part(batch=batch, weights=weights)).total

    slopes = jax.jit(jax.grad(loss))(case.first.params)
    assert all(np.abs(leaf).max() < 1e-20 for leaf in jax.tree.leaves(slopes["generator"]))
    assert np.abs(slopes["discriminator"]["token"]["embedding"]).max() > 1e-6


def test_a_recipe_gives_each_role_its_own_preset(monkeypatch, repository):
    monkeypatch.setitem(OBJECTIVES, "replaced", ReplacedTokens)
    models = {"model": bert("tiny"), "models": {"generator": bert("tiny")}}
    recipe = ConfigDict({**models, "objective": {"name": "replaced"}})
    config, _ = flags.configure(recipe, ["--config.models.generator.stack.depth=1"])
    tokenizer = tokenizers.load(repository / "tests" / "golden" / "tokenizer")
    exp = experiment.Experiment(experiment.parse(config), tokenizer)
    depths = {role: model.module.config.stack.depth for role, model in exp.models.models.items()}
    assert depths == {"generator": 1, "discriminator": bert("tiny").stack.depth}
    assert exp.product is exp.models.models["discriminator"]
    assert exp.flops() > 0
    assert all(leaf.sharding is not None for leaf in jax.tree.leaves(exp.state_like))
