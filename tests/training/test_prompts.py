"""What the language model is asked, read back as words."""

import dataclasses
import re

import numpy as np
import pytest
from tiny_causal_model import tiny_tokenizer
from worlds import MINUTE, START_MS, config, dataset, prepared_world

from lsvcr.catalogue import TextColumn
from lsvcr.errors import DataError
from training.alignment_samples import AlignmentSamples
from training.alignment_texts import AlignmentTexts
from training.comment_diversity import show_comments
from training.split import prepare
from training.token_table import TokenTable, special_tokens, tokenize


def samples_of(prepared, run, *, tokenizer=None):
    tokenizer = tokenizer or tiny_tokenizer()
    texts = AlignmentTexts.of(prepared, run.align, tokenizer)
    return AlignmentSamples(prepared, texts, run.align, run.model, context_tokens=256, seed=3)


def words(samples, chunk, sample):
    """A prompt and its response as words."""
    tokenizer = tiny_tokenizer()
    row = chunk.prompts.select(np.array([sample]))
    token_F, _ = samples.texts.table.join(row.piece_BS, row.length_BS)
    length = int(row.prompt_length_B[0])
    return tokenizer.decode(token_F[:length]), tokenizer.decode(token_F[length:])


def all_prompts(samples, seed=0):
    chunk = samples.prepare(np.arange(len(samples)), np.random.default_rng(seed))
    return chunk, [words(samples, chunk, sample) for sample in range(len(samples))]


@pytest.fixture
def small_world():
    """One user: likes v1 to v5 in turn and comments under v1 and v2; comments c<video><rank>."""
    run = config("align.max_history=6", "align.prompt_tokens=240", "model.max_history=12")
    videos = [f"v{number}" for number in range(1, 8)]
    return run, prepare(
        dataset(
            videos=[(video, f"title {video}") for video in videos],
            comments=[
                (f"c{video}{rank}", f"v{video}", f"text c{video}{rank}")
                for video in (1, 2)
                for rank in range(3)
            ],
            video_events=[
                ("u", video, START_MS + 100 * number * MINUTE)
                for number, video in enumerate(videos, start=1)
            ],
            comment_events=[
                ("u", "c10", START_MS + 110 * MINUTE),
                ("u", "c21", START_MS + 210 * MINUTE),
                ("u", "c22", START_MS + 211 * MINUTE),
            ],
        ),
        run,
    )


def test_a_prompt_tells_both_histories_and_ends_with_the_request(small_world):
    run, prepared = small_world
    samples = samples_of(prepared, run)
    _, prompts = all_prompts(samples)
    last_video = int(np.flatnonzero(~samples.is_comment_N)[-1])
    prompt, response = prompts[last_video]
    assert response == "title v5 </s>"
    assert prompt.endswith("Write the caption of the video this viewer is likely to enjoy next :")
    assert "5 . caption" not in prompt
    for number in range(1, 5):
        assert f"{number} . caption : title v{number}" in prompt
    assert re.search(r"title v2 \| comments : \{' text c\d+ ', ' text c\d+ '\}", prompt)
    assert "title v6" not in prompt
    assert "The viewer is watching" not in prompt


def test_a_comment_is_asked_for_below_the_video_on_screen(small_world):
    run, prepared = small_world
    samples = samples_of(prepared, run)
    _, prompts = all_prompts(samples)
    assert samples.is_comment_N.sum() == 1  # the other comment event is the test target
    prompt, response = prompts[int(np.flatnonzero(samples.is_comment_N)[0])]
    assert response == "text c10 </s>"
    assert "The viewer is watching : title v1 Write a comment" in prompt
    assert "Trail B : nothing yet" in prompt or "Trail A : nothing yet Trail B" in prompt
    assert "text c10" not in prompt


def test_both_orders_occur_and_the_introduction_says_which(small_world):
    run, prepared = small_world
    samples = samples_of(prepared, run)
    orders = set()
    for seed in range(20):
        _, prompts = all_prompts(samples, seed)
        for prompt, _ in prompts:
            is_videos_first = "Trail A lists videos they liked" in prompt
            first_trail = prompt.partition("Trail A :")[2].partition("Trail B :")[0]
            assert "comments :" not in first_trail or not is_videos_first
            assert "top comment" not in first_trail or is_videos_first
            orders.add(is_videos_first)
    assert orders == {True, False}


def test_a_long_prompt_loses_its_oldest_events_and_never_the_request():
    run = config("align.max_history=10", "align.text_tokens=4")
    long, short = (run.override([f"align.prompt_tokens={most}"]) for most in (1000, 150))
    prepared = prepared_world(2, run)
    texts = AlignmentTexts.of(prepared, run.align, tiny_tokenizer())
    lines = {}
    for name, settings in (("long", long), ("short", short)):
        samples = AlignmentSamples(
            prepared, texts, settings.align, settings.model, context_tokens=2000, seed=3
        )
        chunk, prompts = all_prompts(samples)
        assert chunk.prompts.prompt_length_B.max() <= settings.align.prompt_tokens
        for prompt, _ in prompts:
            assert re.search(r"(enjoy next|react to) :$", prompt)
        lines[name] = [
            re.findall(r"caption : .*?(?= \d+ \. |Trail|Write|The)", p) for p, _ in prompts
        ]
        if name == "long":
            whole = chunk
        else:
            part = chunk
    assert (part.prompts.prompt_length_B < whole.prompts.prompt_length_B).mean() > 0.3
    for sample in range(len(lines["long"])):
        left = list(lines["long"][sample])
        for line in lines["short"][sample]:
            left = left[left.index(line) + 1 :]  # in the same order
    # what is left out is older than all that stays, of either side
    builder = samples.builder
    history = samples.targets.history(prepared, run.align.max_history)
    events = samples._prompt_events(
        part.texts, part.others, _shown(history.video_BI, history.comment_BJK)
    )
    keep_BI, keep_BJ = builder._fitting_events(events)
    for sample in range(len(samples)):
        order_I, order_J = events.order_BI[sample], events.comment_order_BJ[sample]
        kept = [*order_I[keep_BI[sample]], *order_J[keep_BJ[sample]]]
        gone = [*order_I[~keep_BI[sample]], *order_J[~keep_BJ[sample]]]
        gone = [order for order in gone if order < 2**30]
        assert not kept or not gone or max(gone) < min(kept)


def _shown(video_BI, comment_BJK):
    from training.comment_diversity import ShownComments

    return ShownComments(np.zeros_like(video_BI), comment_BJK)


def test_a_prompt_that_cannot_even_hold_the_request_is_refused(small_world):
    run, prepared = small_world
    with pytest.raises(DataError, match=r"what is asked for alone takes up to \d+"):
        samples_of(prepared, run.override(["align.prompt_tokens=40"]))


@pytest.mark.parametrize("context_tokens", [200, 240])
def test_the_models_context_counts_where_prompts_may_be_longer(context_tokens):
    run = config("align.max_history=10", "align.prompt_tokens=100000", "align.text_tokens=4")
    prepared = prepared_world(2, run)
    texts = AlignmentTexts.of(prepared, run.align, tiny_tokenizer())
    roomy, tight = (
        AlignmentSamples(prepared, texts, run.align, run.model, context_tokens=most, seed=3)
        for most in (100_000, context_tokens)
    )
    (whole, prompts), (cut, cut_prompts) = all_prompts(roomy), all_prompts(tight)
    assert whole.prompts.total_length_B.max() > context_tokens
    assert cut.prompts.total_length_B.max() <= context_tokens
    is_cut_B = cut.prompts.total_length_B < whole.prompts.total_length_B
    assert 0.1 < is_cut_B.mean() < 1
    for (prompt, response), (cut_prompt, cut_response) in zip(prompts, cut_prompts, strict=True):
        assert cut_response == response
        request = re.search(r"(The viewer is watching : .*)?Write .* :$", prompt)
        assert cut_prompt.endswith(request.group())
        for trail, cut_trail in zip(trails(prompt), trails(cut_prompt), strict=True):
            assert trail[len(trail) - len(cut_trail) :] == cut_trail
    with pytest.raises(DataError, match=r"choose a language model that reads more"):
        AlignmentSamples(prepared, texts, run.align, run.model, context_tokens=70, seed=3)


def trails(prompt):
    """The titles of both trails, in order."""
    return [re.findall(r"caption : (\w+ v\d+)", part) for part in prompt.split("Trail B :")]


def test_longer_histories_than_the_encoder_has_positions_for_are_refused(small_world):
    run, prepared = small_world
    with pytest.raises(DataError, match=r"align\.max_history = 13"):
        samples_of(prepared, run.override(["align.max_history=13"]))


def test_texts_and_responses_are_cut_and_may_have_no_tokens(small_world):
    run, prepared = small_world
    run = run.override(["align.response_tokens=2", "align.text_tokens=1"])
    samples = samples_of(prepared, run, tokenizer=tiny_tokenizer())
    _, prompts = all_prompts(samples)
    for prompt, response in prompts:
        assert response in ("title </s>", "text </s>")
        assert not re.search(r"\b[vc]\d", prompt)

    class Deaf:
        eos_token_id = None
        all_special_ids = ()

        def __call__(self, texts, **_):
            one = isinstance(texts, str)
            return {"input_ids": [] if one else [[7] if len(t) > 11 else [] for t in texts]}

    texts = AlignmentTexts.of(prepared, run.align, Deaf())
    assert not texts.title_V.any() and not texts.comment_C.any()
    samples = AlignmentSamples(prepared, texts, run.align, run.model, context_tokens=200, seed=3)
    (batch,) = list(samples.batches(0))
    assert not len(batch.text_length_U) and not batch.title_BI.any()
    assert not len(batch.response_token_Q)


def test_joined_tokens_are_the_lists_one_after_the_other():
    table = TokenTable.build([[1, 2, 3], [], [4], [5, 6]])
    piece_BS = np.array([[1, 3, 4], [2, 0, 4]])
    token_F, length_B = table.join(piece_BS, np.array([[2, 1, 2], [0, 0, 1]]))
    assert token_F.tolist() == [1, 2, 4, 5, 6, 5]
    assert length_B.tolist() == [5, 1]


def test_texts_of_special_tokens_only_count_as_empty(small_world):
    run, prepared = small_world
    titles = list(prepared.catalogue.video_title)
    titles[1:5] = ["title v1", "</s>", "</s> </s>", "title </s>"]
    catalogue = dataclasses.replace(prepared.catalogue, video_title=TextColumn.build(titles))
    prepared = dataclasses.replace(prepared, catalogue=catalogue)
    texts = AlignmentTexts.of(prepared, run.align, tiny_tokenizer())
    assert (texts.title_V[1:5] > 0).tolist() == [True, False, False, True]


def test_special_tokens_are_found_on_both_sides():
    class Marking:
        def __call__(self, text, *, add_special_tokens):
            return {"input_ids": [1, 8, 2, 3] if add_special_tokens else [8]}

    assert special_tokens(Marking()) == ([1], [2, 3])
    assert special_tokens(tiny_tokenizer()) == ([], [])
    assert tokenize(tiny_tokenizer(), ["title v1 v2", ""], 2)[1] == []


def shown(prepared, history, hidden_BP=None, *, seed=0):
    if hidden_BP is None:
        hidden_BP = np.zeros((len(history.video_BI), 1), np.int32)
    return show_comments(
        prepared.catalogue,
        history.video_BI,
        history.comment_video_BJ,
        history.comment_BJK,
        hidden_BP,
        popular_comments=3,
        random=np.random.default_rng(seed),
    )


def test_about_fifteen_in_a_hundred_events_show_different_comments():
    run = config()
    prepared = prepared_world(1, run)
    history = prepared.timelines.latest_windows(30)
    has_two = np.diff(prepared.catalogue.comment_start_V1)[history.video_BI] > 1
    differ, differ_c = [], []
    for seed in range(200):
        prompt, encoder = shown(prepared, history, seed=seed)
        differ.append((prompt.popular_BI != encoder.popular_BI)[has_two].mean())
        is_event = history.comment_BJK[..., 0] > 0
        differ_c.append((prompt.comment_BJK != encoder.comment_BJK).any(2)[is_event].mean())
    assert abs(np.mean(differ) - 0.15) < 0.02
    assert abs(np.mean(differ_c) - 0.15) < 0.03


def test_popular_comments_stand_under_the_video_among_its_first_three():
    run = config()
    prepared = prepared_world(1, run)
    history = prepared.timelines.latest_windows(30)
    start_V1 = prepared.catalogue.comment_start_V1
    for chosen in shown(prepared, history):
        first_BI = start_V1[history.video_BI]
        count_BI = start_V1[history.video_BI + 1] - first_BI
        offset_BI = chosen.popular_BI - first_BI
        assert (chosen.popular_BI[count_BI == 0] == 0).all()
        assert ((offset_BI >= 0) & (offset_BI < np.minimum(count_BI, 3)))[count_BI > 0].all()


def test_diverse_comment_events_deal_own_and_others_out_between_the_two_readers():
    run = config()
    prepared = prepared_world(1, run)
    history = prepared.timelines.latest_windows(30)
    mixed = 0
    for seed in range(30):
        prompt, encoder = shown(prepared, history, seed=seed)
        for place in zip(*np.nonzero(history.comment_BJK[..., 0]), strict=True):
            own = {row for row in history.comment_BJK[place] if row}
            one, two = ([row for row in x.comment_BJK[place] if row] for x in (prompt, encoder))
            assert len(one) == len(two) == len(own)
            if set(one) != set(two):
                mixed += 1
                assert own <= set(one) | set(two)
                assert len(set(one) | set(two)) == 2 * len(own)
            elif len(own) == 1:
                assert set(one) == own
    assert mixed > 50


def test_where_every_comment_is_the_users_own_random_others_are_mixed_in():
    run = config("model.comments_per_event=3")
    comments = [("c1", "v1", "a"), ("c2", "v1", "b"), *((f"d{n}", "v2", "x") for n in range(5))]
    prepared = prepare(
        dataset(
            videos=[("v1", "one"), ("v2", "two")],
            comments=comments,
            video_events=[("u", "v2", START_MS), ("u", "v1", START_MS + MINUTE)],
            comment_events=[("u", "c1", START_MS), ("u", "c2", START_MS)],
        ),
        run,
    )
    history = prepared.timelines.latest_windows(4)
    seen = set()
    for seed in range(100):
        for chosen in shown(prepared, history, seed=seed):
            seen |= set(chosen.comment_BJK[chosen.comment_BJK > 0].tolist())
    assert seen == set(range(1, 8))


def test_comments_that_are_the_answer_are_never_shown():
    run = config()
    prepared = prepared_world(1, run)
    history = prepared.timelines.latest_windows(30)
    hidden_BP = np.tile(np.arange(1, 41, dtype=np.int32), (len(history.video_BI), 1))
    own = set(np.unique(history.comment_BJK).tolist())
    for seed in range(20):
        for chosen in shown(prepared, history, hidden_BP, seed=seed):
            assert not np.isin(chosen.popular_BI, hidden_BP[0]).any()
            assert not (set(np.unique(chosen.comment_BJK).tolist()) - own) & set(range(1, 41))
