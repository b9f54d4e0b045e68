import pytest

from alignonce.experiments.data.corpora import load_corpus
from alignonce.experiments.data.image_data import DataUnavailable
from alignonce.experiments.data.source import DataSource


def documents(folder, count):
    for i in range(count):
        (folder / f"{i:03}.txt").write_text(f"document {i}", encoding="utf-8")


def parts(corpus):
    return {name: set(getattr(corpus, name).split(b"\n\n")) for name in ("train", "test")}


def test_documents_are_held_out_whole_and_about_one_of_ten(tmp_path):
    documents(tmp_path, 200)
    found = parts(load_corpus(str(tmp_path)))
    assert found["train"].isdisjoint(found["test"])
    assert found["train"] | found["test"] == {b"document %d" % i for i in range(200)}
    assert 10 <= len(found["test"]) <= 30


def test_what_is_held_out_does_not_depend_on_other_documents(tmp_path):
    documents(tmp_path, 60)
    few = parts(load_corpus(str(tmp_path)))
    documents(tmp_path, 120)
    many = parts(load_corpus(str(tmp_path)))
    assert few["test"] < many["test"]
    assert few["train"] < many["train"]


def test_single_file_gives_its_last_tenth(tmp_path):
    file = tmp_path / "book.txt"
    file.write_bytes(bytes(range(65, 91)) * 10)
    corpus = load_corpus(str(file))
    assert corpus.train + corpus.test == file.read_bytes()
    assert len(corpus.test) == 26


def test_hidden_and_binary_files_are_no_text(tmp_path):
    documents(tmp_path, 20)
    (tmp_path / ".secret").write_text("hidden", encoding="utf-8")
    (tmp_path / "picture").write_bytes(b"\x89PNG\0\0")
    corpus = load_corpus(str(tmp_path))
    assert b"hidden" not in corpus.train + corpus.test
    assert b"PNG" not in corpus.train + corpus.test


def test_standard_library_has_sources_and_reference_but_no_other_packages():
    corpus = load_corpus("python-stdlib")
    assert b"class JSONDecoder" in corpus.train + corpus.test
    assert b'The "assert" statement' in (corpus.train + corpus.test).replace(b'\\"', b'"')
    assert b"import numpy as np" not in corpus.train
    assert len(corpus.train) > 5 * len(corpus.test) > 1_000_000


def test_unknown_name_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"python-stdlib.*got 'no-such-corpus'"):
        load_corpus("no-such-corpus")


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be some text"):
        load_corpus(str(tmp_path))


def test_hub_is_not_asked_where_it_may_not_be():
    with pytest.raises(DataUnavailable, match="hub=False"):
        load_corpus("hub:owner/name", DataSource(hub=False))
