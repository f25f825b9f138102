"""What a request for recommendations is made of."""

from msgspec import Struct, field


class VideoEvent(Struct, frozen=True):
    """A video of a history that a request brings along; `timestamp` in Unix milliseconds."""

    video_id: str
    timestamp: int


class CommentEvent(Struct, frozen=True):
    """A comment of a history that a request brings along."""

    comment_id: str
    timestamp: int


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Used instead of the stored history; the order doesn't matter."""

    videos: list[VideoEvent] = field(default_factory=list)
    comments: list[CommentEvent] = field(default_factory=list)


class VideoExclusion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Videos to leave out; `seen` are those of the history."""

    video_ids: list[str] = field(default_factory=list)
    seen: bool = True


class CommentExclusion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Comments to leave out; `seen` are those of the history."""

    comment_ids: list[str] = field(default_factory=list)
    seen: bool = False


class NameCondition(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A condition on a name; an empty list is no condition."""

    any_of: list[str] = field(default_factory=list)
    none_of: list[str] = field(default_factory=list)


class Filter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Exact conditions on videos; times in Unix milliseconds, `published_before` exclusive."""

    categories: NameCondition = field(default_factory=NameCondition)
    authors: NameCondition = field(default_factory=NameCondition)
    published_after: int | None = None
    published_before: int | None = None


class Diversity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Maximal marginal relevance and caps; `lambda_` 1 is pure relevance."""

    lambda_: float = field(default=1.0, name="lambda")
    max_per_author: int | None = None
    max_per_category: int | None = None
