"""A few users of an evaluation as people would read them: what they did, saw and then chose.

Shape suffixes: S samples, V video rows, N candidates.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsvcr.metrics import rank_single
from training.batches import Targets
from training.samples import Samples
from training.scorers import ModelScorer

EXAMPLES_FILE = "examples.json"
LOOKED_AT = 200
"""Examples are chosen among so many users: the first samples, whose ids come in order."""
OF_A_KIND = 3
SHOWN_HISTORY, SHOWN_ITEMS = 6, 5


def write_examples(folder: Path, samples: Samples, scorer: ModelScorer) -> None:
    """Write `examples.json`: for each task the best, the middle and the worst ranked targets."""
    content = {"video": _videos(samples, scorer), "comment": _comments(samples, scorer)}
    beside = folder / f".{EXAMPLES_FILE}.partial"
    beside.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, folder / EXAMPLES_FILE)


def read_examples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The examples of an evaluated run; none where an earlier version evaluated it."""
    path = folder / EXAMPLES_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _videos(samples: Samples, scorer: ModelScorer) -> list[dict[str, Any]]:
    part = slice(0, min(LOOKED_AT, len(samples.videos.user_T)))
    if not part.stop:
        return []
    catalogue, is_core_1V = samples.prepared.catalogue, samples.prepared.is_core_V[None, :]
    score_SV = scorer.videos(part)
    rank_S = rank_single(score_SV, samples.videos.video_T[part], is_core_1V)
    history_SI = samples.videos.history(samples.prepared, SHOWN_HISTORY).video_BI[part]
    examples = []
    for kind, sample in _pick(rank_S):
        best_V = np.argsort(-np.where(is_core_1V[0], score_SV[sample], -np.inf), kind="stable")
        examples.append(
            {
                **_who(samples, samples.videos, sample),
                "kind": kind,
                "rank": int(rank_S[sample]),
                "among": int(is_core_1V.sum()),
                "history": [catalogue.video_title[row] for row in history_SI[sample] if row],
                "recommended": [catalogue.video_title[row] for row in best_V[:SHOWN_ITEMS]],
                "chosen": catalogue.video_title[samples.videos.video_T[sample]],
            }
        )
    return examples


def _comments(samples: Samples, scorer: ModelScorer) -> list[dict[str, Any]]:
    part = slice(0, min(LOOKED_AT, len(samples.comments.user_T)))
    if not part.stop:
        return []
    catalogue = samples.prepared.catalogue
    candidate_SN, is_own_SN = samples.candidate_SN[part], samples.is_own_SN[part]
    score_SN = np.where(candidate_SN > 0, scorer.comments(part), -np.inf)
    best_own_S = np.where(is_own_SN, score_SN, -np.inf).argmax(1)
    rank_S = rank_single(score_SN, best_own_S, (candidate_SN > 0) & ~is_own_SN) + 1
    history = samples.comments.history(samples.prepared, SHOWN_HISTORY)
    examples = []
    for kind, sample in _pick(rank_S):
        best_N = candidate_SN[sample][np.argsort(-score_SN[sample], kind="stable")]
        said = [int(row) for row in history.comment_BJK[part][sample][:, 0] if row]
        examples.append(
            {
                **_who(samples, samples.comments, sample),
                "kind": kind,
                "rank": int(rank_S[sample]),
                "among": int((candidate_SN[sample] > 0).sum()),
                "under": catalogue.video_title[samples.comments.video_T[sample]],
                "history": [catalogue.comment_text[row] for row in said],
                "recommended": [catalogue.comment_text[row] for row in best_N[:SHOWN_ITEMS] if row],
                "chosen": catalogue.comment_text[candidate_SN[sample][best_own_S[sample]]],
            }
        )
    return examples


def _pick(rank_S: NDArray[np.int64]) -> list[tuple[str, int]]:
    """Samples with the best, middle and worst ranks, each at most once."""
    order_S = np.argsort(rank_S, kind="stable")
    middle = max(0, len(order_S) // 2 - OF_A_KIND // 2)
    wanted = (
        ("found", order_S[:OF_A_KIND]),
        ("typical", order_S[middle : middle + OF_A_KIND]),
        ("missed", order_S[-OF_A_KIND:]),
    )
    seen: set[int] = set()
    picked = []
    for kind, some_S in wanted:
        for sample in map(int, some_S):
            if sample not in seen:
                picked.append((kind, sample))
                seen.add(sample)
    return picked


def _who(samples: Samples, targets: Targets, sample: int) -> dict[str, str]:
    return {"user_id": samples.prepared.user_ids[targets.user_T[sample]]}
