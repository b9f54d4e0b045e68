import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignonce.experiments.data.tokens import BytePairTokens, learn_tokens, load_tokens

TEXT = ("def read(file):\n    return file.read()\n" * 50 + "naïve café: §5\n").encode()


@given(st.binary(max_size=50))
def test_bytes_are_their_own_tokens(text):
    tokens = learn_tokens(TEXT, 256)
    encoded = tokens.encode(text)
    assert encoded.tolist() == list(text)
    assert tokens.decode(encoded.tolist()) == text
    assert tokens.byte_lengths.tolist() == [1.0] * 256


@pytest.fixture(scope="module")
def pairs():
    pytest.importorskip("tokenizers")
    return learn_tokens(TEXT, 300)


@pytest.mark.parametrize("text", [TEXT, b"", b"\n\n", "unseen: Ω ≈ 3\t€".encode()])
def test_byte_pairs_lose_nothing_of_any_text(pairs, text):
    encoded = pairs.encode(text).tolist()
    assert pairs.decode(encoded) == text
    assert pairs.byte_lengths[encoded].sum() == len(text)


def test_byte_pairs_are_fewer_than_bytes(pairs):
    assert 256 < len(pairs.byte_lengths) <= 300
    assert len(pairs.encode(TEXT)) < len(TEXT) / 3


def test_byte_pairs_come_back_from_a_folder(pairs, tmp_path):
    pairs.save(tmp_path)
    again = load_tokens(tmp_path)
    assert isinstance(again, BytePairTokens)
    assert again.encode(TEXT).tolist() == pairs.encode(TEXT).tolist()


def test_bytes_need_no_file(tmp_path):
    learn_tokens(TEXT, 256).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert load_tokens(tmp_path).decode([72, 105]) == b"Hi"
