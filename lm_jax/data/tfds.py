"""Datasets that TensorFlow Datasets has prepared as array_record files: they are read without TensorFlow.

`tfds:NAME[/CONFIG][:VERSION]` is a folder NAME[/CONFIG]/VERSION with a dataset_info.json. Nothing is downloaded or
built here, because most builders need TensorFlow: the message says which command prepares what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_jax.core.config import InputError, nearest
from lm_jax.data.records import Record, Wanted, checked

PREFIX = "tfds:"
_MARK = "dataset_info.json"
# Records read at a time: one by one takes several times as long.
_BLOCK = 1024


def folder(name: str, datasets: str = "") -> Path:
    """The folder of one version of a dataset.

    Args:
      name: NAME[/CONFIG][:VERSION]; without a version the newest one, without a config the only one.
      datasets: the root; empty for $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      InputError: it is not prepared, or it has several configs.
    """
    name, _, version = name.removeprefix(PREFIX).partition(":")
    top = Path(datasets or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    place = top / name
    wanted = f"{name}:{version}" if version else name
    if not name or not place.is_dir():
        raise InputError(
            f"config.data.path: {PREFIX}{wanted} is not prepared in {top} (config.data.datasets or $TFDS_DATA_DIR); "
            f"prepare it where TensorFlow is: {_command(wanted, top)}"
        )
    versions = _versions(place)
    if not versions:
        configs = sorted(path.name for path in place.iterdir() if path.is_dir() and _versions(path))
        if len(configs) != 1:
            found = f"no prepared version; prepare it where TensorFlow is: {_command(wanted, top)}"
            if configs:
                found = f"the configs {', '.join(configs)}: name one, as {PREFIX}{name}/{configs[0]}"
            raise InputError(f"config.data.path: {place} has {found}")
        versions = _versions(place / configs[0])
    if version and version not in versions:
        raise InputError(
            f"config.data.path: {place} has no version {version}; it has {', '.join(versions)}"
            f"{nearest(version, versions)}"
        )
    return versions[version] if version else list(versions.values())[-1]


def files(name: str, split: str, datasets: str = "") -> list[Path]:
    """Every file of a dataset that decides what a split holds: its description and its shards."""
    place = folder(name, datasets)
    builder = _builder(place, split)
    shards = [Path(path) for path in builder.info.splits[split].filepaths]
    missing = next((path for path in shards if not path.exists()), None)
    if missing is not None:
        raise InputError(f"config.data.path: {missing} is missing; prepare {name} again")
    return [path for path in (place / _MARK, place / "features.json") if path.exists()] + shards


def records(name: str, split: str, datasets: str = "") -> Iterator[dict[str, Any]]:
    """The examples of a split, in the order they were written."""
    source = _builder(folder(name, datasets), split).as_data_source(split=split)
    for start in range(0, len(source), _BLOCK):
        yield from source.__getitems__([*range(start, min(start + _BLOCK, len(source)))])


def texts(wanted: Wanted, split: str, datasets: str = "") -> Iterator[Record]:
    """The text of every example and the value of its group, where one is named; `wanted.path` names the dataset.

    Raises:
      InputError: a feature that is not there or not text.
    """
    name = str(wanted.path)
    for number, example in enumerate(records(name, split, datasets)):
        for feature, key in ((wanted.field, "field"), (wanted.group, "group")):
            if feature not in example and (feature or key == "field"):
                # All examples have the same features: this is no bad row.
                raise InputError(
                    f"{name} has no feature {feature!r}; it has {', '.join(map(repr, example))}: set config.data.{key}"
                )
        yield from checked(example, f"{name}: feature {wanted.field!r} of example {number}", 0, wanted)


def _builder(place: Path, split: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(f"config.data.path: {PREFIX} needs tensorflow-datasets ({error}); pip install it") from error
    builder: Any = tfds.builder_from_directory(str(place))
    kind = builder.info.file_format
    if kind is None or kind.value != "array_record":
        raise InputError(
            f"config.data.path: {place} is prepared as {kind.value if kind else 'unknown'}, which takes TensorFlow to "
            f"read; prepare it anew where TensorFlow is: {_command(builder.info.name, place.parent)} --overwrite"
        )
    try:
        builder.info.splits[split]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"config.data.split is {split!r}; {place} has {', '.join(builder.info.splits)}"
            f"{nearest(split, builder.info.splits)}"
        ) from error
    return builder


def _versions(place: Path) -> dict[str, Path]:
    """The prepared versions in a folder, oldest first."""
    found = [path for path in place.iterdir() if (path / _MARK).exists() and path.name.replace(".", "").isdigit()]
    return {path.name: path for path in sorted(found, key=lambda path: [int(part) for part in path.name.split(".")])}


def _command(name: str, place: Path) -> str:
    return f"pip install tensorflow && tfds build {name} --file_format=array_record --data_dir={place}"
