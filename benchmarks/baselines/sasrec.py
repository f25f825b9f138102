"""SASRec as RecTools maintains it, on our split, candidates and metrics: a baseline that is tuned.

Six configurations, each trained until validation NDCG@10 (all videos) has not risen for
`PATIENCE` looks, or for `--epochs`; the best on validation is measured on test, once.

Shape suffixes: S samples, L history, V video rows, D width.
"""

import argparse
import copy
import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import rectools
import torch
from numpy.typing import NDArray
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from training.config import PRESETS, RunConfig
from training.dataset_folder import fingerprint, load_dataset
from training.evaluate import Evaluation
from training.samples import Samples
from training.split import Prepared, prepare

LOOK_EVERY, PATIENCE = 5, 3


@dataclass(frozen=True)
class Choice:
    """What is searched over; all with full softmax, two blocks and Adam at 1e-3."""

    n_factors: int
    dropout_rate: float


SEARCH = [Choice(width, dropout) for width in (64, 128, 256) for dropout in (0.2, 0.5)]


class SasrecScorer:
    """Scores of a fitted model for an evaluation's samples."""

    def __init__(self, model: SASRecModel, samples: Samples) -> None:
        self.model, self.samples = model, samples
        length = model.session_max_len
        row_I = model.data_preparator.get_known_item_ids().astype(np.int64)
        self.row_I, extra = row_I, model.data_preparator.n_item_extra_tokens
        number_V = np.zeros(len(samples.prepared.is_core_V), np.int64)
        number_V[row_I] = np.arange(extra, extra + len(row_I))
        history_SI = samples.videos.history(samples.prepared, length).video_BI
        self.session_SL = np.zeros((len(history_SI), length), np.int64)
        for session_L, history_I in zip(self.session_SL, history_SI, strict=True):
            known = number_V[history_I[history_I > 0]]
            known = known[known > 0]
            session_L[length - len(known) :] = known

    @torch.no_grad()
    def videos(self, part: slice) -> NDArray[np.float32]:
        """(S, V); what training never saw comes last."""
        net = self.model.torch_model.eval()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net.to(device)
        item_ID = net.item_model.get_all_embeddings()
        session_SL = torch.from_numpy(self.session_SL[part]).to(device)
        state_SD = net.encode_sessions({"x": session_SL}, item_ID)[:, -1]
        extra = self.model.data_preparator.n_item_extra_tokens
        score_SI = (state_SD @ item_ID[extra:].T).float().cpu().numpy()
        score_SV = np.full(
            (len(score_SI), len(self.samples.prepared.is_core_V)), -np.inf, np.float32
        )
        score_SV[:, self.row_I] = score_SI
        return score_SV

    def comments(self, part: slice) -> NDArray[np.float32]:
        raise NotImplementedError("comments are left out of this baseline's data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=60, help="at most, of each configuration")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--configurations", type=int, default=len(SEARCH))
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    args = parser.parse_args()

    comments_out = "data.comment_event_types=[]"
    config = PRESETS["small"].override(
        [comments_out, f"model.max_history={args.history}", *args.assignments]
    )
    dataset = load_dataset(args.data)
    prepared = prepare(dataset, config)
    validation = Evaluation(prepared, config, "validation")
    interactions = Dataset.construct(training_events(prepared))
    tried, best_model = [], None
    for choice in SEARCH[: args.configurations]:
        model, result = fit(choice, interactions, validation, args)
        print(f"{choice}: {result}", flush=True)
        if not tried or result["validation"] > max(one["validation"] for one in tried):
            best_model = model
        tried.append({**asdict(choice), **result})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    test = measure(best_model, prepared, config)
    is_gpu = torch.cuda.is_available()
    content = {
        "data": fingerprint(dataset),
        "settings": {"history": args.history, "batch": args.batch, "seed": args.seed},
        "budget": {"epochs": args.epochs, "look_every": LOOK_EVERY, "patience": PATIENCE},
        "tried": tried,
        "chosen": max(tried, key=lambda one: one["validation"]),
        "test": test,
        "versions": {
            "rectools": rectools.__version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
        },
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
    }
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(test, indent=1))


def training_events(prepared: Prepared) -> pd.DataFrame:
    """Our training events in our order, which stands for the time."""
    is_training_N = prepared.video_held_out_N == 0
    order_N = prepared.timelines.video_order_N[is_training_N].astype(np.int64)
    return pd.DataFrame(
        {
            Columns.User: prepared.video_user_N[is_training_N],
            Columns.Item: prepared.timelines.video_N[is_training_N].astype(np.int64),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(order_N, unit="s"),
        }
    )


def fit(
    choice: Choice, interactions: Dataset, validation: Evaluation, args: argparse.Namespace
) -> tuple[SASRecModel, dict[str, Any]]:
    """The model at its best validation, with that figure."""
    lightning.seed_everything(args.seed)
    started_s = time.perf_counter()
    model = SASRecModel(
        **asdict(choice),
        n_blocks=2,
        n_heads=2,
        session_max_len=args.history,
        loss="softmax",
        lr=1e-3,
        batch_size=args.batch,
        epochs=args.epochs,
    )
    best, best_epoch, weights, epoch = -1.0, 0, {}, 0
    while epoch < args.epochs and epoch - best_epoch < PATIENCE * LOOK_EVERY:
        epochs = min(LOOK_EVERY, args.epochs - epoch)
        model.fit_partial(interactions, min_epochs=epochs, max_epochs=epochs)
        epoch += epochs
        metrics = validation.evaluate(SasrecScorer(model, validation.samples))
        score = metrics["video"]["full"]["ndcg@10"]
        if score > best:
            best, best_epoch = score, epoch
            weights = copy.deepcopy(model.torch_model.state_dict())
    model.torch_model.load_state_dict(weights)
    seconds = round(time.perf_counter() - started_s, 1)
    return model, {"validation": best, "best_epoch": best_epoch, "seconds": seconds}


def measure(model: SASRecModel, prepared: Prepared, config: RunConfig) -> dict[str, Any]:
    """Test figures of the model that validation chose."""
    evaluation = Evaluation(prepared, config, "test")
    return evaluation.evaluate(SasrecScorer(model, evaluation.samples))["video"]


if __name__ == "__main__":
    main()
