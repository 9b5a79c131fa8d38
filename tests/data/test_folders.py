"""Which files of a directory are read, also through links."""

import os

import pytest

from lm_jax.core.config import InputError
from lm_jax.data import folders, sources
from lm_jax.data.sources import SourceConfig


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def below(root):
    texts, others = folders.below(root)
    return [str(path.relative_to(root)) for path in texts], others


def test_a_link_to_a_folder_is_followed(tmp_path):
    write(tmp_path, "corpus/a.txt", "elsewhere/b.txt", "elsewhere/deep/c.txt", "elsewhere/.hidden/d.txt")
    os.symlink("../elsewhere", tmp_path / "corpus" / "link")

    assert below(tmp_path / "corpus") == (["a.txt", "link/b.txt", "link/deep/c.txt"], 0)
    documents = list(sources.documents(SourceConfig(path=str(tmp_path / "corpus"))))
    assert documents == [b"corpus/a.txt", b"elsewhere/b.txt", b"elsewhere/deep/c.txt"]


def test_each_real_folder_is_read_once_and_under_its_own_path(tmp_path):
    write(tmp_path, "corpus/z/a.txt", "outside/b.txt")
    for target, name in (
        ("z", "corpus/a"),
        (".", "corpus/self"),
        ("..", "corpus/parent"),
        ("../../outside", "corpus/z/one"),
        ("../../outside", "corpus/z/two"),
        ("../corpus", "outside/back"),
    ):
        os.symlink(target, tmp_path / name)

    # `outside` is reached through `parent`, which comes before `z/one`.
    assert below(tmp_path / "corpus") == (["parent/outside/b.txt", "z/a.txt"], 0)


def test_broken_links_and_hidden_files_are_skipped_and_counted(tmp_path):
    write(tmp_path, "a.txt", ".b.txt")
    os.symlink("nowhere", tmp_path / "broken.txt")
    os.symlink("loop", tmp_path / "loop")

    assert below(tmp_path) == (["a.txt"], 3)


def test_a_directory_of_only_a_broken_link_is_refused(tmp_path):
    os.symlink("nowhere", tmp_path / "broken.txt")

    with pytest.raises(InputError, match="is a directory without any text file \\(1 others\\)"):
        folders.below(tmp_path)
    with pytest.raises(InputError, match="broken.txt is a link to .*nowhere, which is missing"):
        sources.files(SourceConfig(path=str(tmp_path / "broken.txt")))
