"""What a user watched before: found per target, and told from the rest by one number."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import CPU, config, prepared_world, random_recommender, random_text, rows_of

from training.batches import Targets
from training.repeats import is_among_all, is_among_drawn, seen_by
from training.samples import draw_samples
from training.score_parts import ScoreParts
from training.scorers import ModelScorer

CANDIDATES = 9
positions = st.lists(st.integers(0, CANDIDATES), min_size=4, max_size=4)


@given(st.lists(positions, min_size=1, max_size=5), st.lists(st.integers(0, CANDIDATES - 1)))
def test_drawn_candidates_are_seen_where_all_are(seen, drawn):
    position_QI = torch.tensor(seen)
    drawn_S = torch.tensor(drawn, dtype=torch.long)
    is_seen_QN = is_among_all(position_QI, CANDIDATES)
    for row, expected in zip(is_seen_QN.tolist(), seen, strict=True):
        assert row == [candidate in expected for candidate in range(CANDIDATES)]
    assert is_among_drawn(position_QI, drawn_S).tolist() == is_seen_QN[:, drawn_S].tolist()


def test_every_target_knows_what_its_window_holds_before_it():
    run = config()
    prepared = prepared_world(6, run)
    rows = rows_of(prepared, run, "prefix")
    slot_Q = (rows.video_target_RT > 0).flatten().nonzero().squeeze(1)
    seen_QI = seen_by(rows, slot_Q)
    timelines, again = prepared.timelines, 0
    for slot, seen_I in zip(slot_Q.tolist(), seen_QI.tolist(), strict=True):
        row = slot // rows.video_target_RT.shape[1]
        event = int(rows.video_event_RT.flatten()[slot])
        user = slice(*timelines.video_start_U1[int(rows.user_R[row]) :][:2])
        before = timelines.video_N[user.start : event].tolist()
        window = [video for video in rows.history.video_BI[row].tolist() if video]
        known = [video for video in seen_I if video]
        assert known == window[: len(known)]
        assert set(known) <= set(before)
        assert before[-1:] == known[-1:]  # the newest of all is among them
        again += int(rows.video_target_RT.flatten()[slot]) in known
    assert again  # some watch a video twice


def test_one_number_stands_between_scores_with_and_without():
    run = config("data.min_events=1")
    prepared = prepared_world(6, run)
    recommender = random_recommender(prepared, run).float()
    samples = draw_samples(prepared, run, "test")
    parts = ScoreParts.build(
        prepared, random_text(prepared), recommender, samples.videos.event_T, CPU
    )
    score_SV = []
    for cosine in (0.0, -0.3):
        with torch.no_grad():
            recommender.repeat.cosine.fill_(cosine)
        score_SV.append(ModelScorer(recommender, parts, samples).videos(slice(None)))
    is_seen_SV = samples.seen(slice(None))
    by_hand_SV = np.zeros_like(is_seen_SV)
    targets: Targets = samples.videos
    for sample, (user, event) in enumerate(zip(targets.user_T, targets.event_T, strict=True)):
        first = prepared.timelines.video_start_U1[user]
        by_hand_SV[sample, prepared.timelines.video_N[first:event]] = True
    assert (is_seen_SV == by_hand_SV).all()
    assert is_seen_SV.any()
    difference_SV = score_SV[1] - score_SV[0]
    np.testing.assert_allclose(difference_SV, is_seen_SV * -0.3 / run.model.temperature, atol=1e-4)
