"""Every operation of the service as a class: create one, and let a client send it."""

import re
from typing import Any, ClassVar, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct, field

from lsvcr_client.answers import (
    AssignmentsAnswer,
    AuditAnswer,
    BatchAnswer,
    CommentDetailsAnswer,
    CommentsAnswer,
    CurrentAnswer,
    EventsAnswer,
    ExperimentsAnswer,
    ExportAnswer,
    FeedAnswer,
    HistoryAnswer,
    LiveAnswer,
    ModelsAnswer,
    Problem,
    ReadyAnswer,
    UsersAnswer,
    VideoDetailsAnswer,
    VideosAnswer,
)
from lsvcr_client.experiments import Experiment, ExperimentRecord
from lsvcr_client.wishes import CommentExclusion, Diversity, Filter, History, VideoExclusion

AnswerT = TypeVar("AnswerT")

_FIELD_OF_PATH = re.compile(r"\{(\w+)\}")


class Request(Struct, Generic[AnswerT], frozen=True, omit_defaults=True):
    """One operation. Fields that the path doesn't name go into the body, or else the query.

    Attributes:
        answer_type: What the answer is read as; None where there is none.
        is_repeatable: Whether it may be sent again where nobody knows if it arrived.
    """

    method: ClassVar[str] = "GET"
    path: ClassVar[str]
    answer_type: ClassVar[Any]
    has_body: ClassVar[bool] = False
    is_repeatable: ClassVar[bool] = True

    def target(self) -> str:
        """Path and query, percent-encoded."""
        fields = msgspec.to_builtins(self)
        path = _FIELD_OF_PATH.sub(lambda name: quote(fields[name[1]], safe=""), self.path)
        in_path = set(_FIELD_OF_PATH.findall(self.path))
        query = {name: value for name, value in fields.items() if name not in in_path}
        return path if self.has_body or not query else f"{path}?{urlencode(query, doseq=True)}"

    def content(self) -> bytes | None:
        """The body, if there is one."""
        return msgspec.json.encode(self) if self.has_body else None

    def read(self, content: bytes) -> AnswerT:
        """Read the answer; raises msgspec.MsgspecError where it isn't one."""
        answer: AnswerT
        answer = msgspec.json.decode(content, type=self.answer_type) if content else None  # type: ignore[assignment]
        return answer


class RecommendVideos(Request[VideosAnswer], frozen=True, kw_only=True):
    """The videos to show next; needs `user_id` or `history`."""

    method = "POST"
    path = "/recommend/videos"
    answer_type = VideosAnswer
    has_body = True

    user_id: str | None = None
    unit_id: str | None = None
    k: int = 20
    history: History | None = None
    filter: Filter | None = None
    explain: bool = False
    exclude: VideoExclusion | None = None
    diversity: Diversity | None = None


class RecommendComments(Request[CommentsAnswer], frozen=True, kw_only=True):
    """The comments to show under a video, or without `video_id` the best of all videos."""

    method = "POST"
    path = "/recommend/comments"
    answer_type = CommentsAnswer
    has_body = True

    user_id: str | None = None
    unit_id: str | None = None
    k: int = 20
    history: History | None = None
    filter: Filter | None = None
    explain: bool = False
    video_id: str | None = None
    candidates: list[str] | None = None
    exclude: CommentExclusion | None = None


class RecommendFeed(Request[FeedAnswer], frozen=True, kw_only=True):
    """Videos, each with its best comments, from one pass."""

    method = "POST"
    path = "/recommend/feed"
    answer_type = FeedAnswer
    has_body = True

    user_id: str | None = None
    unit_id: str | None = None
    k: int = 20
    history: History | None = None
    filter: Filter | None = None
    explain: bool = False
    exclude: VideoExclusion | None = None
    diversity: Diversity | None = None
    comments_per_video: int = 3


class _RawBatch(Struct):
    results: list[msgspec.Raw]


class RecommendBatch(Request[BatchAnswer], frozen=True):
    """Many requests at once; one that fails has a `Problem` in its place, and the others stand."""

    method = "POST"
    path = "/recommend/batch"
    answer_type = BatchAnswer
    has_body = True

    requests: list[RecommendVideos | RecommendComments | RecommendFeed]

    def content(self) -> bytes:
        """The body: each request with its kind."""
        items = [
            {"kind": one.path.rsplit("/", 1)[1], **msgspec.to_builtins(one)}
            for one in self.requests
        ]
        return msgspec.json.encode({"requests": items})

    def read(self, content: bytes) -> BatchAnswer:
        """Read each result as what its request asked for, or as a problem."""
        raw = msgspec.json.decode(content, type=_RawBatch)
        pairs = zip(self.requests, raw.results, strict=True)
        return BatchAnswer([_read_result(request, result) for request, result in pairs])


def _read_result(
    request: RecommendVideos | RecommendComments | RecommendFeed, result: msgspec.Raw
) -> VideosAnswer | CommentsAnswer | FeedAnswer | Problem:
    try:
        return msgspec.json.decode(result, type=Problem)
    except msgspec.ValidationError:  # the fields of a problem aren't those of an answer
        return request.read(bytes(result))


class SimilarVideos(Request[VideosAnswer], frozen=True):
    """The videos nearest to one, whoever asks."""

    path = "/videos/{video_id}/similar"
    answer_type = VideosAnswer

    video_id: str
    k: int = 20


class DescribeVideos(Request[VideoDetailsAnswer], frozen=True):
    """Title, category, author and time of up to 200 videos."""

    path = "/videos"
    answer_type = VideoDetailsAnswer

    video_ids: list[str] = field(name="id")


class DescribeComments(Request[CommentDetailsAnswer], frozen=True):
    """Text and video of up to 200 comments."""

    path = "/comments"
    answer_type = CommentDetailsAnswer

    comment_ids: list[str] = field(name="id")


EventType = Literal[
    "video_watch",
    "video_like",
    "video_share",
    "comment_view",
    "comment_like",
    "comment_reply",
    "comment_write",
]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One user action on an item; `timestamp` in Unix milliseconds.

    Sending the same `event_id` of a user again changes nothing.
    """

    event_id: str
    user_id: str
    type: EventType
    timestamp: int
    video_id: str | None = None
    comment_id: str | None = None
    recommendation_id: str | None = None
    watch_time_ms: int | None = None
    value: float | None = None


class SendEvents(Request[EventsAnswer], frozen=True):
    """Store up to 1,000 events; a bad one spoils no other. `EventSender` does it in the large."""

    method = "POST"
    path = "/events"
    answer_type = EventsAnswer
    has_body = True

    events: list[Event]


class RecentUsers(Request[UsersAnswer], frozen=True):
    """Users of the newest events."""

    path = "/users"
    answer_type = UsersAnswer

    limit: int = 20


class ReadHistory(Request[HistoryAnswer], frozen=True):
    """A user's stored history."""

    path = "/users/{user_id}/history"
    answer_type = HistoryAnswer

    user_id: str


class ExportUser(Request[ExportAnswer], frozen=True):
    """All that is stored about a user."""

    path = "/users/{user_id}/export"
    answer_type = ExportAnswer

    user_id: str


class EraseUser(Request[None], frozen=True):
    """Erase all that is stored about a user."""

    method = "DELETE"
    path = "/users/{user_id}"
    answer_type = None

    user_id: str


class ListModels(Request[ModelsAnswer], frozen=True):
    """The registry's bundles."""

    path = "/admin/models"
    answer_type = ModelsAnswer


class ActivateModel(Request[CurrentAnswer], frozen=True):
    """Check, load and serve a version."""

    method = "POST"
    path = "/admin/models/{version}/activate"
    answer_type = CurrentAnswer

    version: str


class RollBackModel(Request[CurrentAnswer], frozen=True):
    """Serve the version that was current before; never sent twice, which would undo it."""

    method = "POST"
    path = "/admin/models/rollback"
    answer_type = CurrentAnswer
    is_repeatable = False


class RefreshModels(Request[CurrentAnswer], frozen=True):
    """Look at the registry now."""

    method = "POST"
    path = "/admin/models/refresh"
    answer_type = CurrentAnswer


class ListExperiments(Request[ExperimentsAnswer], frozen=True):
    """All experiments."""

    path = "/admin/experiments"
    answer_type = ExperimentsAnswer


class ReadExperiment(Request[ExperimentRecord], frozen=True):
    """One experiment."""

    path = "/admin/experiments/{name}"
    answer_type = ExperimentRecord

    name: str


class PutExperiment(Request[ExperimentRecord], frozen=True):
    """Create or replace an experiment."""

    method = "PUT"
    path = "/admin/experiments/{name}"
    answer_type = ExperimentRecord
    has_body = True

    experiment: Experiment

    def target(self) -> str:
        """The experiment's own path."""
        return ReadExperiment(self.experiment.name).target()

    def content(self) -> bytes:
        """The experiment itself."""
        return msgspec.json.encode(self.experiment)


class DeleteExperiment(Request[None], frozen=True):
    """Forget an experiment that isn't running."""

    method = "DELETE"
    path = "/admin/experiments/{name}"
    answer_type = None

    name: str


class StopExperiment(Request[ExperimentRecord], frozen=True):
    """Give everybody the control."""

    method = "POST"
    path = "/admin/experiments/{name}/stop"
    answer_type = ExperimentRecord

    name: str


class ReadAudit(Request[AuditAnswer], frozen=True):
    """Who changed an experiment."""

    path = "/admin/experiments/{name}/audit"
    answer_type = AuditAnswer

    name: str


class ReadReport(Request[dict[str, Any]], frozen=True):
    """What an experiment found so far; takes seconds, so give it time (`timeout_ms`)."""

    path = "/admin/experiments/{name}/report"
    answer_type = dict[str, Any]

    name: str
    format: Literal["json"] | None = None
    decide_by: Literal["always_valid", "fixed_horizon"] | None = None
    planned_units: int | None = None
    pre_days: float | None = None
    winsorise: float | None = None


class ReadAssignment(Request[AssignmentsAnswer], frozen=True, kw_only=True):
    """A unit's arms; asking exposes nobody."""

    path = "/experiments/assignment"
    answer_type = AssignmentsAnswer

    user_id: str | None = None
    unit_id: str | None = None


class CheckLive(Request[LiveAnswer], frozen=True):
    """Whether the process runs."""

    path = "/health/live"
    answer_type = LiveAnswer


class CheckReady(Request[ReadyAnswer], frozen=True):
    """Whether the service can answer; a ProblemError tells why not."""

    path = "/health/ready"
    answer_type = ReadyAnswer
