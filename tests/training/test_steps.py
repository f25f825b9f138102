"""What the steps of a run say when something is in the way."""

import pytest
import torch
from worlds import config

from lsvcr.errors import DataError
from training.steps import MEMORY_SETTINGS, hint_at_memory


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
