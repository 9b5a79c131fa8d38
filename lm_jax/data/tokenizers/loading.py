"""Loads tokenizers from disk, saved here or published, without executing code from disk.

tokenizer_config.json and special_tokens_map.json define the special tokens, and added_tokens.json the ids beyond the
vocabulary; without these files, special tokens are recognised by their usual names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lm_jax.core import pointers
from lm_jax.core.config import InputError, lookup
from lm_jax.data.tokenizers import huggingface, sentencepiece, simple
from lm_jax.data.tokenizers.base import ROLES, SENTINEL, SETTINGS, Tokenizer, fingerprint
from lm_jax.data.tokenizers.extended import MARKERS, OPTION, extend

_KEY = "config.data.tokenizer.path"
# Files of settings and of pieces in the first version; tokenizer.json is now a file in Hugging Face's format.
_EARLIER = ("tokenizer.json", "pieces")

BUILDERS: dict[str, Callable[[str, bytes, Mapping[str, Any]], Tokenizer]] = {
    "unigram": lambda kind, content, options: sentencepiece.build_trained(kind, content, options["sentinels"]),
    "bpe": lambda kind, content, options: sentencepiece.build_trained(kind, content, options["sentinels"]),
    "bytes": lambda kind, content, options: simple.bytes_tokenizer(options["sentinels"]),
    "characters": lambda kind, content, options: simple.characters_tokenizer(content, options["sentinels"]),
    simple.IDS: lambda kind, content, options: simple.ids_tokenizer(options),
    "wordpiece": huggingface.build_tokenizer,
    "byte_bpe": huggingface.build_tokenizer,
    "huggingface": huggingface.build_tokenizer,
    "sentencepiece": sentencepiece.build_published,
}

# Usual names of special tokens, the likeliest first.
_NAMES = {
    "pad": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("[BOS]", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("[EOS]", "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
# Classes whose ids differ from their sentencepiece model's, or whose vocab files are not read like BERT's or GPT-2's.
_UNSUPPORTED = tuple(
    "XLMRoberta MBart Camembert Pegasus PLBart XGLM Nllb M2M100 Marian Barthez LayoutXLM CLIP CTRL OpenAIGPT "
    "BertJapanese Bertweet Phobert BlenderbotSmall FSMT XLMTokenizer Esm Flaubert Speech2Text".split()
)
_T5_SENTINELS = 100


def load(path: Path | str, *, sentinels: int = 0, lowercase: bool = True) -> Tokenizer:
    """Load a tokenizer that `save` wrote, or a published one.

    Args:
      path: a directory or a file; see `TokenizerConfig.path`.
      sentinels: number of sentinels to add to a published tokenizer without any.
      lowercase: whether to lower-case text for a vocab.txt whose tokenizer_config.json has no `do_lower_case`.

    Raises:
      InputError: there is no tokenizer, its files are damaged, or their format is unknown.

    Example:
      >>> import tempfile
      >>> from lm_jax.data.tokenizers import TokenizerConfig, train
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     train(TokenizerConfig(kind="characters"), ["hello"]).save(directory)
      ...     load(directory).encode("hole").tolist()
      [9, 11, 10, 8]
    """
    path = Path(path).expanduser()
    settings = next((name for name in (SETTINGS, _EARLIER[0]) if _is_ours(path / name)), None)
    if settings:
        return _load_saved(path, settings)
    reader, file = _format(path)
    pointers.refuse(file)
    try:
        return reader(file, sentinels, lowercase)
    except InputError as error:
        raise error if str(error).startswith(_KEY) else InputError(f"{_KEY}: {file}: {error}") from error
    except OSError as error:
        raise InputError(f"{_KEY}: {file} cannot be read ({error.strerror})") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{_KEY}: {file} or a file beside it is damaged ({type(error).__name__}: {error})") from error


def refuse_ids(path: Path | str) -> None:
    """Raise InputError if the path is the placeholder of a checkpoint without a tokenizer, which cannot encode text."""
    file = Path(path).expanduser() / SETTINGS
    if path and file.is_file() and _json(file).get("kind") == simple.IDS:
        raise InputError(simple.NEEDS_IDS)


def cased(path: Path | str) -> bool:
    """Return whether a path is a vocab.txt that has upper-case pieces and no `do_lower_case` in a file beside it."""
    reader, file = _format(Path(path).expanduser())
    if reader is not _vocab_txt or "do_lower_case" in read_config(file.parent):
        return False
    return any(re.search("[A-Z]", piece) and piece[:1] not in "[<" for piece in _text(file).split("\n"))


def is_saved(directory: Path | str) -> bool:
    """Return whether a directory holds a tokenizer that `save` wrote completely."""
    return (Path(directory) / SETTINGS).exists()


def is_ours(directory: Path | str) -> bool:
    """Return whether a directory holds a tokenizer that `save` wrote, in this version or the first."""
    return any(_is_ours(Path(directory) / name) for name in (SETTINGS, _EARLIER[0]))


def _is_ours(file: Path) -> bool:
    keys = {"fingerprint", "kind", "sentinels", "vocab_size"}
    return file.is_file() and (file.name == SETTINGS or set(_json(file)) == keys)


def _load_saved(directory: Path, name: str) -> Tokenizer:
    settings = _json(directory / name)
    build_tokenizer = lookup(BUILDERS, settings.get("kind", ""), f"kind in {directory / name}")
    options = settings["options"] if name == SETTINGS else {"sentinels": settings["sentinels"]}
    file = directory / (settings["file"] if name == SETTINGS else _EARLIER[1])
    content = b""
    if settings["kind"] not in ("bytes", simple.IDS):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{_KEY}: {directory} is incomplete; {file.name} cannot be read") from error
    # Checked before the library reads the file, because the library's error does not name a damaged file.
    if fingerprint(settings["kind"], content, options) != settings["fingerprint"]:
        raise InputError(f"{_KEY}: {directory} is damaged; {file.name} does not match its fingerprint")
    base = {key: value for key, value in options.items() if key not in (OPTION, MARKERS)}
    return extend(
        build_tokenizer(settings["kind"], content, base), *(options.get(key, []) for key in (OPTION, MARKERS))
    )


def _format(path: Path) -> tuple[Callable[[Path, int, bool], Tokenizer], Path]:
    """Return the function that reads a path, and the main file."""
    if path.is_dir():
        models = sorted(path.glob("*.model"))
        readers = {"tokenizer.json": _tokenizer_json, "vocab.txt": _vocab_txt, "vocab.json": _vocab_json}
        for name, reader in readers.items():
            if (path / name).is_file():
                return reader, path / name
        if len(models) == 1:
            return _model, models[0]
        raise InputError(
            f"{_KEY}: {path} holds no tokenizer{' but several models: name one' if models else ''}; expected "
            "tokenizer.json, vocab.txt, vocab.json with merges.txt, one *.model, or the output of `lm-jax tokenizer "
            "--output`"
        )
    if not path.is_file():
        raise InputError(f"{_KEY}: {path}: no such file or directory; leave it empty to train a tokenizer")
    if path.suffix == ".model":
        return _model, path
    if path.name == "merges.txt":
        return _vocab_json, path.with_name("vocab.json")
    if path.suffix == ".txt":
        return _vocab_txt, path
    if path.suffix == ".json":
        return (_tokenizer_json if isinstance(_json(path).get("model"), dict) else _vocab_json), path
    raise InputError(f"{_KEY}: {path} has an unknown format; expected .json, .txt or .model")


def _tokenizer_json(file: Path, sentinels: int, lowercase: bool) -> Tokenizer:
    tree = _json(file)
    if not isinstance(tree.get("model"), dict):
        raise InputError("it has no model; expected a tokenizer.json of Hugging Face's tokenizers library")
    content = file.read_bytes()
    vocabulary = huggingface.library_tokenizer(content).get_vocab(with_added_tokens=True)
    listed = {entry["content"] for entry in tree.get("added_tokens") or () if entry["special"]}
    unk = tree["model"].get("unk_token")
    marked = {name: token for name, token in vocabulary.items() if name in listed or name == unk}
    roles, added = _roles(file.parent, vocabulary, marked)
    post = tree.get("post_processor") or {}
    for role in ("cls", "sep"):
        if role not in roles and isinstance(post.get(role), list):
            roles[role] = int(post[role][1])
    options = _options(vocabulary, roles, added, sentinels)
    return huggingface.build_tokenizer(huggingface.kind_of(tree), content, options)


def _vocab_txt(file: Path, sentinels: int, lowercase: bool) -> Tokenizer:
    config = read_config(file.parent)
    # Not splitlines, which also splits at U+2028 and other pieces of multilingual vocabularies.
    lines = [line.rstrip("\r") for line in _text(file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    vocabulary = {piece: index for index, piece in enumerate(lines)}
    roles, added = _roles(file.parent, vocabulary, vocabulary)
    if "unk" not in roles:
        raise InputError("it has no [UNK]; expected a WordPiece vocabulary with one piece per line, as BERT's")
    tree = huggingface.wordpiece(
        vocabulary,
        lowercase=config.get("do_lower_case", lowercase),
        strip_accents=config.get("strip_accents"),
        chinese=config.get("tokenize_chinese_chars", True),
        unk=lines[roles["unk"]],
    )
    names = {lines[token]: token for token in roles.values() if token < len(lines)}
    tree["added_tokens"] = huggingface.added_tokens(names)
    options = _options(vocabulary, roles, added, sentinels)
    return huggingface.build_tokenizer("wordpiece", huggingface.serialise(tree), options)


def _vocab_json(file: Path, sentinels: int, lowercase: bool) -> Tokenizer:
    merges = file.with_name("merges.txt")
    if not merges.is_file():
        raise InputError(f"merges.txt is missing; a byte-level BPE needs it beside {file.name}")
    vocabulary = _json(file)
    if not vocabulary or not all(type(token) is int and token >= 0 for token in vocabulary.values()):
        raise InputError("expected an object that maps pieces to ids, as GPT-2's vocab.json")
    lines = [line for line in _text(merges).split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines]
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            merge = " ".join(pair)[:40]
            raise InputError(
                f"merge {number} of merges.txt, {merge!r}, is not two pieces of {file.name} that join to a third"
            )
    if sum(piece.endswith("</w>") for piece in vocabulary) > len(vocabulary) // 10:
        raise InputError("its pieces end in </w>, so it is not a byte-level BPE; give its tokenizer.json")
    merged = {"".join(pair) for pair in pairs}
    marked = {piece: token for piece, token in vocabulary.items() if len(piece) > 1 and piece not in merged}
    roles, added = _roles(file.parent, vocabulary, marked)
    prefix_space = bool(read_config(file.parent).get("add_prefix_space", False))
    tree = huggingface.byte_bpe(vocabulary, pairs, prefix_space=prefix_space)
    pieces = {token: name for name, token in vocabulary.items()}
    names = {pieces[token]: token for token in roles.values() if token in pieces}
    tree["added_tokens"] = huggingface.added_tokens(names)
    options = _options(vocabulary, roles, added, sentinels)
    return huggingface.build_tokenizer("byte_bpe", huggingface.serialise(tree), options)


def _model(file: Path, sentinels: int, lowercase: bool) -> Tokenizer:
    config = read_config(file.parent)
    if file.name == "sentencepiece.bpe.model":
        raise InputError("models with a sentencepiece.bpe.model renumber its pieces; give the model's tokenizer.json")
    content = file.read_bytes()
    proto = sentencepiece.parse(content)
    trainer = proto.trainer_spec
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    roles = {role: getattr(trainer, f"{role}_id") for role in ("unk", "bos", "eos", "pad")}
    roles = {role: token for role, token in roles.items() if 0 <= token < len(proto.pieces)}
    configured, added = _roles(file.parent, vocabulary, vocabulary)
    roles = {**roles, **configured}
    listed = [_name(entry) for entry in config.get("additional_special_tokens") or ()]
    count = sum(SENTINEL.fullmatch(name) is not None for name in listed)
    if not count and config.get("tokenizer_class", "").startswith("T5"):
        count = config.get("extra_ids", _T5_SENTINELS)
    options = _options(vocabulary, roles, added, count or sentinels)
    return sentencepiece.build_published("sentencepiece", content, options)


def _roles(
    directory: Path, vocabulary: Mapping[str, int], marked: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return ids by role, and ids by name of tokens beyond the vocabulary.

    `directory` holds the files that name special tokens. A role that they omit goes to its usual name, if that is in
    `marked` or beyond the vocabulary.
    """
    config = read_config(directory)
    added = _json(directory / "added_tokens.json") if (directory / "added_tokens.json").is_file() else {}
    added |= {_name(entry): int(token) for token, entry in (config.get("added_tokens_decoder") or {}).items()}
    added = {name: token for name, token in added.items() if name not in vocabulary}
    ids = {**vocabulary, **added}
    roles = {}
    for role in ROLES:
        if (entry := config.get(f"{role}_token")) is not None:
            name = _name(entry)
            if name in ids:
                roles[role] = ids[name]
            elif role != "pad":
                raise InputError(f"the files beside it name {name!r} as {role}_token, which is not in its vocabulary")
        elif f"{role}_token" not in config:
            usual = next((name for name in _NAMES[role] if name in marked or name in added), None)
            roles |= {} if usual is None else {role: ids[usual]}
    # GPT-2's files name <|endoftext|> as the unknown token, but bytes are never unknown.
    if roles.get("unk") in {token for role, token in roles.items() if role != "unk"}:
        del roles["unk"]
    return roles, added


def _options(
    vocabulary: Mapping[str, int], roles: Mapping[str, int], added: Mapping[str, int], sentinels: int
) -> dict[str, Any]:
    """Return a tokenizer's options; if it has no sentinels, new ones follow all other ids in reverse order."""
    ids = {**vocabulary, **added}
    numbered = {int(match[1]): token for name, token in ids.items() if (match := SENTINEL.fullmatch(name))}
    added = dict(added)
    if not numbered and sentinels:
        size = 1 + max(ids.values())
        added |= {f"<extra_id_{index}>": size + sentinels - 1 - index for index in range(sentinels)}
        numbered = {index: added[f"<extra_id_{index}>"] for index in range(sentinels)}
    if sorted(numbered) != [*range(len(numbered))]:
        raise InputError(f"its sentinels are not numbered from <extra_id_0> without gaps: {sorted(numbered)[:8]}")
    return {"roles": dict(roles), "sentinels": [numbered[index] for index in range(len(numbered))], "added": added}


def read_config(directory: Path) -> dict[str, Any]:
    """Return the entries of special_tokens_map.json and tokenizer_config.json, which takes precedence."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            merged |= _json(directory / name)
    kind = merged.get("tokenizer_class") or ""
    if kind.startswith(_UNSUPPORTED) and not (directory / "tokenizer.json").is_file():
        raise InputError(f"{kind} cannot be loaded from these files alone; give its tokenizer.json")
    return merged


def _name(entry: Any) -> str:
    return entry["content"] if isinstance(entry, dict) else str(entry)


def _text(file: Path) -> str:
    pointers.refuse(file)
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{_KEY}: {file} is not UTF-8 (byte {error.start})") from error


def _json(file: Path) -> dict[str, Any]:
    pointers.refuse(file)
    try:
        tree = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{_KEY}: {file} is damaged: it is not JSON ({error})") from error
    if not isinstance(tree, dict):
        raise InputError(f"{_KEY}: {file} is damaged: expected a JSON object, got {type(tree).__name__}")
    return tree
