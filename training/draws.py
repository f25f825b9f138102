"""What is random in a batch's losses, but for dropout: comments shown, negatives, hidden sides.

Every process draws alike and for the whole batch, and then uses what belongs to its own part: so
a batch's loss does not depend on the number of processes.

Shape suffixes: B rows of a batch, T targets of a row, N candidates of a target, S sampled videos,
P own comments, O history positions of a pool; others as in `training.encoder`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lsvcr.catalogue import Catalogue
from lsvcr.history import NEVER
from training.batches import TrainingRows
from training.config import FitConfig
from training.encoder import HistoryTensors


@dataclass(frozen=True)
class CommentSlices:
    """Where each video's comments lie in the comment rows, most popular first.

    Attributes:
        first_V: int32, the first comment row.
        count_V: int32, how many there are.
        comments: Comment rows, padding included.
    """

    first_V: Tensor
    count_V: Tensor
    comments: int

    @classmethod
    def of(cls, catalogue: Catalogue, device: torch.device) -> "CommentSlices":
        """Copy a catalogue's comment offsets to a device."""
        start_V1 = torch.from_numpy(catalogue.comment_start_V1.copy()).to(device)
        first_V, count_V = start_V1[:-1], start_V1[1:] - start_V1[:-1]
        return cls(first_V.int(), count_V.int(), catalogue.comment_count)

    def draw(self, video: Tensor, most: int | None, generator: torch.Generator) -> Tensor:
        """One random comment row under each video, among its `most` first; 0 if it has none."""
        count = self.count_V[video]
        reach = count if most is None else count.clamp(max=most)
        draw = torch.rand(video.shape, generator=generator, device=video.device)
        row = self.first_V[video] + (draw * reach).int()
        return torch.where(count > 0, row, 0)

    def most_popular(self, video: Tensor) -> Tensor:
        """The first comment row under each video; 0 if it has none."""
        return torch.where(self.count_V[video] > 0, self.first_V[video], 0)


@dataclass(frozen=True)
class Pool:
    """Random history positions of one side, which serve one another as negatives.

    Attributes:
        video_O: The events' videos.
        shown_O: The comment shown with each, or (O, K) the user's own ones.
        is_event_O: False where the side has fewer events than the pool has room for.
    """

    video_O: Tensor
    shown_O: Tensor
    is_event_O: Tensor


@dataclass(frozen=True)
class Drawn:
    """The draws for one batch.

    Attributes:
        history: The rows' histories, the comment side of some of them hidden.
        popular_BI: The comment shown with each video event.
        negative_S: Positions among the known videos; None where all videos are negatives.
        candidate_BTN: For each comment target one of the own comments, then others; None where
            there are no such targets.
        pools: Of the video side and of the comment side; none where they weigh nothing.
    """

    history: HistoryTensors
    popular_BI: Tensor
    negative_S: Tensor | None
    candidate_BTN: Tensor | None
    pools: tuple[Pool, ...]


class Draws:
    """Draws for batch after batch, on one device.

    Args:
        slices: Comments by video.
        known_position_V: Where each video stands among the known videos.
        known_videos: How many these are.
        config: How much is drawn.
    """

    def __init__(
        self,
        slices: CommentSlices,
        known_position_V: Tensor,
        known_videos: int,
        config: FitConfig,
    ) -> None:
        self.slices, self.known_position_V, self.known_videos = (
            slices,
            known_position_V,
            known_videos,
        )
        self.config = config
        self.sampled_videos = config.sampled_videos(known_videos)

    def __call__(
        self, batch: TrainingRows, popular_comments: int, generator: torch.Generator
    ) -> Drawn:
        """Draw for a whole batch; a video event shows one of its `popular_comments` first."""
        history = _drop_comments(batch.history, self.config.drop_comment_history, generator)
        popular_BI = self.slices.draw(history.video_BI, popular_comments, generator)
        negative_S = candidate_BTN = None
        if self.sampled_videos and batch.video_target_RT.numel():
            negative_S = self.negatives(batch.video_target_RT, generator)
        if batch.comment_target_RT.numel():
            candidate_BTN = self.comments(batch.comment_target_RT, batch.own_comment_RTP, generator)
        sides = [(history.video_BI, popular_BI), (history.comment_video_BJ, history.comment_BJK)]
        pools = [self.pool(*side, generator) for side in sides if self.config.id_text_weight]
        return Drawn(history, popular_BI, negative_S, candidate_BTN, tuple(pools))

    def negatives(self, target_BT: Tensor, generator: torch.Generator) -> Tensor:
        """Half of the negatives are targets of the batch, half uniform over the known videos."""
        device, in_batch = target_BT.device, self.sampled_videos // 2
        slot_Q, is_target_Q = filled(target_BT > 0, target_BT.numel())
        draw_S = torch.rand(in_batch, generator=generator, device=device)
        drawn_S = slot_Q[(draw_S * is_target_Q.sum()).long()]
        uniform_S = torch.randint(
            self.known_videos,
            (self.sampled_videos - in_batch,),
            generator=generator,
            device=device,
        )
        return torch.cat([self.known_position_V[target_BT.flatten()[drawn_S]], uniform_S])

    def comments(self, video_BT: Tensor, own_BTP: Tensor, generator: torch.Generator) -> Tensor:
        """One of each target's own comments, and random ones under the same video.

        Where such a draw is an own one, it is replaced by one of the whole corpus.
        Departure from the paper's code: with replacement, which needs no loop over users.
        """
        own_count_BT = (own_BTP > 0).sum(2)
        draw_BT = torch.rand(own_count_BT.shape, generator=generator, device=own_BTP.device)
        own_BT1 = own_BTP.gather(2, (draw_BT * own_count_BT).long().unsqueeze(2))
        negatives = self.config.comment_negatives
        drawn_BTN = self.slices.draw(video_BT[..., None].expand(-1, -1, negatives), None, generator)
        is_own_BTN = (drawn_BTN[..., None] == own_BTP[:, :, None, :]).any(3)
        anywhere_BTN = torch.randint(
            1,
            self.slices.comments,
            drawn_BTN.shape,
            generator=generator,
            device=drawn_BTN.device,
            dtype=drawn_BTN.dtype,
        )
        return torch.cat([own_BT1, torch.where(is_own_BTN, anywhere_BTN, drawn_BTN)], 2)

    def pool(self, video_BI: Tensor, shown_BI: Tensor, generator: torch.Generator) -> Pool:
        """Choose events of all rows, none of them twice."""
        video_N = video_BI.flatten()
        draw_N = torch.rand(len(video_N), generator=generator, device=video_N.device)
        draw_N = draw_N.masked_fill(video_N == 0, 2)
        size = min(self.config.id_text_pool, len(video_N))
        draw_O, position_O = draw_N.topk(size, largest=False)
        return Pool(video_N[position_O], shown_BI.flatten(0, 1)[position_O], draw_O < 2)


def filled(is_target_BT: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """Flat positions of the targets, filled up to `slots`, and a weight of 1 for the real ones."""
    is_target_N = is_target_BT.flatten()
    number_N = is_target_N.cumsum(0) - 1
    position_N = torch.arange(len(is_target_N), device=is_target_N.device)
    slot_N = torch.where(is_target_N & (number_N < slots), number_N, slots)
    slot_Q1 = torch.zeros(slots + 1, dtype=torch.long, device=is_target_N.device)
    slot_Q1.scatter_(0, slot_N, position_N)  # the last slot collects what is no target
    weight_Q = position_N.new_ones(slots).cumsum(0) <= number_N[-1] + 1
    return slot_Q1[:slots], weight_Q


def _drop_comments(
    history: HistoryTensors, share: float, generator: torch.Generator
) -> HistoryTensors:
    """Hide the comment history of a random share of rows, as for users who never comment."""
    if not share:
        return history
    rows = len(history.comment_last_BJ)
    device = history.comment_last_BJ.device
    is_dropped_B1 = torch.rand((rows, 1), generator=generator, device=device) < share
    hidden_BJ = torch.full_like(history.comment_last_BJ, NEVER)
    hidden_BJ[:, 0] = history.comment_last_BJ[:, 0]
    last_BJ = torch.where(is_dropped_B1, hidden_BJ, history.comment_last_BJ)
    return replace(history, comment_last_BJ=last_BJ)
