import math

import pytest
import torch
from worlds import CPU, config, prepared_world, random_recommender, rows_of

from training.batches import TargetSlots
from training.config import PRESETS, ModelConfig
from training.draws import CommentSlices
from training.encoder import Attention, Recommender, Side
from training.losses import Objective
from training.score_parts import ScoreParts

PAPER = PRESETS["paper"].model


def test_the_paper_s_sizes_give_the_paper_s_parameter_count():
    recommender = Recommender(
        PAPER, torch.zeros(10, 256), torch.zeros(20, 256), torch.zeros(20, 281)
    )
    ids_gate_and_starts = 10 * 64 + 1 + 2 * 64
    count = sum(parameter.numel() for parameter in recommender.parameters())
    assert count - ids_gate_and_starts == 373_185


def test_attention_equals_the_formula_head_by_head():
    torch.manual_seed(0)
    attention = Attention(ModelConfig(width=8, heads=2)).double().eval()
    query_BID, other_BJD = torch.randn(2, 3, 8).double(), torch.randn(2, 4, 8).double()
    may_read_BIJ = torch.rand(2, 3, 4) > 0.4
    may_read_BIJ[:, :, 0] = True
    with torch.no_grad():
        actual_BID = attention(query_BID, other_BJD, may_read_BIJ)
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            query = attention.query(query_BID)[..., part]
            key, value = attention.key(other_BJD)[..., part], attention.value(other_BJD)[..., part]
            score = (query @ key.transpose(1, 2)) / math.sqrt(4)
            weight = score.masked_fill(~may_read_BIJ, float("-inf")).softmax(-1)
            heads.append(weight @ value)
        expected_BID = attention.output(torch.cat(heads, -1))
    assert torch.allclose(actual_BID, expected_BID, atol=1e-12)


def test_deeper_layers_of_the_paper_s_encoder_attend_to_the_raw_inputs():
    torch.manual_seed(0)
    side = Side(ModelConfig(width=8, norm="post", encoder_kv="input")).double().eval()
    event_BID = torch.randn(2, 5, 8).double()
    with torch.no_grad():
        torch.nn.init.normal_(side.position_LD)
        torch.nn.init.normal_(side.start_D)
        start_B1D = side.start_D.expand(2, 1, -1)
        positioned = event_BID[:, 1:] + side.position_LD[:4]
        input_BID = side.input_norm(torch.cat([start_B1D, positioned], 1))
        causal = torch.ones(5, 5, dtype=torch.bool).tril().unsqueeze(0)
        expected = side.layers[1](side.layers[0](input_BID, input_BID, causal), input_BID, causal)
        assert torch.allclose(side.encode(event_BID), expected, atol=1e-12)


@pytest.mark.parametrize("columns", [1, 7])
def test_padding_changes_nothing(columns):
    run = config()
    prepared = prepared_world(1, run)
    recommender = random_recommender(prepared, run)
    slices = CommentSlices.of(prepared.catalogue, torch.device("cpu"))
    history = prepared.timelines.latest_windows(run.model.max_history - columns)
    results = []
    for batch in (
        history,
        history.padded(rows=len(history.video_BI), slots=run.model.max_history + 1),
    ):
        from training.batches import to_tensors
        from training.encoder import now

        tensors = to_tensors(batch, torch.device("cpu"))
        with torch.no_grad():
            states = recommender.encode(tensors, slices.most_popular(tensors.video_BI))
            cut = now(len(tensors.video_BI), 1, torch.device("cpu"))
            results.append(recommender.sequence.video_preferences(states, cut)[0])
    assert torch.allclose(*results, atol=1e-12)


def test_negatives_stand_under_the_video_and_are_never_own_comments():
    run = config("fit.comment_negatives=50")
    prepared = prepared_world(2, run)
    rows = rows_of(prepared, run, "prefix")
    draws = Objective(prepared, run.fit, ScoreParts(), CPU, TargetSlots(0, 0)).draws
    is_target = rows.comment_target_RT > 0
    video_Q, own_QP = rows.comment_target_RT[is_target], rows.own_comment_RTP[is_target]
    generator = torch.Generator().manual_seed(0)
    candidate_BTN = draws.comments(rows.comment_target_RT, rows.own_comment_RTP, generator)
    own_Q1, negative_QN = candidate_BTN[is_target].split([1, 50], 1)
    assert (own_Q1 == own_QP).any(1).all()
    comment_video_C = torch.from_numpy(prepared.catalogue.comment_video_C.copy())
    own_share_Q = (own_QP > 0).sum(1) / draws.slices.count_V[video_Q]
    is_elsewhere_QN = comment_video_C[negative_QN] != video_Q[:, None]
    assert (negative_QN > 0).all()
    # Only draws that hit an own comment are replaced by one from anywhere.
    assert (is_elsewhere_QN.float().mean(1) <= own_share_Q + 0.35).all()
    assert is_elsewhere_QN[own_share_Q == 0].sum() == 0


def test_the_contrast_of_ids_and_texts_equals_its_definition():
    run = config("fit.id_text_pool=2")
    prepared = prepared_world(2, run)
    recommender = random_recommender(prepared, run).float()
    objective = Objective(prepared, run.fit, ScoreParts(), CPU, TargetSlots(0, 0))
    # One row, two different videos, no comments: the pool is both positions of the video side.
    history = prepared.timelines.latest_windows(2)
    from training.batches import to_tensors

    tensors = to_tensors(history, torch.device("cpu"))
    row = next(
        row
        for row in range(len(tensors.video_BI))
        if len(set(tensors.video_BI[row, 1:].tolist()) - {0}) == 2
    )
    one = type(tensors)(**{name: array[row : row + 1] for name, array in vars(tensors).items()})
    one.comment_video_BJ.zero_()
    popular_BI = objective.draws.slices.most_popular(one.video_BI)
    pools = [
        objective.draws.pool(*side, torch.Generator())
        for side in ((one.video_BI, popular_BI), (one.comment_video_BJ, one.comment_BJK))
    ]
    with torch.no_grad():
        actual = objective.id_text_loss(recommender, *pools)
        items = recommender.items
        video, popular = one.video_BI[0, 1:], popular_BI[0, 1:]
        x = torch.nn.functional.normalize(items.id(video), dim=-1)
        y = torch.nn.functional.normalize(items.video_event_text(video, popular), dim=-1)
        cosine = (x @ y.T) / run.model.temperature
        terms = []
        for i, j in ((0, 1), (1, 0)):
            positive = cosine[i, i]
            terms.append(torch.log1p(torch.exp(cosine[i, j] - positive)) / 2)
            terms.append(torch.log1p(torch.exp(cosine[j, i] - positive)) / 2)
        expected = torch.stack(terms).sum() / 2
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4)


def test_videos_of_a_category_share_a_part_that_cold_ones_keep():
    run = config()
    prepared = prepared_world(3, run)
    items = random_recommender(prepared, run).items
    category_V = torch.from_numpy(prepared.catalogue.category_V).long()
    with torch.no_grad():
        items.id.weight.zero_()
        part_VD = items.video_ids(torch.arange(len(category_V)))
        one, other = (torch.nonzero(category_V == code).squeeze(1) for code in (1, 2))
    assert torch.equal(part_VD[one], (items.gate * items.category.weight[1]).expand(len(one), -1))
    assert not torch.equal(part_VD[one[0]], part_VD[other[0]])
