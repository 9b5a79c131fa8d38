"""Imported checkpoints write the same text as the reference's `generate` and `decode`."""

import json

import pytest

from lm_jax.data import tokenizers as ours
from tests.commands import GOLDEN, lm_jax

pytestmark = pytest.mark.parity_live

PROMPTS = ("The river", " The river", "", "河水", "a 😀 b", "Every morning the baker ")
MAX_TOKENS = 24


def _corpus():
    return [*(GOLDEN / "text.txt").read_text().split("\n"), "河水流过城市。天亮了。", "a 😀 b 🙂"]


def _bpe(*, metaspace, template, special):
    """A BPE tokenizer: byte-level, or of characters with ▁ for spaces and byte fallback."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(
        models.BPE(byte_fallback=metaspace, fuse_unk=metaspace, unk_token=special[0] if metaspace else None)
    )
    alphabet = []
    if metaspace:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    if template:
        names = [name for name in template.split() if name != "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names]
        )
    return tokenizer


def _unigram(*, template, special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    unk = next(name for name in special if "unk" in name)
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token=unk, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    names = [name for name in template.split() if name != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names]
    )
    return tokenizer


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PAIR = {
    "d_model": 32,
    **{
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
    },
    "max_position_embeddings": 128,
}


def _case(family):
    """A model of the reference with random weights, its tokenizer, and the roles of its special tokens."""
    import transformers as hf

    if family == "llama":
        tokenizer = _bpe(metaspace=True, template="<s> $A", special=["<unk>", "<s>", "</s>", "<|eot|>"])
        roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        config = hf.LlamaConfig(vocab_size=tokenizer.get_vocab_size(), **SMALL, bos_token_id=1, eos_token_id=[2, 3])
        return hf.LlamaForCausalLM(config), tokenizer, roles
    if family == "gpt2":
        tokenizer = _bpe(metaspace=False, template="", special=["<|endoftext|>"])
        roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
        config = hf.GPT2Config(
            vocab_size=tokenizer.get_vocab_size(), n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
        )
        return hf.GPT2LMHeadModel(config), tokenizer, roles
    if family == "gemma":
        tokenizer = _bpe(metaspace=True, template="<bos> $A", special=["<pad>", "<eos>", "<bos>", "<unk>"])
        roles = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
        config = hf.GemmaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            **SMALL,
            num_key_value_heads=2,
            head_dim=8,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
        return hf.GemmaForCausalLM(config), tokenizer, roles
    if family == "t5":
        names = [f"<extra_id_{index}>" for index in range(8)]
        tokenizer = _unigram(template="$A </s>", special=["<pad>", "</s>", "<unk>", *names])
        roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "additional_special_tokens": names}
        config = hf.T5Config(
            vocab_size=tokenizer.get_vocab_size(),
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
        return hf.T5ForConditionalGeneration(config), tokenizer, roles
    if family == "bart":
        tokenizer = _bpe(metaspace=False, template="<s> $A </s>", special=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        roles = {
            "bos_token": "<s>",
            "cls_token": "<s>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        }
        config = hf.BartConfig(
            vocab_size=tokenizer.get_vocab_size(),
            **PAIR,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_bos_token_id=0,
            forced_eos_token_id=2,
        )
        return hf.BartForConditionalGeneration(config), tokenizer, roles
    special = ["</s>", "<unk>", "<pad>"] if family == "marian" else ["<pad>", "</s>", "<unk>"]
    tokenizer = _unigram(template="$A </s>", special=special)
    pad = tokenizer.token_to_id("<pad>")
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = dict(
        vocab_size=tokenizer.get_vocab_size(),
        **PAIR,
        pad_token_id=pad,
        eos_token_id=tokenizer.token_to_id("</s>"),
        decoder_start_token_id=pad,
        forced_eos_token_id=tokenizer.token_to_id("</s>"),
    )
    if family == "marian":
        model = hf.MarianMTModel(hf.MarianConfig(**settings, decoder_vocab_size=tokenizer.get_vocab_size()))
        model.generation_config.bad_words_ids = [[pad]]
        return model, tokenizer, roles
    return hf.PegasusForConditionalGeneration(hf.PegasusConfig(**settings)), tokenizer, roles


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma", "t5", "bart", "marian", "pegasus"])
def checkpoint(request, tmp_path_factory):
    import torch
    import transformers as hf

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    model, tokenizer, roles = _case(request.param)
    with torch.no_grad():
        # Weights so large that greedy decoding has no ties and writes more than one word.
        for weight in model.parameters():
            # Tables of sinusoids keep their values.
            if weight.ndim > 1 and weight.requires_grad:
                weight.normal_(0, weight.shape[-1] ** -0.5).mul_(1.5)
    model.eval()
    wrapped = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    model.save_pretrained(folder / "checkpoint")
    wrapped.save_pretrained(folder / "checkpoint")
    assert lm_jax("import", folder / "checkpoint", f"--workdir={folder / 'run'}") == 0
    return folder / "run", model, hf.AutoTokenizer.from_pretrained(folder / "checkpoint")


def _reference(model, tokenizer, prompt):
    """The text that the reference writes; for decoders, without the prompt."""
    import torch

    ids = tokenizer(prompt, return_tensors="pt").input_ids.long()
    if not ids.shape[1]:
        ids = torch.tensor([[model.generation_config.bos_token_id]])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        num_beams=1,
        pad_token_id=model.generation_config.pad_token_id or 0,
    )[0]
    text = tokenizer.decode(output, skip_special_tokens=True)
    if model.config.is_encoder_decoder:
        return text
    return text.removeprefix(tokenizer.decode(ids[0], skip_special_tokens=True))


def test_text_equals_the_references(checkpoint, tmp_path, capsys):
    run, model, tokenizer = checkpoint
    expected = [_reference(model, tokenizer, prompt) for prompt in PROMPTS]
    command = ("generate", f"--workdir={run}", f"--max_tokens={MAX_TOKENS}", "--temperature=0")
    capsys.readouterr()
    assert lm_jax(*command, "--json", *(f"--prompt={prompt}" for prompt in PROMPTS)) == 0
    batch = [answer["text"] for answer in json.loads(capsys.readouterr().out)["answers"]]
    assert batch == expected
    assert len(set(expected)) > 1
    for prompt, text in zip(PROMPTS[:2], expected, strict=False):
        assert lm_jax(*command, f"--prompt={prompt}", f"--output={tmp_path / 'one.jsonl'}") == 0
        assert json.loads((tmp_path / "one.jsonl").read_text())["text"] == text
        assert text.strip() in capsys.readouterr().out


def test_ids_equal_the_references(checkpoint):
    run, _, tokenizer = checkpoint
    loaded = ours.load(run / "tokenizer")
    conventions = json.loads((run / "config.json").read_text())["conventions"]
    for prompt in PROMPTS:
        ids = [*conventions["prefix"], *loaded.encode(prompt).tolist(), *conventions["suffix"]]
        assert ids == tokenizer(prompt).input_ids, prompt
