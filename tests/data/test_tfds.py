"""Datasets that TensorFlow Datasets prepared as array_record files are read without TensorFlow."""

import shutil
import sys

import numpy as np
import pytest

from lm_jax.core.config import InputError
from lm_jax.data import sources, store
from lm_jax.data.clean.chain import CleanConfig
from lm_jax.data.sources import SourceConfig
from lm_jax.data.tokenizers import TokenizerConfig

TEXTS = {
    "train": ["One sentence.", "第二句。", *(f"Number {number}." for number in range(1500))],
    "test": ["Held out."],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of datasets: `notes` in versions 1.9.0 and 1.10.0, and `two` with two configs."""
    import tensorflow_datasets as tfds

    class Notes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.10.0")

        def _info(self):
            features = {"text": tfds.features.Text(), "label": np.int64, "book": tfds.features.Text()}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(texts) for split, texts in TEXTS.items()}

        def _generate_examples(self, texts):
            for number, text in enumerate(texts):
                yield number, {"text": text, "label": number, "book": str(number // 2)}

    folder = tmp_path_factory.mktemp("datasets")
    Notes(data_dir=folder, file_format="array_record").download_and_prepare()
    shutil.copytree(folder / "notes" / "1.10.0", folder / "two" / "first" / "2.0.0")
    shutil.copytree(folder / "notes" / "1.10.0", folder / "two" / "second" / "2.0.0")
    (folder / "notes" / "1.9.0").mkdir()
    (folder / "notes" / "1.9.0" / "dataset_info.json").write_text("{}")
    return folder


def read(root, path="tfds:notes", **settings):
    return list(sources.documents(SourceConfig(path=path, datasets=str(root), **settings)))


def test_a_split_is_read_completely_in_the_order_on_disk(root, monkeypatch):
    train = [text.decode() for text in read(root)]

    assert sorted(train) == sorted(TEXTS["train"])
    assert read(root, split="test") == [b"Held out."]
    assert [text.decode() for text in read(root, split="train[:10%]")] == train[:150]
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    assert len(read("", "tfds:notes:1.10.0")) == len(train)
    assert not [name for name in sys.modules if name == "tensorflow"]


def test_configs_are_chosen_by_name_and_examples_grouped(root):
    # Examples of a book are not neighbours, because the builder shuffles.
    assert read(root, "tfds:two/first", split="test", group="book") == [b"Held out."]
    assert len(read(root, "tfds:two/second:2.0.0")) == len(TEXTS["train"])


def test_a_dataset_is_prepared_as_a_token_store(root, tmp_path):
    source = SourceConfig(path="tfds:notes", datasets=str(root))
    prepared = store.prepare(tmp_path, source, CleanConfig(), TokenizerConfig(kind="bytes"))

    assert prepared.documents == len(TEXTS["train"])
    assert sources.fingerprint(source) != sources.fingerprint(SourceConfig(**{**vars(source), "split": "test"}))


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        (
            "tfds:imdb_reviews",
            {},
            "tfds:imdb_reviews is not prepared in .*pip install tensorflow && tfds build imdb_revie",
        ),
        ("tfds:notes:7.0.0", {}, "has no version 7.0.0; it has 1.9.0, 1.10.0"),
        ("tfds:two", {}, "has the configs first, second: name one, as tfds:two/first"),
        ("tfds:notes", {"split": "validation"}, "config.data.split is 'validation'; .* has .*train"),
        ("tfds:notes", {"field": "body"}, "has no feature 'body'; it has .*'text'.*config.data.field"),
        ("tfds:notes", {"field": "label"}, "feature 'label' of example 0 is a int; expected text"),
        ("tfds:", {}, "is not prepared"),
    ],
)
def test_missing_datasets_are_reported_in_one_line_with_advice(root, path, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        read(root, path, **settings)

    assert "\n" not in str(caught.value)


def test_a_dataset_that_only_tensorflow_reads_is_refused_with_the_command(root, tmp_path):
    place = tmp_path / "old" / "1.0.0"
    shutil.copytree(root / "notes" / "1.10.0", place)
    info = place / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))

    with pytest.raises(
        InputError, match="is prepared as tfrecord, which only TensorFlow reads.*--file_format=array_record"
    ):
        read(tmp_path, "tfds:old")
