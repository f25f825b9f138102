"""What requests may contain. Unknown fields are refused; numbers and strings are never converted.

Limits that an operator may change come in as the validation's context (`Limits`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError, core_schema

from service.history_value import MAX_TIMESTAMP_MS

PlacedError = tuple[tuple[str | int, ...], str]
"""Where something is wrong, and what."""

_WORDS = {
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "extra_forbidden": "There is no such field",
    "string_pattern_mismatch": "String should have no control characters",
}


@dataclass(frozen=True)
class Limits:
    """The settings that bound a request, by their names there."""

    max_k: int
    max_batch_requests: int
    max_events: int
    max_inline_events: int
    max_excluded: int
    max_candidates: int


LIMITED_BY = "x-limited-by"
"""In a JSON schema: names the setting that bounds a value."""


@dataclass(frozen=True)
class AtMost:
    """Checks a number, or a list's length, against a limit of the context."""

    setting: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), LIMITED_BY: self.setting}

    def _check(self, value: Any, info: ValidationInfo) -> Any:
        limit = getattr(info.context, self.setting)
        if isinstance(value, int):
            if value > limit:
                raise PydanticCustomError("too_large", f"Input should be at most {limit}")
        elif len(value) > limit:
            raise PydanticCustomError("too_long", f"List should have at most {limit} items")
        return value


Identifier = Annotated[
    str,
    StringConstraints(
        strict=True, min_length=1, max_length=128, pattern=r"^[^\u0000-\u001F\u007F-\u009F]+$"
    ),
]
Timestamp = Annotated[
    int, Strict(), Field(ge=0, le=MAX_TIMESTAMP_MS, description="Unix time in milliseconds.")
]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
K = Annotated[Count, AtMost("max_k"), Field(description="How many; up to 500 by default.")]


class Body(BaseModel):
    """A JSON object of known fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class VideoEvent(Body):
    """A video of an inline history."""

    video_id: Identifier
    timestamp: Timestamp


class CommentEvent(Body):
    """A comment of an inline history."""

    comment_id: Identifier
    timestamp: Timestamp


class InlineHistory(Body):
    """Used instead of the stored history; the order doesn't matter."""

    videos: Annotated[list[VideoEvent], AtMost("max_inline_events")] = Field(default_factory=list)
    comments: Annotated[list[CommentEvent], AtMost("max_inline_events")] = Field(
        default_factory=list
    )


class VideoExclusion(Body):
    """Videos to leave out."""

    video_ids: Annotated[list[Identifier], AtMost("max_excluded")] = Field(default_factory=list)
    seen: Flag = Field(default=True, description="Leave out what is in the history.")


class CommentExclusion(Body):
    """Comments to leave out."""

    comment_ids: Annotated[list[Identifier], AtMost("max_excluded")] = Field(default_factory=list)
    seen: Flag = Field(default=False, description="Leave out what is in the history.")


class NameCondition(Body):
    """A condition on a name; an empty list is no condition."""

    any_of: list[Identifier] = Field(default_factory=list)
    none_of: list[Identifier] = Field(default_factory=list)


class Filter(Body):
    """Exact conditions on videos; never fewer answers than `k` while enough videos match."""

    categories: NameCondition = Field(default_factory=NameCondition)
    authors: NameCondition = Field(default_factory=NameCondition)
    published_after: Timestamp | None = Field(default=None, description="At or after, in ms.")
    published_before: Timestamp | None = Field(default=None, description="Before, in ms.")


class DiversityWish(Body):
    """Maximal marginal relevance and caps, after retrieval."""

    lambda_: Annotated[float, Strict()] = Field(
        default=1.0, alias="lambda", ge=0, le=1, description="1 is pure relevance."
    )
    max_per_author: Count | None = None
    max_per_category: Count | None = None


_SOMEBODY: JsonDict = {
    "anyOf": [
        {"required": ["user_id"], "properties": {"user_id": {"type": "string"}}},
        {"required": ["history"], "properties": {"history": {"type": "object"}}},
    ]
}
_CANDIDATES_UNDER_A_VIDEO: JsonDict = {
    "if": {"required": ["candidates"], "properties": {"candidates": {"type": "array"}}},
    "then": {"required": ["video_id"], "properties": {"video_id": {"type": "string"}}},
}


class RecommendBody(Body):
    """What all recommendations share."""

    model_config = ConfigDict(json_schema_extra=_SOMEBODY)

    user_id: Identifier | None = Field(
        default=None, description="Whose stored history to use, and the unit of A/B assignment."
    )
    unit_id: Identifier | None = Field(
        default=None, description="The unit of A/B assignment where that isn't the user."
    )
    k: K = 20
    history: InlineHistory | None = None
    filter: Filter | None = None
    explain: Flag = Field(default=False, description="Tell what each item rests on.")

    @model_validator(mode="after")
    def _need_somebody(self) -> Self:
        if self.user_id is None and self.history is None:
            raise PydanticCustomError("missing", "Either user_id or history is needed")
        return self


class VideosBody(RecommendBody):
    """`POST /recommend/videos`."""

    exclude: VideoExclusion | None = None
    diversity: DiversityWish | None = None


class CommentsBody(RecommendBody):
    """`POST /recommend/comments`."""

    model_config = ConfigDict(json_schema_extra={**_SOMEBODY, **_CANDIDATES_UNDER_A_VIDEO})

    video_id: Identifier | None = Field(
        default=None, description="The video on screen; without it, comments of all videos."
    )
    candidates: Annotated[list[Identifier], AtMost("max_candidates")] | None = Field(
        default=None, description="Comments under that video: rank just those."
    )
    exclude: CommentExclusion | None = None

    @model_validator(mode="after")
    def _candidates_need_a_video(self) -> Self:
        if self.candidates is not None and self.video_id is None:
            raise PydanticCustomError("missing", "candidates need a video_id")
        return self


class FeedBody(VideosBody):
    """`POST /recommend/feed`."""

    comments_per_video: Annotated[int, Strict(), Field(ge=0, le=100)] = 3


class VideosItem(VideosBody):
    """A request for videos in a batch."""

    kind: Literal["videos"]


class CommentsItem(CommentsBody):
    """A request for comments in a batch."""

    kind: Literal["comments"]


class FeedItem(FeedBody):
    """A request for a feed in a batch."""

    kind: Literal["feed"]


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry of a list that is wrong, in a list whose other entries stand."""

    errors: list[PlacedError]


def describe_errors(errors: Iterable[Mapping[str, Any]]) -> list[PlacedError]:
    """Say what is wrong and where, in words that fit JSON."""
    return [(tuple(one["loc"]), _WORDS.get(one["type"], one["msg"])) for one in errors]


def keep_refused(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate an entry of a list; a `Refused` in its place if it is wrong."""
    try:
        return validate(value)
    except ValidationError as error:
        errors = describe_errors(error.errors(include_url=False))
        return Refused([(place[place[:1] in _KIND_TAGS :], message) for place, message in errors])


_KIND_TAGS = (("videos",), ("comments",), ("feed",))
_BatchItem = Annotated[
    Annotated[VideosItem, Tag("videos")]
    | Annotated[CommentsItem, Tag("comments")]
    | Annotated[FeedItem, Tag("feed")],
    Field(discriminator="kind"),
]


class BatchBody(Body):
    """`POST /recommend/batch`; at runtime an entry that is wrong is a `Refused`."""

    requests: Annotated[
        list[Annotated[_BatchItem, WrapValidator(keep_refused)]],
        Field(min_length=1),
        AtMost("max_batch_requests"),
    ]
