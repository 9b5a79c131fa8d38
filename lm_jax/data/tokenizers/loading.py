"""Tokenizers from disk: our own directories, and what others publish; nothing that is found there is executed.

Which tokens are special is read from tokenizer_config.json and special_tokens_map.json, added_tokens.json gives ids
beyond the vocabulary; where none says so, the names that the field gives them decide.
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
from lm_jax.data.tokenizers.extended import OPTION, extend

_KEY = "config.data.tokenizer.path"
# The name of our settings before other programs' tokenizer.json could lie beside them.
_EARLIER = ("tokenizer.json", "pieces")

BUILDERS: dict[str, Callable[[str, bytes, Mapping[str, Any]], Tokenizer]] = {
    "unigram": lambda kind, content, options: sentencepiece.own(kind, content, options["sentinels"]),
    "bpe": lambda kind, content, options: sentencepiece.own(kind, content, options["sentinels"]),
    "bytes": lambda kind, content, options: simple.bytes_tokenizer(options["sentinels"]),
    "characters": lambda kind, content, options: simple.characters_tokenizer(content, options["sentinels"]),
    simple.IDS: lambda kind, content, options: simple.ids_tokenizer(options),
    "wordpiece": huggingface.build_tokenizer,
    "byte_bpe": huggingface.build_tokenizer,
    "huggingface": huggingface.build_tokenizer,
    "sentencepiece": sentencepiece.foreign,
}

# What the field calls them, the likeliest first.
_NAMES = {
    "pad": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("[BOS]", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("[EOS]", "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
# Classes whose ids are not those of their sentencepiece model, or whose vocab files are not run as BERT's or GPT-2's.
_OTHERS = tuple(
    "XLMRoberta MBart Camembert Pegasus PLBart XGLM Nllb M2M100 Marian Barthez LayoutXLM CLIP CTRL OpenAIGPT "
    "BertJapanese Bertweet Phobert BlenderbotSmall FSMT XLMTokenizer Esm Flaubert Speech2Text".split()
)
_T5_SENTINELS = 100


def load(path: Path | str, *, sentinels: int = 0, lowercase: bool = True) -> Tokenizer:
    """A tokenizer that `save` wrote, or one from elsewhere.

    Args:
      path: a directory or a file; see `TokenizerConfig.path`.
      sentinels: added to one from elsewhere that has none.
      lowercase: of a vocab.txt whose tokenizer_config.json does not say.

    Raises:
      InputError: there is none, its files are damaged, or they are of a format that is not known.
    """
    path = Path(path).expanduser()
    found = next((names for names in ((SETTINGS, None), _EARLIER) if _is_ours(path / names[0])), None)
    if found:
        return _saved(path, found[0])
    form, file = _format(path)
    pointers.refuse(file)
    try:
        return form(file, sentinels, lowercase)
    except InputError as error:
        raise error if str(error).startswith(_KEY) else InputError(f"{_KEY}: {file}: {error}") from error
    except OSError as error:
        raise InputError(f"{_KEY}: {file} cannot be read ({error.strerror})") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{_KEY}: {file} or a file beside it is damaged ({type(error).__name__}: {error})") from error


def refuse_ids(path: Path | str) -> None:
    """Refuses to tokenise text where a path names no tokenizer but the ids of a model that came without one."""
    file = Path(path).expanduser() / SETTINGS
    if path and file.is_file() and _json(file).get("kind") == simple.IDS:
        raise InputError(simple.NO_TEXT)


def cased(path: Path | str) -> bool:
    """Whether a vocab.txt has pieces that lower case never is, and no file beside it says what to do with case."""
    form, file = _format(Path(path).expanduser())
    if form is not _vocab_txt or "do_lower_case" in read_config(file.parent):
        return False
    return any(re.search("[A-Z]", piece) and piece[:1] not in "[<" for piece in _text(file).split("\n"))


def is_saved(directory: Path | str) -> bool:
    """Whether `save` finished there."""
    return (Path(directory) / SETTINGS).exists()


def is_ours(directory: Path | str) -> bool:
    """Whether `save` wrote a directory, in this release or an earlier one."""
    return any(_is_ours(Path(directory) / name) for name in (SETTINGS, _EARLIER[0]))


def _is_ours(file: Path) -> bool:
    return file.is_file() and (
        file.name == SETTINGS or set(_json(file)) == {"fingerprint", "kind", "sentinels", "vocab_size"}
    )


def _saved(directory: Path, name: str) -> Tokenizer:
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
    # Before the library, whose complaint about a damaged model names no file.
    if fingerprint(settings["kind"], content, options) != settings["fingerprint"]:
        raise InputError(f"{_KEY}: {directory} is damaged; {file.name} does not match its fingerprint")
    base = {key: value for key, value in options.items() if key != OPTION}
    return extend(build_tokenizer(settings["kind"], content, base), options.get(OPTION, []))


def _format(path: Path) -> tuple[Callable[[Path, int, bool], Tokenizer], Path]:
    """How a path is read, and its main file."""
    if path.is_dir():
        models = sorted(path.glob("*.model"))
        forms = {"tokenizer.json": _tokenizer_json, "vocab.txt": _vocab_txt, "vocab.json": _vocab_json}
        for name, form in forms.items():
            if (path / name).is_file():
                return form, path / name
        if len(models) == 1:
            return _model, models[0]
        raise InputError(
            f"{_KEY}: {path} holds no tokenizer{' but several models: name one' if models else ''}; expected "
            "tokenizer.json, vocab.txt, vocab.json with merges.txt, one *.model, or what `lm-jax tokenizer --output` "
            "writes"
        )
    if not path.is_file():
        raise InputError(
            f"{_KEY}: {path} holds no tokenizer: there is no such file or directory; leave it empty to train one"
        )
    if path.suffix == ".model":
        return _model, path
    if path.name == "merges.txt":
        return _vocab_json, path.with_name("vocab.json")
    if path.suffix == ".txt":
        return _vocab_txt, path
    if path.suffix == ".json":
        return (_tokenizer_json if isinstance(_json(path).get("model"), dict) else _vocab_json), path
    raise InputError(f"{_KEY}: {path} is of no known format; expected .json, .txt or .model")


def _tokenizer_json(file: Path, sentinels: int, lowercase: bool) -> Tokenizer:
    tree = _json(file)
    if not isinstance(tree.get("model"), dict):
        raise InputError("it has no model; expected the tokenizer.json of Hugging Face's tokenizers library")
    content = file.read_bytes()
    vocabulary = huggingface.opened(content).get_vocab(with_added_tokens=True)
    listed = {entry["content"] for entry in tree.get("added_tokens") or () if entry["special"]}
    unk = tree["model"].get("unk_token")
    marked = {name: token for name, token in vocabulary.items() if name in listed or name == unk}
    roles, added = _roles(file.parent, vocabulary, marked)
    post = tree.get("post_processor") or {}
    for role in ("cls", "sep"):
        if role not in roles and isinstance(post.get(role), list):
            roles[role] = int(post[role][1])
    return huggingface.build_tokenizer(
        huggingface.kind_of(tree), content, _options(vocabulary, roles, added, sentinels)
    )


def _vocab_txt(file: Path, sentinels: int, lowercase: bool) -> Tokenizer:
    config = read_config(file.parent)
    # Not splitlines, which also cuts at U+2028 and other pieces of multilingual vocabularies.
    lines = [line.rstrip("\r") for line in _text(file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    vocabulary = {piece: index for index, piece in enumerate(lines)}
    roles, added = _roles(file.parent, vocabulary, vocabulary)
    if "unk" not in roles:
        raise InputError("it has no [UNK]; expected a WordPiece vocabulary with a piece a line, as BERT's")
    tree = huggingface.wordpiece(
        vocabulary,
        lowercase=config.get("do_lower_case", lowercase),
        strip_accents=config.get("strip_accents"),
        chinese=config.get("tokenize_chinese_chars", True),
        unk=lines[roles["unk"]],
    )
    names = {lines[token]: token for token in roles.values() if token < len(lines)}
    tree["added_tokens"] = huggingface.added(names)
    return huggingface.build_tokenizer(
        "wordpiece", huggingface.written(tree), _options(vocabulary, roles, added, sentinels)
    )


def _vocab_json(file: Path, sentinels: int, lowercase: bool) -> Tokenizer:
    merges = file.with_name("merges.txt")
    if not merges.is_file():
        raise InputError(f"merges.txt is missing; a byte-level BPE needs it beside {file.name}")
    vocabulary = _json(file)
    if not vocabulary or not all(type(token) is int and token >= 0 for token in vocabulary.values()):
        raise InputError("expected an object of pieces and their ids, as GPT-2's vocab.json")
    lines = [line for line in _text(merges).split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.rstrip("\r").split(" ")) for line in lines]
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            shown = " ".join(pair)[:40]
            raise InputError(
                f"merge {number} of merges.txt, {shown!r}, is not two pieces of {file.name} that make a third"
            )
    if sum(piece.endswith("</w>") for piece in vocabulary) > len(vocabulary) // 10:
        raise InputError("its pieces end in </w>, so it is no byte-level BPE; give its tokenizer.json")
    made = {"".join(pair) for pair in pairs}
    marked = {piece: token for piece, token in vocabulary.items() if len(piece) > 1 and piece not in made}
    roles, added = _roles(file.parent, vocabulary, marked)
    prefix_space = bool(read_config(file.parent).get("add_prefix_space", False))
    tree = huggingface.byte_bpe(vocabulary, pairs, prefix_space=prefix_space)
    pieces = {token: name for name, token in vocabulary.items()}
    tree["added_tokens"] = huggingface.added({pieces[token]: token for token in roles.values() if token in pieces})
    return huggingface.build_tokenizer(
        "byte_bpe", huggingface.written(tree), _options(vocabulary, roles, added, sentinels)
    )


def _model(file: Path, sentinels: int, lowercase: bool) -> Tokenizer:
    config = read_config(file.parent)
    if file.name == "sentencepiece.bpe.model":
        raise InputError("the ids of this family are not those of its model; give its tokenizer.json")
    content = file.read_bytes()
    proto = sentencepiece.parsed(content)
    trainer = proto.trainer_spec
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    roles = {role: getattr(trainer, f"{role}_id") for role in ("unk", "bos", "eos", "pad")}
    roles = {role: token for role, token in roles.items() if 0 <= token < len(proto.pieces)}
    named, added = _roles(file.parent, vocabulary, vocabulary)
    roles = {**roles, **named}
    listed = [_name(entry) for entry in config.get("additional_special_tokens") or ()]
    count = sum(SENTINEL.fullmatch(name) is not None for name in listed)
    if not count and config.get("tokenizer_class", "").startswith("T5"):
        count = config.get("extra_ids", _T5_SENTINELS)
    return sentencepiece.foreign("sentencepiece", content, _options(vocabulary, roles, added, count or sentinels))


def _roles(
    directory: Path, vocabulary: Mapping[str, int], marked: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Ids by role, and the ids of tokens beyond the vocabulary.

    Args:
      directory: where the files that name them lie.
      vocabulary: ids by piece.
      marked: those of them that may be special though no file names them.
    """
    config = read_config(directory)
    added = _json(directory / "added_tokens.json") if (directory / "added_tokens.json").is_file() else {}
    added |= {_name(entry): int(token) for token, entry in (config.get("added_tokens_decoder") or {}).items()}
    added = {name: token for name, token in added.items() if name not in vocabulary}
    known = {**vocabulary, **added}
    roles = {}
    for role in ROLES:
        if (given := config.get(f"{role}_token")) is not None:
            name = _name(given)
            if name in known:
                roles[role] = known[name]
            elif role != "pad":
                raise InputError(
                    f"the files beside it name {name!r} as {role}_token, which its vocabulary does not have"
                )
        elif f"{role}_token" not in config:
            found = next((name for name in _NAMES[role] if name in marked or name in added), None)
            roles |= {} if found is None else {role: known[found]}
    # GPT-2's files call <|endoftext|> unknown, which bytes never are.
    if roles.get("unk") in {token for role, token in roles.items() if role != "unk"}:
        del roles["unk"]
    return roles, added


def _options(
    vocabulary: Mapping[str, int], roles: Mapping[str, int], added: Mapping[str, int], sentinels: int
) -> dict[str, Any]:
    """What a tokenizer is beside its content; new sentinels lie behind it, the first one last."""
    known = {**vocabulary, **added}
    found = {int(match[1]): token for name, token in known.items() if (match := SENTINEL.fullmatch(name))}
    added = dict(added)
    if not found and sentinels:
        size = 1 + max(known.values())
        added |= {f"<extra_id_{index}>": size + sentinels - 1 - index for index in range(sentinels)}
        found = {index: added[f"<extra_id_{index}>"] for index in range(sentinels)}
    if sorted(found) != [*range(len(found))]:
        raise InputError(f"its sentinels are not numbered from <extra_id_0> without gaps: {sorted(found)[:8]}")
    return {"roles": dict(roles), "sentinels": [found[index] for index in range(len(found))], "added": added}


def read_config(directory: Path) -> dict[str, Any]:
    """special_tokens_map.json and tokenizer_config.json, which wins."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            merged |= _json(directory / name)
    kind = merged.get("tokenizer_class") or ""
    if kind.startswith(_OTHERS) and not (directory / "tokenizer.json").is_file():
        raise InputError(f"a {kind} is not run by these files alone; give its tokenizer.json")
    return merged


def _name(entry: Any) -> str:
    """A token in these files is its text, or an object with it."""
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
        raise InputError(f"{_KEY}: {file} is damaged: expected a JSON object, found {type(tree).__name__}")
    return tree
