"""What answers contain, for the OpenAPI document; tests hold real answers against these."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.experiments.assignment import Reason
from service.experiments.definition import Experiment


class Part(BaseModel):
    """A JSON object of known fields."""

    model_config = ConfigDict(extra="forbid")


class Because(Part):
    """A history entry that a recommendation rests on."""

    video_id: str | None = None
    comment_id: str | None = None
    share: float = Field(ge=0, le=1)


class Explained(Part):
    """Only with `explain`."""

    parts: dict[str, float] | None = Field(default=None, description="Their sum is the score.")
    because: list[Because] | None = None


class VideoItem(Explained):
    """A recommended video."""

    video_id: str
    rank: int = Field(ge=1)
    score: float
    title: str


class CommentItem(Explained):
    """A recommended comment."""

    comment_id: str
    video_id: str
    rank: int = Field(ge=1)
    score: float
    text: str


class FeedVideoItem(VideoItem):
    """A recommended video with its best comments."""

    comments: list[CommentItem]


class ModelInfo(Part):
    """The model that answered."""

    version: str
    arm: str | None
    experiment: str | None


class HistoryUsed(Part):
    """Events that reached the model."""

    videos: int
    comments: int


class Recommendation(Part):
    """What every recommendation tells besides its items."""

    recommendation_id: str = Field(description="Send it back with the events that follow from it.")
    user_id: str | None
    source: Literal["model", "popular"]
    model: ModelInfo
    history_used: HistoryUsed
    ignored: int = Field(description="Unknown history items and candidates that were skipped.")
    degraded: list[str] = Field(description="What was missing: `history_store`, `encoder`.")
    timings_ms: dict[str, float]


class VideosAnswer(Recommendation):
    """Videos, best first."""

    items: list[VideoItem]


class CommentsAnswer(Recommendation):
    """Comments, best first."""

    items: list[CommentItem]


class FeedAnswer(Recommendation):
    """Videos with comments, best first."""

    items: list[FeedVideoItem]


class PlacedProblem(Part):
    """One thing that is wrong in a request."""

    loc: list[str | int]
    msg: str


class ProblemAnswer(Part):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[PlacedProblem] | None = None
    reasons: list[str] | None = None


class BatchAnswer(Part):
    """An answer or a problem for each request, in order."""

    results: list[VideosAnswer | CommentsAnswer | FeedAnswer | ProblemAnswer]


class RejectedEvent(Part):
    """An event that was not stored."""

    index: int
    detail: str


class EventsAnswer(Part):
    """What became of the events."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]


class HistoryVideo(Part):
    """A video event of a stored history."""

    video_id: str
    type: str
    timestamp: int


class HistoryComment(Part):
    """A comment event of a stored history."""

    comment_id: str
    type: str
    timestamp: int


class HistoryAnswer(Part):
    """A stored history, each side oldest first."""

    user_id: str
    videos: list[HistoryVideo]
    comments: list[HistoryComment]


class ExportAnswer(Part):
    """All that is stored about a user."""

    user_id: str
    history: HistoryAnswer
    views: list[HistoryComment] = Field(description="Comment views: kept to know them again.")
    event_log: list[dict[str, object]] = Field(description="As they were sent, oldest first.")
    exposures: list[dict[str, object]] = Field(description="What was shown, oldest first.")
    arms: dict[str, str] = Field(description="Kept in sticky experiments, by their names.")


class VideoDetails(Part):
    """What the current bundle knows of a video."""

    video_id: str
    title: str
    category: str | None
    author_id: str | None
    published_at: int | None = Field(description="Unix time in milliseconds.")


class CommentDetails(Part):
    """What the current bundle knows of a comment."""

    comment_id: str
    video_id: str
    text: str


class VideoDetailsAnswer(Part):
    """The known ones of the videos asked for, in that order."""

    videos: list[VideoDetails]


class CommentDetailsAnswer(Part):
    """The known ones of the comments asked for, in that order."""

    comments: list[CommentDetails]


class UsersAnswer(Part):
    """Users, the one of the latest event first."""

    user_ids: list[str]


class CurrentAnswer(Part):
    """The version that answers now."""

    current: str


class ModelsAnswer(Part):
    """The registry."""

    current: str | None
    models: list[dict[str, object]]


class LiveAnswer(Part):
    """The process runs."""

    status: Literal["live"]


class ReadyAnswer(Part):
    """The service can answer."""

    status: Literal["ready", "reduced"]
    degraded: list[str]
    model: dict[str, object]


class ExperimentAnswer(Experiment):
    """An experiment as it was put."""

    created_at: int = Field(description="Unix time in milliseconds, as `changed_at`.")
    changed_at: int
    in_effect: bool = Field(description="On the replica that answers, its bundles being warm.")


class ExperimentsAnswer(Part):
    """All experiments, the oldest first."""

    experiments: list[ExperimentAnswer]


class AuditLine(Part):
    """One change of an experiment."""

    at: int
    who: str = Field(description="The fingerprint of a key, or `guardrail`.")
    action: Literal["put", "stop", "delete"]
    experiment: str
    before: Experiment | None
    after: Experiment | None
    why: str | None


class AuditAnswer(Part):
    """Who changed an experiment, the newest change first."""

    entries: list[AuditLine]


class AssignmentLine(Part):
    """What an experiment says of a unit."""

    experiment: str
    arm: str | None = Field(description="null where the unit isn't in it; `reason` tells why.")
    bucket: float = Field(ge=0, lt=1)
    reason: Reason


class AssignmentsAnswer(Part):
    """A unit's arms in all experiments."""

    assignments: list[AssignmentLine]
