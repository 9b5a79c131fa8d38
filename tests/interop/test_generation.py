"""Special ids and settings of generation in the form of `transformers`."""

from lm_jax.interop import generation

ROLES = {"pad": 0, "unk": 1, "bos": 3, "eos": 3, "mask": 6}


def test_ids_are_named_by_their_role():
    assert generation.ids("decoder", ROLES) == {f"{role}_token_id": token for role, token in ROLES.items()}


def test_an_encoder_decoder_starts_from_padding():
    assert generation.ids("encoder_decoder", ROLES)["decoder_start_token_id"] == 0


def test_generation_stops_at_the_end_of_the_table_of_positions():
    limited = generation.defaults("decoder", ROLES, forbidden=(0, 1), longest=64, most=128)
    free = generation.defaults("decoder", ROLES, forbidden=(0, 1), longest=None, most=128)
    assert limited["max_length"] == 64 and "max_new_tokens" not in limited
    assert free["max_new_tokens"] == 128 and "max_length" not in free
    assert limited["suppress_tokens"] == [0, 1] and "mask_token_id" not in limited
