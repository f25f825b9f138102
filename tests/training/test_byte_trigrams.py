import math

import numpy as np
import pytest

from training.byte_trigrams import BUCKETS, ByteTrigrams, fit_by_rarity


def encode(*texts, max_tokens=128):
    return ByteTrigrams().encode(texts, max_tokens=max_tokens, batch_tokens=1)


def test_counts_are_damped_and_normalised_by_hand():
    # " aaaa " has " aa" and "aa " once, and "aaa" twice.
    vector_H = encode("aaaa")[0]
    twice = 1 + math.log(2)
    length = math.sqrt(1 + 1 + twice**2)
    values = sorted(vector_H[vector_H > 0].tolist())
    assert values == pytest.approx([1 / length, 1 / length, twice / length])
    assert vector_H.shape == (BUCKETS,)


def test_a_text_does_not_touch_its_neighbours():
    together = encode("one", "", "the other", "x")
    for row, text in enumerate(("one", "", "the other", "x")):
        assert np.array_equal(together[row], encode(text)[0])
    assert not together[1].any()
    assert np.count_nonzero(together[3]) == 1  # " x "


def test_writing_counts_and_long_texts_are_cut():
    assert not np.array_equal(*encode("Good!", "good!"))
    assert np.array_equal(*encode("abcdefgh" + "x" * 50, "abcdefgh" + "y" * 50, max_tokens=2))


def test_rare_trigrams_weigh_more_than_common_ones():
    texts = [f"common {letter}{letter}{letter}" for letter in "abcdefghijklmnop"]
    raw_NH = encode(*texts)
    basis = fit_by_rarity(raw_NH, 8)
    common = np.flatnonzero((raw_NH > 0).all(0))
    assert len(common) > 5
    assert np.abs(basis.components_HE[common]).max() < 1e-6  # log(17 / 17) = 0
    found_H = np.count_nonzero(raw_NH, axis=0)
    weight_H = np.where(found_H > 0, np.log(17 / (found_H + 1)), 0)
    centred_NH = (raw_NH - raw_NH.mean(0)) * weight_H
    kept_NE = (raw_NH - basis.mean_H) @ basis.components_HE
    variance_E = np.linalg.svd(centred_NH, compute_uv=False)[:8] ** 2
    assert (kept_NE**2).sum(0) == pytest.approx(variance_E, rel=1e-3)
