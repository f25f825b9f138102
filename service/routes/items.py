"""What the current bundle knows of items, for whoever has only their ids, as histories do."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from lsvcr.catalogue import NO_TIME, Catalogue, item_hashes
from service.answer_schemas import CommentDetailsAnswer, VideoDetailsAnswer
from service.routes.recommendation_answers import encode_json
from service.schemas import Identifier

router = APIRouter(tags=["items"])

MAX_IDS = 200
Ids = Annotated[list[Identifier], Query(alias="id", min_length=1, max_length=MAX_IDS)]


@router.get("/videos", responses={200: {"model": VideoDetailsAnswer}})
async def describe_videos(request: Request, ids: Ids) -> Response:
    """Title, category, author and time of videos; those that aren't known are left out."""
    catalogue: Catalogue = request.app.state.models.current().catalogue
    rows = catalogue.video_index.rows(item_hashes(ids))
    return _json({"videos": [_video(catalogue, row) for row in rows.tolist() if row]})


@router.get("/comments", responses={200: {"model": CommentDetailsAnswer}})
async def describe_comments(request: Request, ids: Ids) -> Response:
    """Text and video of comments; those that aren't known are left out."""
    catalogue: Catalogue = request.app.state.models.current().catalogue
    rows = catalogue.comment_index.rows(item_hashes(ids))
    return _json({"comments": [_comment(catalogue, row) for row in rows.tolist() if row]})


def _video(catalogue: Catalogue, row: int) -> dict[str, object]:
    published_ms = int(catalogue.published_V[row])
    return {
        "video_id": catalogue.video_id[row],
        "title": catalogue.video_title[row],
        "category": catalogue.categories[catalogue.category_V[row]] or None,
        "author_id": catalogue.authors[catalogue.author_V[row]] or None,
        "published_at": None if published_ms == NO_TIME else published_ms,
    }


def _comment(catalogue: Catalogue, row: int) -> dict[str, object]:
    return {
        "comment_id": catalogue.comment_id[row],
        "video_id": catalogue.video_id[catalogue.comment_video_C[row]],
        "text": catalogue.comment_text[row],
    }


def _json(content: object) -> Response:
    return Response(encode_json(content), media_type="application/json")
