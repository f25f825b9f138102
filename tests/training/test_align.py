"""Stage 1: losses by hand, what the model reads, and runs from beginning to end."""

import copy
import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_causal_model import save_tiny_causal_model, tiny_causal_model, tiny_tokenizer
from together import run_together
from worlds import config, prepared_world, random_dataset

from lsvcr.errors import DataError
from training import processes
from training.__main__ import main
from training.align import LAST, align, learning_rate
from training.aligned_text import load_aligned_language_model
from training.alignment_losses import (
    Memory,
    alignment_losses,
    info_nce,
    side_contrast,
    total_loss,
)
from training.alignment_model import AlignmentModel, Preferences
from training.alignment_samples import AlignmentSamples
from training.alignment_texts import AlignmentTexts
from training.byte_trigrams import NAME
from training.checkpoint import (
    ALIGNED,
    ALIGNED_LANGUAGE_MODEL,
    read_checkpoint,
    start_from,
    write_checkpoint,
)
from training.comment_features import comment_features
from training.dataset_folder import write_dataset
from training.encoder import unit
from training.not_finite import NotFiniteError
from training.preference_llm import (
    PreferenceLLM,
    compile_layers,
    keeps_sequences_apart,
    load_causal_model,
    recompute_activations,
)
from training.run_folder import RunFolder
from training.run_texts import load_text
from training.steps import load_prepared
from training.text_vectors import TextVectors
from training.token_rows import own_rows
from training.token_table import tokenize

ALIGN = ("align.epochs=1", "fit.device=cpu", "align.max_samples=40")


def samples_of(prepared, run, tokenizer=None, **options):
    texts = AlignmentTexts.of(prepared, run.align, tokenizer or tiny_tokenizer())
    return AlignmentSamples(
        prepared, texts, run.align, run.model, context_tokens=256, seed=3, **options
    )


def starts_of(batch):
    """Where sequences of shared rows begin, in all rows joined."""
    position_F = torch.cat([rows.position_RT.flatten() for rows in batch.rows])
    return (position_F == 0).nonzero()[:, 0].tolist()


def tokens_of(batch):
    """What stands in a batch's rows: pairs of prompt and response, then texts, as tokens."""
    token_F = torch.cat([rows.token_RT.flatten() for rows in batch.rows]).tolist()
    gaps = (batch.before_response_Q.diff() != 1).nonzero()[:, 0] + 1
    prompts = []
    for end, response in zip(
        batch.prompt_end_B.tolist(), batch.response_token_Q.tensor_split(gaps), strict=True
    ):
        start = max(start for start in starts_of(batch) if start <= end)
        assert token_F[end + 1 : end + 1 + len(response)] == response.tolist()
        prompts.append((token_F[start : end + 1], response.tolist()))
    texts = np.split(np.array(token_F)[batch.text_place_F], batch.text_length_U.cumsum(0)[:-1])
    return prompts, [text.tolist() for text in texts]


@pytest.fixture
def setting(tmp_path):
    """A configuration, its samples, one batch and a model in evaluation mode."""
    run = config(*ALIGN)
    samples = samples_of(prepared_world(1, run), run)
    causal = tiny_causal_model(tmp_path / "model")
    torch.manual_seed(0)
    model = AlignmentModel(PreferenceLLM(causal.transformer, run.align), run).eval()
    for name, weight in model.trained_weights().items():
        if "lora_B" in name:  # which begin as 0, and would hide whether LoRA is used
            torch.nn.init.normal_(weight, std=0.2)
    return run, samples, next(samples.batches(0)), model


# Losses


def unit_rows(*angles):
    return torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])


def test_info_nce_by_hand():
    query_BD, key_ND = unit_rows(0.0, 0.5), unit_rows(0.1, 0.9, 2.0)
    cosine = [
        [math.cos(0.1), math.cos(0.9), math.cos(2.0)],
        [math.cos(0.4), math.cos(0.4), math.cos(1.5)],
    ]
    e = [[math.exp(value / 0.5) for value in row] for row in cosine]
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    expected = -(math.log(e[0][0] / sum(e[0])) + math.log(e[1][1] / sum(e[1]))) / 2
    actual = info_nce(query_BD, key_ND, torch.tensor([0, 1]), nothing, 0.5)
    assert actual.item() == pytest.approx(expected, abs=1e-6)

    twins = torch.tensor([[True, True, False], [False, True, False]])
    expected = -(math.log(e[0][0] / (e[0][0] + e[0][2])) + math.log(e[1][1] / sum(e[1]))) / 2
    actual = info_nce(query_BD, key_ND, torch.tensor([0, 1]), twins, 0.5)
    assert actual.item() == pytest.approx(expected, abs=1e-6)


def test_side_contrast_prefers_the_own_side_and_by_hand():
    llm, own, other = unit_rows(0.0, 1.0), unit_rows(0.2, 1.1), unit_rows(0.7, 1.0)
    terms = []
    for near, far in ((0.2, 0.7), (0.1, 0.0)):
        good, bad = math.exp(math.cos(near) / 0.07), math.exp(math.cos(far) / 0.07)
        terms.append(-math.log(good / (good + bad)))
    assert side_contrast(llm, own, other, 0.07).item() == pytest.approx(sum(terms) / 2, abs=1e-5)
    assert side_contrast(llm, own, -own, 0.07) < side_contrast(llm, own, own, 0.07)


def preferences(*angles, response=0.25):
    return Preferences(*(unit_rows(*row) for row in angles), torch.tensor(response))


def test_all_losses_together_by_hand():
    batch = preferences([0.0, 1.0], [0.1, 1.3], [2.0, 0.4], [0.3, 1.2])
    number_B = torch.tensor([7, 8])
    keys = Memory(0, 2, torch.device("cpu")).extend(batch, number_B)
    losses = alignment_losses(batch, number_B, keys, 0.5)

    def nce(queries, others):
        terms = []
        for query, right in zip(queries, others, strict=True):
            total = sum(math.exp(math.cos(query - other) / 0.5) for other in others)
            terms.append(-math.log(math.exp(math.cos(query - right) / 0.5) / total))
        return sum(terms) / len(terms)

    assert losses["response"] == 0.25
    assert losses["target"].item() == pytest.approx(nce([0.1, 1.3], [0.3, 1.2]), abs=1e-6)
    match = (nce([0.1, 1.3], [0.0, 1.0]) + nce([0.0, 1.0], [0.1, 1.3])) / 2
    assert losses["match"].item() == pytest.approx(match, abs=1e-6)
    total = 0.25 + losses["target"] + 0.5 * (losses["match"] + losses["side"])
    assert total_loss(losses, config().align).item() == pytest.approx(total.item())


def test_equal_targets_are_no_negatives_and_memory_holds_the_last_samples():
    memory = Memory(3, 2, torch.device("cpu"))
    first = preferences([0.0, 1.0], [0.0, 1.0], [2.0, 2.0], [0.0, 1.0])
    memory.extend(first, torch.tensor([1, 2]))
    second = preferences([0.5, 0.6], [0.5, 0.6], [2.0, 2.0], [0.5, 0.6])
    number_B = torch.tensor([3, 1])
    keys = memory.extend(second, number_B)
    assert keys.target_number_N.tolist() == [3, 1, 1, 2]
    torch.testing.assert_close(keys.llm_ND, unit_rows(0.5, 0.6, 0.0, 1.0))
    assert memory.target_number_M.tolist() == [3, 1, 1]
    loss = alignment_losses(second, number_B, keys, 1.0)["target"].item()
    e = [[math.exp(math.cos(a - b)) for b in (0.5, 0.6, 0.0, 1.0)] for a in (0.5, 0.6)]
    one = -math.log(e[0][0] / sum(e[0]))
    two = -math.log(e[1][1] / (sum(e[1]) - e[1][2]))  # the third has the same target
    assert loss == pytest.approx((one + two) / 2, abs=1e-6)


def test_the_rate_rises_and_falls():
    settings = config("align.learning_rate=1", "align.warmup_share=0.2").align
    rates = [learning_rate(step, 10, settings) for step in range(1, 11)]
    np.testing.assert_allclose(rates, [1 / 2, 1, *(n / 9 for n in range(8, 0, -1))])


# What is read


def test_the_preference_is_read_at_the_last_prompt_token(setting):
    _, _, batch, model = setting
    prompts, _ = tokens_of(batch)
    with torch.no_grad():
        state_FH = model.llm.read(batch.rows)
        loss = model.llm.response_loss(state_FH[batch.before_response_Q], batch.response_token_Q)
        losses = []
        for end, (prompt, response) in zip(batch.prompt_end_B, prompts, strict=True):
            token_1T, cut = torch.tensor([prompt + response]), len(prompt)
            output = model.llm.causal(token_1T)
            alone_H = model.llm.causal.base_model(token_1T[:, :cut]).last_hidden_state[0, -1]
            torch.testing.assert_close(state_FH[end], alone_H, atol=1e-5, rtol=1e-4)
            logit_QX = output.logits[0, cut - 1 : -1].log_softmax(-1)
            losses += [-logit_QX[q, token].item() for q, token in enumerate(response)]
            assert response[-1] == tiny_tokenizer().eos_token_id
    assert loss.item() == pytest.approx(np.sum(losses), abs=1e-4)
    assert batch.response_tokens == len(losses)


def test_a_text_is_read_alike_alone_and_among_others_and_once_a_batch(setting):
    _, _, batch, model = setting
    _, texts = tokens_of(batch)
    assert len({tuple(text) for text in texts}) == len(texts)
    with torch.no_grad():
        text_UE = model.text_vectors(batch, model.llm.read(batch.rows))
        assert not text_UE[0].any()
        for number in (1, len(texts) // 2, len(texts)):
            token_1T = torch.tensor([texts[number - 1]])
            alone_TH = model.llm.causal.base_model(token_1T).last_hidden_state[0]
            torch.testing.assert_close(
                text_UE[number], model.text_mlp(alone_TH.mean(0)), atol=1e-5, rtol=1e-4
            )
    used = set(batch.title_BI.unique().tolist()) | set(batch.target_B.tolist())
    assert max(used) <= len(texts)


def test_the_language_model_is_called_once_a_batch_and_reads_everything_once(setting):
    _, samples, _, model = setting
    batch = next(samples.batches(3))
    calls = []

    def note(_module, _inputs, options):
        calls.append(options["input_ids"])

    model.llm.causal.base_model.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        model(batch)
    shown = torch.cat(
        [
            *(batch.title_BI, batch.popular_BI, batch.comment_title_BJ),
            *(batch.comment_BJK.flatten(1), batch.screen_B[:, None], batch.target_B[:, None]),
        ],
        dim=1,
    )
    distinct = set(shown.flatten().tolist()) - {0}
    assert (shown > 0).sum() > 2 * len(distinct), "the same texts appear again and again"
    (token_RT,) = calls
    assert torch.equal(token_RT, batch.rows[0].token_RT)
    assert len(starts_of(batch)) == len(batch) + len(distinct)
    prompts, texts = tokens_of(batch)
    lengths = [len(prompt) + len(response) for prompt, response in prompts]
    assert batch.tokens == sum(lengths) + sum(map(len, texts)) > 0.8 * token_RT.numel()


def test_padding_changes_nothing(setting):
    _, _, batch, model = setting
    (rows,) = batch.rows
    is_read_F = torch.zeros(rows.token_RT.numel(), dtype=torch.bool)
    is_read_F[batch.text_place_F] = is_read_F[batch.before_response_Q + 1] = True
    for end, (prompt, _) in zip(batch.prompt_end_B, tokens_of(batch)[0], strict=True):
        is_read_F[end + 1 - len(prompt) : end + 1] = True
    assert int(is_read_F.sum()) == batch.tokens < len(is_read_F)
    noise_RT = torch.randint(len(tiny_tokenizer()), rows.token_RT.shape)
    token_RT = torch.where(is_read_F.view_as(noise_RT), rows.token_RT, noise_RT)
    padded = dataclasses.replace(batch, rows=[dataclasses.replace(rows, token_RT=token_RT)])
    with torch.no_grad():
        for clean, other in zip(model(batch), model(padded), strict=True):
            torch.testing.assert_close(clean, other, atol=0, rtol=0)


def test_positions_are_distinct_ascending_and_use_every_row(setting):
    run, samples, _, _ = setting
    seen = set()
    for epoch in range(3):
        for batch in samples.batches(epoch):
            for title_I, position_I in zip(
                batch.title_BI[:, 1:], batch.video_position_BI, strict=True
            ):
                chosen = position_I[title_I > 0].tolist()
                assert chosen == sorted(set(chosen))
                seen |= set(chosen)
    assert seen == set(range(run.model.max_history))


def test_with_given_positions_the_encoder_is_the_one_of_stage_two(setting):
    _, _, batch, model = setting
    text_UD = torch.randn(int(batch.target_B.max()) + 500, model.items.merge.out_features)
    text_UD[0] = 0
    items = model.items
    title_BID, popular_BID = text_UD[batch.title_BI], text_UD[batch.popular_BI]
    count_BJ1 = (batch.comment_BJK > 0).sum(-1, keepdim=True).clamp(min=1)
    comment_BJD = text_UD[batch.comment_BJK].sum(2) / count_BJ1
    orders = (batch.video_order_BI, batch.video_cut_BI, batch.comment_last_BJ, batch.comment_cut_BJ)
    events = (
        items.merge(torch.cat([title_BID, popular_BID], -1)),
        items.merge(torch.cat([text_UD[batch.comment_title_BJ], comment_BJD], -1)),
    )
    with torch.no_grad():
        plain = model.sequence(*events, *orders)
        counted = [torch.arange(event.shape[1] - 1).expand(len(batch), -1) for event in events]
        given = model.sequence(
            *events, *orders, video_position_BI=counted[0], comment_position_BJ=counted[1]
        )
        torch.testing.assert_close(plain.video_BID, given.video_BID)
        torch.testing.assert_close(plain.comment_BJD, given.comment_BJD)
        drawn = model.states(batch, text_UD)
    assert not torch.allclose(drawn.video_BID, plain.video_BID)


def test_the_other_side_is_read_by_the_same_head(setting):
    _, _, batch, model = setting
    with torch.no_grad():
        result = model(batch)
        text_UD = items_of(model, batch)
        states = model.states(batch, text_UD)
        for sample in range(len(batch)):
            slots_J = batch.comment_last_BJ[sample] < 2**30
            slots_I = batch.video_order_BI[sample] < 2**30
            video_ID, comment_JD = (
                states.video_BID[sample, slots_I],
                states.comment_BJD[sample, slots_J],
            )
            for own, actual in ((True, result.own_BD), (False, result.other_BD)):
                is_comment = bool(batch.is_comment_B[sample])
                read_ND = comment_JD if is_comment == own else video_ID
                expected = (comment_head if is_comment else video_head)(
                    model.sequence, read_ND, text_UD[batch.screen_B[sample]]
                )
                torch.testing.assert_close(actual[sample], unit(expected), atol=1e-5, rtol=1e-4)


def items_of(model, batch):
    return model.items.adapter(model.text_vectors(batch, model.llm.read(batch.rows)))


def video_head(sequence, state_ND, _):
    hidden_NP = sequence.pool_norm(sequence.pool_hidden(state_ND))
    score_N = sequence.pool_score(torch.nn.functional.gelu(hidden_NP))[:, 0]
    return score_N.softmax(0) @ state_ND


def comment_head(sequence, state_ND, query_D):
    read, parts = sequence.read_out, []
    query, key, value = read.query(query_D), read.key(state_ND), read.value(state_ND)
    for part in torch.arange(len(query_D)).chunk(read.heads):
        share_N = (key[:, part] @ query[part] / len(part) ** 0.5).softmax(0)
        parts.append(share_N @ value[:, part])
    return sequence.read_out_norm(query_D + read.output(torch.cat(parts)))


def test_every_trained_weight_gets_a_gradient_and_nothing_else(setting):
    run, _, batch, model = setting
    result = model.train()(batch)
    keys = Memory(0, run.model.width, torch.device("cpu")).extend(result, batch.target_number_B)
    losses = alignment_losses(result, batch.target_number_B, keys, 0.07)
    total_loss(losses, run.align).backward()
    for name, parameter in model.named_parameters():
        is_trained = "lora_" in name or not name.startswith("llm.")
        assert parameter.requires_grad == is_trained
        assert (parameter.grad is not None) == is_trained, name
    assert {name.split(".")[-4] for name in model.trained_weights() if "lora_" in name} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip


class OneByOne(torch.nn.Module):
    """Reads every prompt and every text alone."""

    def __init__(self, llm):
        super().__init__()
        self.llm, self.width = llm, llm.width

    def read(self, rows):
        states = []
        for token_T, position_T in (
            pair for one in rows for pair in zip(one.token_RT, one.position_RT, strict=True)
        ):
            starts = (position_T == 0).nonzero()[:, 0].tolist()
            for start, end in itertools.pairwise([*starts, len(token_T)]):
                states.append(self.llm.causal.base_model(token_T[None, start:end])[0][0])
        return torch.cat(states)

    def response_loss(self, state_QH, token_Q):
        logit_QX = self.llm.causal.lm_head(state_QH).log_softmax(-1)
        return -logit_QX.gather(1, token_Q[:, None]).sum()


def test_a_batch_learns_what_reading_everything_one_by_one_would(setting):
    run, _, batch, model = setting
    slow_model = copy.deepcopy(model)
    slow_model.llm = OneByOne(slow_model.llm)
    gradients = []
    for one in (model, slow_model):
        result = one(batch)
        keys = Memory(0, run.model.width, torch.device("cpu")).extend(result, batch.target_number_B)
        losses = alignment_losses(result, batch.target_number_B, keys, 0.07)
        loss = total_loss(losses, run.align)
        loss.backward()
        gradients.append(
            torch.cat([loss[None], *(w.grad.flatten() for w in one.trained_weights().values())])
        )
    assert gradients[0].abs().max() > 0.1
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


def gradient(model, batch):
    """Of a loss that every trained weight of the language model has a part in."""
    model.zero_grad()
    result = model(batch)
    (result.response_loss + (result.own_BD * result.llm_BD).sum()).backward()
    weights = model.trained_weights().values()
    return torch.cat([w.grad.flatten() for w in weights if w.grad is not None])


def test_rows_of_their_own_teach_the_same(setting):
    run, samples, shared, model = setting
    own = next(samples_of(samples.prepared, run, lay_out=own_rows).batches(0))
    assert len(own.rows) > 1
    assert all(rows.position_RT is None for rows in own.rows)
    gradients = [gradient(model, batch) for batch in (shared, own)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


class ReadsOn:
    """A causal model whose state is the mean of all tokens of its row so far."""

    config = SimpleNamespace(vocab_size=50)
    device = torch.device("cpu")

    def base_model(self, input_ids, use_cache):
        count_T = torch.arange(1, input_ids.shape[1] + 1)
        mean_RT = input_ids.float().cumsum(1) / count_T
        return SimpleNamespace(last_hidden_state=mean_RT[..., None])


class ReadsOnWhateverThePositions(ReadsOn):
    def base_model(self, input_ids, use_cache, position_ids=None):
        return super().base_model(input_ids, use_cache)


def test_only_models_that_keep_sequences_apart_read_several_in_a_row(tmp_path):
    assert keeps_sequences_apart(tiny_causal_model(tmp_path / "model").transformer)
    assert not keeps_sequences_apart(ReadsOn())
    assert not keeps_sequences_apart(ReadsOnWhateverThePositions())


def test_activations_are_recomputed_where_memory_is_scarce(tmp_path):
    is_recomputed = []
    for value in ("null", "true", "false"):
        run = config(*ALIGN, f"align.recompute_activations={value}")
        causal = tiny_causal_model(tmp_path / value)
        llm = PreferenceLLM(causal.transformer, run.align)
        is_recomputed.append(llm.causal.base_model.layers[0].gradient_checkpointing)
    assert is_recomputed == [True, True, False]  # the model lies on a CPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_compiled_layers_give_the_same_gradients(setting):
    _, _, batch, model = setting
    device = torch.device("cuda")
    model, batch = model.to(device), batch.to(device)
    gradients = []
    for is_compiled in (False, True):
        if is_compiled:
            compile_layers(model.llm.causal)
        gradients.append(gradient(model, batch))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_recomputing_activations_changes_no_gradient(setting):
    _, _, batch, model = setting
    gradients = []
    for recompute in (False, True):
        if recompute:
            recompute_activations(model.llm.causal)
        torch.manual_seed(0)
        gradients.append(gradient(model.train(), batch))
    torch.testing.assert_close(*gradients)


# Samples


def test_batches_depend_on_seed_epoch_and_number_only(setting):
    _, samples, _, _ = setting
    whole = list(samples.batches(1))
    assert len(whole) == samples.batch_count > 5
    for batch, again in zip(whole[3:], samples.batches(1, start=3), strict=True):
        assert torch.equal(batch.rows[0].token_RT, again.rows[0].token_RT)
        assert torch.equal(batch.video_position_BI, again.video_position_BI)
        assert torch.equal(batch.popular_BI, again.popular_BI)
    other = next(samples.batches(2))
    assert not torch.equal(whole[0].user_B, other.user_B)


def test_a_batch_holds_prompts_of_like_length_and_its_parts_as_long_ones(setting):
    _, samples, _, _ = setting
    lengths = [
        [len(prompt) + len(response) for prompt, response in tokens_of(batch)[0]]
        for batch in samples.batches(0)
    ]
    spread = [max(ones) - min(ones) for ones in lengths]
    everything = [length for ones in lengths for length in ones]
    assert np.median(spread) < (max(everything) - min(everything)) / 4
    for part in (0, 1):
        halves = samples.batches(0, part=part, parts=2)
        for batch, ones in zip(halves, lengths, strict=True):
            own = [len(prompt) + len(response) for prompt, response in tokens_of(batch)[0]]
            assert own == ones[part::2]


def test_batches_show_what_the_catalogue_says(setting):
    _, samples, _, _ = setting
    tokenizer = tiny_tokenizer()
    for batch in itertools.islice(samples.batches(0), 3):
        prompts, text_tokens = tokens_of(batch)
        texts = ["", *(tokenizer.decode(tokens) for tokens in text_tokens)]
        for sample, pair in enumerate(prompts):
            prompt, response = (tokenizer.decode(tokens) for tokens in pair)
            assert response == f"{texts[batch.target_B[sample]]} </s>"
            is_comment = bool(batch.is_comment_B[sample])
            assert response.startswith("text" if is_comment else "title")
            if is_comment:
                assert f"watching : {texts[batch.screen_B[sample]]} Write" in prompt
            newest = (
                int(batch.title_BI[sample].nonzero().max()) if batch.title_BI[sample].any() else 0
            )
            assert texts[batch.title_BI[sample, newest]] in prompt


def test_too_few_targets_are_said(setting):
    run, _, _, _ = setting
    with pytest.raises(DataError, match="no training targets"):
        prepared = prepared_world(1, run)
        prepared.video_held_out_N[:] = -1
        prepared.comment_held_out_M[:] = -1
        samples_of(prepared, run)


# Training


def run_align(folder, *assignments, seed=1, model=None, load=None, progress=None):
    run = config(*ALIGN, *assignments)
    if load is None:
        model = model or save_tiny_causal_model(folder / "model")
    entries = []

    def note(**facts):
        entries.append(facts)
        if progress:
            progress(**facts)

    align(
        prepared_world(seed, run),
        run,
        folder,
        load_model=load or (lambda device: load_causal_model(str(model), device)),
        progress=note,
    )
    return run, entries


def test_the_loss_falls_over_twenty_steps(tmp_path):
    _, entries = run_align(
        tmp_path, "align.epochs=2", "align.max_samples=40", "align.learning_rate=1e-2"
    )
    losses = [entry["losses"]["total"] for entry in entries]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3])
    for name in ("response", "target"):
        named = [entry["losses"][name] for entry in entries]
        assert np.mean(named[-5:]) < np.mean(named[:3])


def test_an_interrupted_run_comes_to_the_same_weights(tmp_path):
    settings = (
        "align.epochs=2", "align.checkpoint_steps=3", "align.memory=12", "model.dropout=0.1",
        "align.lora_dropout=0.1", "align.accumulate=2",
    )  # fmt: skip
    _, whole_losses = run_align(tmp_path / "whole", *settings)
    assert len(whole_losses) == 10

    def stop(step, **_):
        if step == 8:
            raise StopError

    with pytest.raises(StopError):
        run_align(tmp_path / "parts", *settings, progress=stop)
    assert read_checkpoint(tmp_path / "parts" / LAST)[1] == {"step": 6}
    _, rest = run_align(tmp_path / "parts", *settings)
    assert [entry["step"] for entry in rest] == [7, 8, 9, 10]
    assert rest == whole_losses[6:]
    for file in (ALIGNED, ALIGNED_LANGUAGE_MODEL):
        whole, parts = (read_checkpoint(tmp_path / name / file)[0] for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert run_align(tmp_path / "parts", *settings)[1] == [], "all steps are done"


def align_and_note(folder, *settings):
    """In each of several processes: align, and note what one was told of every step."""
    _, entries = run_align(folder, *settings, model=folder.parent / "model")
    (folder / f"told-{processes.rank()}.json").write_text(json.dumps(entries))


def told(folder, number=0):
    return json.loads((folder / f"told-{number}.json").read_text())


def assert_same_run(folder, whole, entries, whole_entries):
    """The same losses at every step and, unless it is stopped early, the same weights."""
    for entry, expected in zip(entries, whole_entries, strict=True):
        assert entry["step"] == expected["step"]
        assert entry["losses"] == pytest.approx(expected["losses"], abs=1e-4, rel=1e-4)
    for file in (ALIGNED, ALIGNED_LANGUAGE_MODEL):
        one, many = (read_checkpoint(path / file)[0] for path in (whole, folder))
        assert one.keys() == many.keys()
        for name in one:
            torch.testing.assert_close(many[name], one[name], atol=1e-4, rtol=1e-3)


SEVERAL = (
    "align.epochs=2", "align.memory=12", "align.accumulate=2", "align.checkpoint_steps=4",
    "model.dropout=0",
)  # fmt: skip


def test_two_processes_come_to_what_one_does_and_go_on_where_two_or_one_stopped(tmp_path):
    save_tiny_causal_model(tmp_path / "model")
    whole, pair, one_then_two, two_then_one = (
        tmp_path / name for name in ("whole", "pair", "one_then_two", "two_then_one")
    )
    for folder in (whole, pair, one_then_two, two_then_one):
        folder.mkdir()
    align_and_note(whole, *SEVERAL)
    run_together(2, align_and_note, pair, *SEVERAL)
    assert len(told(whole)) == 10
    assert told(pair) == told(pair, 1), "each process is told the losses of all"
    assert_same_run(pair, whole, told(pair), told(whole))
    texts_twice = sum(entry["tokens"] for entry in told(pair))
    assert texts_twice > sum(entry["tokens"] for entry in told(whole))

    stop_and_note(one_then_two)
    run_together(2, align_and_note, one_then_two, *SEVERAL)
    run_together(2, stop_and_note, two_then_one)
    align_and_note(two_then_one, *SEVERAL)
    for folder in (one_then_two, two_then_one):
        assert told(folder)[0]["step"] == 5
        assert_same_run(folder, whole, told(folder), told(whole)[4:])


def stop_and_note(folder):
    """Stop behind the first checkpoint."""

    def stop(step, **_):
        if step == 6:
            raise StopError

    with pytest.raises(StopError):
        run_align(folder, *SEVERAL, model=folder.parent / "model", progress=stop)


class StopError(Exception):
    pass


def test_processes_that_cannot_share_a_batch_are_refused(tmp_path):
    save_tiny_causal_model(tmp_path / "model")
    run_together(2, align_odd_batches, tmp_path / "run")


def align_odd_batches(folder):
    with pytest.raises(DataError, match=r"a batch of 7 cannot be shared equally by 2"):
        run_align(folder, "align.batch_samples=7", model=folder.parent / "model")


def test_accumulating_is_one_step_of_all_batches(tmp_path):
    _, entries = run_align(tmp_path, "align.accumulate=5")
    assert [entry["step"] for entry in entries] == [1, 2]


def test_a_loss_that_is_no_number_stops_with_step_and_users(tmp_path):
    model = save_tiny_causal_model(tmp_path / "model")
    path = model / "model.safetensors"
    weights, _ = read_checkpoint(path)
    write_checkpoint(path, weights | {"lm_head.weight": weights["lm_head.weight"] * math.nan}, {})
    message = r"step 1: not finite: response, total, gradient \(users (u\d+, )+u\d+\); nothing is"
    with pytest.raises(NotFiniteError, match=message):
        run_align(tmp_path, model=model)


def test_an_infinite_gradient_stops_before_it_changes_a_weight(tmp_path):
    settings = ("align.checkpoint_steps=2",)
    _, whole_losses = run_align(tmp_path / "whole", *settings)
    seen = []

    def load(device):
        causal = load_causal_model(str(tmp_path / "whole" / "model"), device)
        seen.append(causal.transformer)
        return causal

    def break_after_three_steps(step, **_):
        if step == 3:
            seen[0].lm_head.register_full_backward_hook(
                lambda module, gradient, _: (gradient[0] * math.inf,)
            )

    last = tmp_path / "parts" / LAST
    message = (
        rf"align, step 4: not finite: gradient \(users .*\); {re.escape(str(last))} holds step 2"
    )
    with pytest.raises(NotFiniteError, match=message):
        run_align(tmp_path / "parts", *settings, load=load, progress=break_after_three_steps)
    lora = [weight for name, weight in seen[0].named_parameters() if "lora_" in name]
    assert lora
    assert all(weight.isfinite().all() for weight in lora)
    _, rest = run_align(tmp_path / "parts", *settings, model=tmp_path / "whole" / "model")
    assert rest == whole_losses[2:]


def test_at_most_ten_users_are_named(tmp_path):
    error = NotFiniteError(
        "step 2",
        [f"u{n}" for n in range(11)],
        checkpoint=tmp_path / "no",
        counted="step",
        lower="x",
    )
    assert "(users u0, u1, u2, u3, u4, u5, u6, u7, u8, u9, …); nothing is saved yet" in str(error)


def test_a_model_without_end_or_padding_token_is_trained(tmp_path):
    model = save_tiny_causal_model(tmp_path / "model", end=None)
    tokenizer = load_causal_model(str(model), torch.device("cpu")).tokenizer
    assert tokenizer.pad_token is None and tokenizer.eos_token is None
    _, entries = run_align(tmp_path, model=model)
    assert all(math.isfinite(entry["losses"]["total"]) for entry in entries)


def test_texts_lose_their_end_whatever_side_the_tokenizer_cuts(tmp_path):
    folder = save_tiny_causal_model(tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["truncation_side"] = "left"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_causal_model(str(folder), torch.device("cpu")).tokenizer
    words = tokenizer.convert_ids_to_tokens(tokenize(tokenizer, ["title v1 v2 v3"], 2)[0])
    assert words == ["title", "v1"]


def test_a_model_that_cannot_write_is_refused(tmp_path):
    from tiny_language_model import save_tiny_language_model

    model = save_tiny_language_model(tmp_path / "model")
    with pytest.raises(DataError, match=r"lacks weights that `align` needs \(lm_head"):
        run_align(tmp_path, model=model)


# What comes out


def test_the_tuned_model_embeds_texts_as_training_read_them(tmp_path):
    run, _ = run_align(tmp_path, "align.learning_rate=1e-2")
    run = run.override([f"text.language_model={tmp_path / 'model'}"])
    aligned = load_aligned_language_model(tmp_path, run, torch.device("cpu"))
    texts = ["title v3", "", "text c7"]
    vector_NE = aligned.encode(texts, max_tokens=16, batch_tokens=64)
    assert vector_NE.shape == (3, run.text.width)
    assert not vector_NE[1].any()
    token_1T = torch.tensor([tiny_tokenizer()("text c7")["input_ids"]])
    with torch.no_grad():
        state_H = aligned.transformer(token_1T).last_hidden_state[0].mean(0)
        torch.testing.assert_close(torch.from_numpy(vector_NE[2]), aligned.text_mlp(state_H))
    plain = load_causal_model(str(tmp_path / "model"), torch.device("cpu")).transformer
    with torch.no_grad():
        before_H = plain.base_model(token_1T).last_hidden_state[0].mean(0)
    assert not torch.allclose(state_H, before_H)


def test_positions_of_longer_histories_begin_as_the_mean(tmp_path):
    from worlds import random_recommender

    run, _ = run_align(tmp_path)
    longer = run.override(["model.max_history=20"])
    recommender = random_recommender(prepared_world(1, longer), longer).float()
    start_from(recommender, tmp_path / ALIGNED)
    position_LD = read_checkpoint(tmp_path / ALIGNED)[0]["sequence.video.position_LD"]
    torch.testing.assert_close(recommender.sequence.video.position_LD[:12], position_LD)
    for row_D in recommender.sequence.video.position_LD[12:]:
        torch.testing.assert_close(row_D, position_LD.mean(0))


COMMAND = [
    "--preset", "tiny", "--set", "data.min_events=1", "--set", "fit.epochs=1",
    "--set", "align.epochs=1", "--set", "align.max_samples=24", "--set", "fit.device=cpu",
]  # fmt: skip


@pytest.fixture
def start(tmp_path):
    write_dataset(random_dataset(0), tmp_path / "data")
    model = save_tiny_causal_model(tmp_path / "model")
    folders = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    return [*folders, *COMMAND, "--set", f"text.language_model={model}"]


def test_the_whole_run_by_commands(start, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["align", *start]) == 0
    assert main(["run", *start]) == 0
    output = capsys.readouterr().out
    assert "align: finished before" in output
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == ["align"] * 6 + ["embed"] * 3 + ["fit", "evaluate"]
    assert json.loads((run / "metrics.json").read_text())["video"]["sampled"]["users"] > 0
    (vectors,) = (run / "text_vectors").iterdir()
    assert vectors.name == "aligned_language_model.safetensors-128-32"
    # Profiles compare what the model read before it was tuned, and spelling.
    shared = tmp_path / "text_vectors" / "data"
    untuned, spelling = shared / "model-128-32", shared / f"{NAME}-128-32"
    assert sorted(shared.iterdir()) == [spelling, untuned]
    opened = RunFolder.open(run)
    prepared = load_prepared(opened)
    comments = prepared.texts()[1]
    compared = [TextVectors.load(folder).lookup(comments) for folder in (untuned, spelling)]
    tables = load_text(opened, prepared).tables
    assert np.array_equal(tables.feature_CF, comment_features(prepared, compared))
    assert not np.array_equal(tables.comment_CE, compared[0])
    # A run without stage 1 would have fitted the same components into the shared store.
    alone = tmp_path / "alone"
    plain = [*start, "--set", "align.epochs=0", "--out", str(alone), "--text-vectors", str(alone)]
    assert main(["embed", *plain]) == 0
    with_tuning, without = (
        TextVectors.load(store / untuned.name).basis.mean_H for store in (shared, alone)
    )
    assert with_tuning == pytest.approx(without, abs=1e-6)
    assert main(["run", *start]) == 0
    assert "fit: finished before" in capsys.readouterr().out


def test_a_crash_after_the_last_step_repeats_none(start, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", crash)
        assert main(["align", *start]) == 130
    before = (run / ALIGNED).read_bytes(), (run / "log.jsonl").read_bytes()
    assert (run / LAST).exists()
    assert not RunFolder.open(run).is_finished("align")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        assert main(["align", *start]) == 130
    assert RunFolder.open(run).is_finished("align")
    assert main(["align", *start]) == 0
    assert ((run / ALIGNED).read_bytes(), (run / "log.jsonl").read_bytes()) == before
    assert not (run / LAST).exists()


def test_stage_two_begins_with_what_stage_one_learnt(start, tmp_path):
    assert main(["run", *start, "--set", "fit.learning_rate=1e-12"]) == 0
    best, aligned = (
        read_checkpoint(tmp_path / "run" / name)[0]
        for name in ("checkpoints/best.safetensors", ALIGNED)
    )
    assert len(aligned) > 20
    for name, weight in aligned.items():
        torch.testing.assert_close(best[name], weight, atol=1e-6, rtol=0)


def test_align_alone_needs_epochs(start, capsys):
    assert main(["align", *start, "--set", "align.epochs=0"]) == 2
    assert "nothing to align" in capsys.readouterr().err
