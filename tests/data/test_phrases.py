"""Phrases of a text as spans: words that occur together, in a file that columns read."""

import json

from lm_jax.data import phrases


def test_phrases_are_words_that_occur_together_and_nothing_separates_them():
    texts = ["the Red  Sea, red sea", "New York City", "a new day in York city: new York", "İn New York"]
    pairs = {("new", "york"), ("york", "city")}
    found = [[text[start:stop] for start, stop, _ in phrases.find(text, pairs)] for text in texts]
    assert found == [[], ["New York City"], ["York city", "new York"], ["New York"]]
    assert phrases.find("New York City", pairs, longest=2) == [(0, 8, "phrase")]


def test_a_file_of_texts_and_spans_is_written_and_a_missing_corpus_is_one_line(tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("New\nYork: snow. New York.\n\n" * 10 + " ".join(map(str, range(2000))))
    output = tmp_path / "phrases.jsonl"
    assert phrases.main([str(tmp_path / "corpus.txt"), str(output)]) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert {record["text"][a:b] for record in records for a, b, _ in record["spans"]} == {"New York"}
    assert not any("\n" in record["text"] for record in records)
    capsys.readouterr()
    assert phrases.main([str(tmp_path / "none.txt"), str(output)]) == 2 and phrases.main([]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
