"""The lists of fields that the reference can read, compared with its source."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from interop import reference_fields

from lm_jax.interop import fields
from lm_jax.interop.settings import HARMLESS
from lm_jax.interop.tables import TABLES

FAMILIES = [family for family in TABLES if family != "transformer2017"]


def test_every_family_of_the_reference_has_its_fields():
    assert list(fields.OWN) == FAMILIES
    assert fields.of("transformer2017") is None
    assert "position_buckets" in (fields.of("deberta-v2") or ())


def test_no_field_is_harmless_or_listed_twice():
    for family, names in fields.OWN.items():
        assert not names & fields.SHARED, family
        assert not [name for name in names | fields.SHARED if HARMLESS.fullmatch(name)], family


@pytest.mark.parity_live
@pytest.mark.parametrize("family", FAMILIES)
def test_the_installed_release_reads_no_other_field(family):
    pytest.importorskip("transformers", reason="needs transformers, which is not installed")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    spec = importlib.util.find_spec("transformers")
    package = Path(spec.origin).parent
    kind = CONFIG_MAPPING[family]
    defined = {field.name for field in dataclasses.fields(kind)} | set(kind().to_dict())
    defined |= {*kind.attribute_map, *kind.attribute_map.values()}
    readable = defined | reference_fields.family(package, family) | reference_fields.shared(package)
    relevant = {name for name in readable if name.isidentifier() and not HARMLESS.fullmatch(name)}
    assert relevant <= (fields.of(family) or frozenset())
