import pytest

from alignonce.experiments.data.corpora import load_corpus, load_hub_text

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def no_progress_bars(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def rows(count, word):
    return datasets.Dataset.from_dict({"text": [f"{word} {i}" for i in range(count)] + ["  "]})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose data sets are folders under tmp_path/hub; counts what it is asked."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked, really = [], datasets.load_dataset

    def load_dataset(name, configuration, streaming):
        asked.append((name, configuration, streaming))
        return really(str(tmp_path / "hub" / name), streaming=streaming)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_saved_splits_are_read_in_order_without_empty_rows(tmp_path):
    parts = datasets.DatasetDict(train=rows(5, "learn"), validation=rows(2, "check"), test=rows(1, "never"))
    parts.save_to_disk(tmp_path / "corpus")
    corpus = load_corpus(str(tmp_path / "corpus"))
    assert corpus.train == b"\n\n".join(b"learn %d" % i for i in range(5))
    assert corpus.test == b"check 0\n\ncheck 1"
    assert "splits train and validation" in corpus.source


def test_parquet_folder_without_a_test_split_holds_rows_out(tmp_path):
    rows(300, "row").to_parquet(tmp_path / "train.parquet")
    corpus = load_corpus(str(tmp_path))
    train, test = (set(part.split(b"\n\n")) for part in (corpus.train, corpus.test))
    assert train | test == {b"row %d" % i for i in range(300)}
    assert 15 <= len(test) <= 45


def test_hub_is_read_as_far_as_needed(tmp_path, hub):
    folder = tmp_path / "hub" / "owner" / "stories"
    folder.mkdir(parents=True)
    rows(1000, "learn").to_parquet(folder / "train.parquet")
    rows(20, "check").to_parquet(folder / "validation.parquet")
    corpus = load_corpus("hub:owner/stories/small", max_bytes=100)
    assert hub == [("owner/stories", "small", True)]
    assert corpus.name == "owner/stories/small"
    assert corpus.train.startswith(b"learn 0\n\nlearn 1")
    assert 100 <= len(corpus.train) < 150
    assert corpus.test.startswith(b"check 0")


def test_data_set_without_texts_is_refused(tmp_path):
    datasets.Dataset.from_dict({"words": ["a"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"column 'text'.*words"):
        load_corpus(str(tmp_path))


def test_malformed_id_is_refused():
    with pytest.raises(ValueError, match='must be "hub:owner/name"'):
        load_hub_text("only-a-name", None)
