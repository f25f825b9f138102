"""What the service answers. Fields that a newer service adds are passed over."""

from typing import Any

from msgspec import Struct

from lsvcr_client.experiments import Experiment, ExperimentRecord


class Because(Struct, frozen=True):
    """A history entry that a recommendation rests on, and its share in [0, 1]."""

    share: float
    video_id: str | None = None
    comment_id: str | None = None


class VideoItem(Struct, frozen=True, kw_only=True):
    """A recommended video; `parts` (their sum is the score) and `because` only with `explain`."""

    video_id: str
    rank: int
    score: float
    title: str
    parts: dict[str, float] | None = None
    because: list[Because] | None = None


class CommentItem(Struct, frozen=True, kw_only=True):
    """A recommended comment; `parts` and `because` as those of a video."""

    comment_id: str
    video_id: str
    rank: int
    score: float
    text: str
    parts: dict[str, float] | None = None
    because: list[Because] | None = None


class FeedVideoItem(VideoItem, frozen=True, kw_only=True):
    """A recommended video with its best comments."""

    comments: list[CommentItem]


class ModelInfo(Struct, frozen=True):
    """The model that answered."""

    version: str
    arm: str | None
    experiment: str | None


class HistoryUsed(Struct, frozen=True):
    """Events that reached the model."""

    videos: int
    comments: int


class Recommendation(Struct, frozen=True, kw_only=True):
    """What every recommendation tells besides its items.

    Attributes:
        recommendation_id: Send it back with the events that follow from it.
        source: `model` or `popular`.
        ignored: Unknown history items and candidates that were skipped.
        degraded: What was missing: `history_store`, `encoder`.
        timings_ms: By stage; `total` is the service's, without the network.
    """

    recommendation_id: str
    user_id: str | None
    source: str
    model: ModelInfo
    history_used: HistoryUsed
    ignored: int
    degraded: list[str]
    timings_ms: dict[str, float]


class VideosAnswer(Recommendation, frozen=True, kw_only=True):
    """Videos, best first."""

    items: list[VideoItem]


class CommentsAnswer(Recommendation, frozen=True, kw_only=True):
    """Comments, best first."""

    items: list[CommentItem]


class FeedAnswer(Recommendation, frozen=True, kw_only=True):
    """Videos with comments, best first."""

    items: list[FeedVideoItem]


class PlacedProblem(Struct, frozen=True):
    """One thing that is wrong in a request."""

    loc: list[str | int]
    msg: str


class Problem(Struct, frozen=True):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[PlacedProblem] | None = None
    reasons: list[str] | None = None


class BatchAnswer(Struct, frozen=True):
    """An answer or a problem for each request, in order."""

    results: list[VideosAnswer | CommentsAnswer | FeedAnswer | Problem]


class RejectedEvent(Struct, frozen=True):
    """An event that was not stored, by its place in the request."""

    index: int
    detail: str


class EventsAnswer(Struct, frozen=True):
    """What became of the events."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]


class HistoryVideo(Struct, frozen=True):
    """A video event of a stored history."""

    video_id: str
    type: str
    timestamp: int


class HistoryComment(Struct, frozen=True):
    """A comment event of a stored history."""

    comment_id: str
    type: str
    timestamp: int


class HistoryAnswer(Struct, frozen=True):
    """A stored history, each side oldest first."""

    user_id: str
    videos: list[HistoryVideo]
    comments: list[HistoryComment]


class ExportAnswer(Struct, frozen=True):
    """All that is stored about a user."""

    user_id: str
    history: HistoryAnswer
    views: list[HistoryComment]
    event_log: list[dict[str, Any]]
    exposures: list[dict[str, Any]]
    arms: dict[str, str]


class VideoDetails(Struct, frozen=True):
    """What the current bundle knows of a video; `published_at` in Unix milliseconds."""

    video_id: str
    title: str
    category: str | None
    author_id: str | None
    published_at: int | None


class CommentDetails(Struct, frozen=True):
    """What the current bundle knows of a comment."""

    comment_id: str
    video_id: str
    text: str


class VideoDetailsAnswer(Struct, frozen=True):
    """The known ones of the videos asked for, in that order."""

    videos: list[VideoDetails]


class CommentDetailsAnswer(Struct, frozen=True):
    """The known ones of the comments asked for, in that order."""

    comments: list[CommentDetails]


class UsersAnswer(Struct, frozen=True):
    """Users, the one of the latest event first."""

    user_ids: list[str]


class CurrentAnswer(Struct, frozen=True):
    """The version that answers now."""

    current: str


class ModelsAnswer(Struct, frozen=True):
    """The registry."""

    current: str | None
    models: list[dict[str, Any]]


class ExperimentsAnswer(Struct, frozen=True):
    """All experiments, the oldest first."""

    experiments: list[ExperimentRecord]


class AuditLine(Struct, frozen=True):
    """One change (put, stop, delete); `who` is a key's fingerprint, or `guardrail`."""

    at: int
    who: str
    action: str
    experiment: str
    before: Experiment | None
    after: Experiment | None
    why: str | None


class AuditAnswer(Struct, frozen=True):
    """Who changed an experiment, the newest change first."""

    entries: list[AuditLine]


class AssignmentLine(Struct, frozen=True):
    """What an experiment says of a unit; `arm` is None where the unit isn't in it."""

    experiment: str
    arm: str | None
    bucket: float
    reason: str


class AssignmentsAnswer(Struct, frozen=True):
    """A unit's arms in all experiments."""

    assignments: list[AssignmentLine]


class LiveAnswer(Struct, frozen=True):
    """The process runs."""

    status: str


class ReadyAnswer(Struct, frozen=True):
    """The service can answer."""

    status: str
    degraded: list[str]
    model: dict[str, Any]
