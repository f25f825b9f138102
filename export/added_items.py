"""Videos and comments that came after the training, beside those that were trained on.

They have no events: what stands for them is their text, as for any item that training saw no event
of. Known videos keep their rows and their popular comment, so that what the model read of them
doesn't change; new comments come last under their video, by likes.

Shape suffixes: V video rows, C comment rows, N and M new videos and comments, H half-lives.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.trained_run import TrainedRun
from lsvcr.catalogue import NO_TIME, Catalogue, TextColumn, build_catalogue, item_hashes
from training.encoder import Recommender
from training.new_items import NewItems, NewText

ID_WEIGHT = "items.id.weight"


def add_items(run: TrainedRun, items: NewItems, text: NewText) -> TrainedRun:
    """The same trained model with a larger catalogue.

    Args:
        run: Stays as it is.
        items: None of them in the run's catalogue.
        text: Of the items, in their order.
    """
    catalogue = _grow_catalogue(run.catalogue, items)
    row_of_C = catalogue.comment_index.rows(item_hashes(list(run.catalogue.comment_id)))
    row_of_C[0] = 0
    row_of_M = catalogue.comment_index.rows(item_hashes(items.comments["comment_id"].to_list()))
    new_videos = len(items.videos)
    return replace(
        run,
        catalogue=catalogue,
        timelines=replace(run.timelines, comment_MK=row_of_C[run.timelines.comment_MK]),
        recommender=_grow_recommender(run, catalogue, row_of_C, row_of_M, text),
        training_events_V=np.pad(run.training_events_V, (0, new_videos)),
        prior_seed=None
        if run.prior_seed is None
        else replace(
            run.prior_seed,
            decayed_count_HV=np.pad(run.prior_seed.decayed_count_HV, ((0, 0), (0, new_videos))),
        ),
    )


def _grow_catalogue(known: Catalogue, items: NewItems) -> Catalogue:
    published = (None if time == NO_TIME else int(time) for time in known.published_V[1:].tolist())
    video_of_comment = [known.video_id[row] for row in known.comment_video_C[1:].tolist()]
    return build_catalogue(
        video_ids=[*known.video_id][1:] + items.videos["video_id"].to_list(),
        titles=[*known.video_title][1:] + items.videos["title"].to_list(),
        categories=_names(known.categories, known.category_V) + items.videos["category"].to_list(),
        authors=_names(known.authors, known.author_V) + items.videos["author_id"].to_list(),
        published_ms=[*published, *items.videos["published_at"].to_list()],
        comment_ids=[*known.comment_id][1:] + items.comments["comment_id"].to_list(),
        comment_texts=[*known.comment_text][1:] + items.comments["text"].to_list(),
        comment_video_ids=video_of_comment + items.comments["video_id"].to_list(),
        likes=[0] * (known.comment_count - 1 + len(items.comments)),  # the order given decides
    )


def _names(names: TextColumn, code_V: NDArray[np.int32]) -> list[str | None]:
    name_of = list(names)
    return [name_of[code] if code else None for code in code_V[1:].tolist()]


def _grow_recommender(
    run: TrainedRun,
    catalogue: Catalogue,
    row_of_C: NDArray[np.int32],
    row_of_M: NDArray[np.int32],
    text: NewText,
) -> Recommender:
    """The same weights over longer tables; a new video's id says nothing."""
    known = run.recommender
    items = known.items

    def comment_table(known_CX: Tensor, new_MX: NDArray[np.float32]) -> Tensor:
        grown_CX = torch.zeros(catalogue.comment_count, known_CX.shape[1])
        grown_CX[torch.from_numpy(row_of_C)] = known_CX
        grown_CX[torch.from_numpy(row_of_M)] = torch.from_numpy(new_MX)
        return grown_CX

    feature_CF = torch.zeros(catalogue.comment_count, 1)  # nobody reads it without a profile
    if known.profile is not None:
        feature_CF = comment_table(known.profile.feature_CF, text.feature_MF)
    grown = Recommender(
        run.config.model,
        torch.cat([items.title_VE, torch.from_numpy(text.title_NE)]),
        comment_table(items.comment_CE, text.comment_ME),
        feature_CF,
        torch.cat([items.category_V, torch.from_numpy(text.category_N)]),
    )
    weights = known.state_dict()
    new_ids = torch.zeros(len(text.title_NE), weights[ID_WEIGHT].shape[1])
    grown.load_state_dict({**weights, ID_WEIGHT: torch.cat([weights[ID_WEIGHT], new_ids])})
    return grown.eval()
