"""Datasets prepared by TensorFlow Datasets as array_record files, read without TensorFlow.

`tfds:NAME[/CONFIG][:VERSION]` names a folder NAME[/CONFIG]/VERSION with a dataset_info.json. Nothing is downloaded or
built here, because most builders need TensorFlow: the error for a missing dataset gives the command that prepares it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError, nearest
from lm_jax.data.records import Record, Selection, checked

PREFIX = "tfds:"
_INFO = "dataset_info.json"
# Examples per read: reading them one by one takes several times as long.
_BLOCK = 1024


def folder(name: str, datasets: str = "") -> Path:
    """Return the folder of one version of a dataset.

    Args:
      name: NAME[/CONFIG][:VERSION]; CONFIG defaults to the only one, VERSION to the newest.
      datasets: the folder of all datasets; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      InputError: the dataset or version is not prepared, or the name gives none of several configs.
    """
    name, _, version = name.removeprefix(PREFIX).partition(":")
    root = Path(datasets or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    directory = root / name
    dataset = f"{name}:{version}" if version else name
    if not name or not directory.is_dir():
        raise InputError(
            f"config.data.path: {PREFIX}{dataset} is not prepared in {root} (config.data.datasets or $TFDS_DATA_DIR); "
            f"prepare it where TensorFlow is installed: {_command(dataset, root)}"
        )
    versions = _versions(directory)
    if not versions:
        configs = sorted(path.name for path in directory.iterdir() if path.is_dir() and _versions(path))
        if len(configs) != 1:
            problem = f"no prepared version; prepare it where TensorFlow is installed: {_command(dataset, root)}"
            if configs:
                problem = f"the configs {', '.join(configs)}: name one, as {PREFIX}{name}/{configs[0]}"
            raise InputError(f"config.data.path: {directory} has {problem}")
        versions = _versions(directory / configs[0])
    if version and version not in versions:
        raise InputError(
            f"config.data.path: {directory} has no version {version}; it has {', '.join(versions)}"
            f"{nearest(version, versions)}"
        )
    return versions[version] if version else list(versions.values())[-1]


def files(name: str, split: str, datasets: str = "") -> list[Path]:
    """Return the files that determine the content of a split: the description of the dataset and the shards."""
    directory = folder(name, datasets)
    builder = _builder(directory, split)
    shards = [Path(path) for path in builder.info.splits[split].filepaths]
    missing = next((path for path in shards if not path.exists()), None)
    if missing is not None:
        raise InputError(f"config.data.path: {missing} is missing; prepare {name} again")
    return [path for path in (directory / _INFO, directory / "features.json") if path.exists()] + shards


def records(name: str, split: str, datasets: str = "") -> Iterator[dict[str, Any]]:
    """Yield the examples of a split, in the order on disk."""
    source = _builder(folder(name, datasets), split).as_data_source(split=split)
    for start in range(0, len(source), _BLOCK):
        yield from source.__getitems__([*range(start, min(start + _BLOCK, len(source)))])


def texts(selection: Selection, split: str, datasets: str = "") -> Iterator[Record]:
    """Yield each example's text and the value of its grouping feature, if any; `selection.path` names the dataset.

    Raises:
      InputError: a feature is missing or is not text.
    """
    name = str(selection.path)
    for number, example in enumerate(records(name, split, datasets)):
        for feature, key in ((selection.field, "field"), (selection.group, "group")):
            if feature not in example and (feature or key == "field"):
                # Raised even if bad rows are skipped: all examples have the same features.
                raise InputError(
                    f"{name} has no feature {feature!r}; it has {', '.join(map(repr, example))}: set config.data.{key}"
                )
        place = f"example {number}"
        yield from checked(example, f"{name}: feature {selection.field!r} of {place}", place, 0, selection)


def _builder(directory: Path, split: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(f"config.data.path: {PREFIX} needs tensorflow-datasets ({error}); pip install it") from error
    builder: Any = tfds.builder_from_directory(str(directory))
    kind = builder.info.file_format
    if kind is None or kind.value != "array_record":
        raise InputError(
            f"config.data.path: {directory} is prepared as {kind.value if kind else 'unknown'}, which only TensorFlow "
            "reads; prepare it again where TensorFlow is installed: "
            f"{_command(builder.info.name, directory.parent)} --overwrite"
        )
    try:
        builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"config.data.split is {split!r}; {directory} has {', '.join(builder.info.splits)}"
            f"{nearest(split, builder.info.splits)}"
        ) from error
    return builder


def _versions(directory: Path) -> dict[str, Path]:
    """Return the prepared versions in a folder, oldest first."""
    paths = [path for path in directory.iterdir() if (path / _INFO).exists() and path.name.replace(".", "").isdigit()]
    return {path.name: path for path in sorted(paths, key=lambda path: [int(part) for part in path.name.split(".")])}


def _command(name: str, root: Path) -> str:
    return f"pip install tensorflow && tfds build {name} --file_format=array_record --data_dir={root}"
