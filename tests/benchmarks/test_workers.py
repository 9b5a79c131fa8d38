"""The batches of the benchmarks are those that their objectives read."""

import importlib

import numpy as np
import pytest


@pytest.mark.parametrize("work", ["w1", "w2", "w3"])
def test_the_batch_of_a_workload_has_the_features_of_its_objective(work, monkeypatch):
    module, given = importlib.import_module(f"benchmarks.{work}"), {}

    class Training:
        def __init__(self, model, objective, optimizer, steps, batch):
            given.update(objective=objective, batch=batch)

        def serve(self, batch, loss, tokens):
            given.update(loss=loss)

    monkeypatch.setattr(module, "Training", Training)
    module.main()

    objective, batch = given["objective"], given["batch"]
    assert given["loss"] in objective.terms
    # The workloads set their own lengths.
    expected = {name: np.dtype(field.dtype) for name, field in objective.spec.items()}
    assert {name: array.dtype for name, array in batch.items()} == expected
