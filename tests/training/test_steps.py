"""What the steps of a run say when something is in the way."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from worlds import config, random_dataset

from lsvcr.errors import DataError
from training.split import prepare
from training.steps import MEMORY_SETTINGS, hint_at_memory, switched_off


@pytest.mark.parametrize("step", MEMORY_SETTINGS)
def test_used_up_memory_names_the_settings_to_lower(step):
    run = config("align.batch_samples=7", "text.batch_tokens=99", "fit.batch_rows=5")
    with pytest.raises(DataError) as caught, hint_at_memory(step, run):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    expected = {
        "align": "lower align.batch_samples (now 7), align.prompt_tokens (now 192), "
        "align.text_tokens (now 16); or set align.recompute_activations=true",
        "embed": "lower text.batch_tokens (now 99), text.max_tokens (now 128)",
        "fit": "lower fit.batch_rows (now 5), fit.video_negatives (now null), "
        "model.max_history (now 12)",
    }
    assert str(caught.value).endswith(expected[step])


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), hint_at_memory("fit", config()):
        raise RuntimeError("shapes do not fit")


def test_what_the_data_cannot_give_is_said():
    with_prior = config("model.prior_half_lives_days=[7]")
    data = random_dataset(1)
    hours = [frame.with_columns(pl.col("timestamp") % 60_000 + 1_700_000_000_000) for frame in
             (data.video_events, data.comment_events)]  # fmt: skip
    same_hour = replace(data, video_events=hours[0], comment_events=hours[1])
    silent = replace(data, comments=data.comments[:0], comment_events=data.comment_events[:0])

    def said(dataset, run=with_prior):
        return [line.partition(":")[0] for line in switched_off(prepare(dataset, run), run)]

    assert said(data) == []
    assert said(silent) == ["no comment events to learn from"]
    assert said(replace(data, time_unit="position")) == ["timestamps are positions, no times"]
    assert said(same_hour) == ["all events lie within an hour"]
    assert said(same_hour, config("model.prior_half_lives_days=[]")) == []


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("fit.epoch=3", "no setting 'fit.epoch'; known are align.accumulate"),
        ("fit.epochs", "must be SECTION.KEY=VALUE"),
        ("fit.epochs=0", "fit.epochs = 0: Input should be greater"),
        ("fit.epochs=many", "fit.epochs = 'many': Input should be a valid integer"),
        ("model.heads=3", "model: Value error, width 16 is no multiple of heads 3"),
        ("model.prior_half_lives_days=[0]", "model.prior_half_lives_days.0 = 0: Input"),
        ('data.video_event_types=["seen"]', "data.video_event_types.0 = 'seen': Input should be"),
    ],
)
def test_a_setting_that_cannot_be_is_named(assignment, message):
    with pytest.raises(DataError) as caught:
        config(assignment)
    assert message in str(caught.value)
