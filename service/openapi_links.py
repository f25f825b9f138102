"""Which answers lead to which requests, for the OpenAPI document; `make fuzz` follows them."""

from typing import Any

_USER_SENT = "$request.body#/events/0/user_id"
_USER_LISTED = "$response.body#/user_ids/0"
_FIRST_VIDEO = "$response.body#/items/0/video_id"
_EXPERIMENT = "$request.path.name"

LINKS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "POST /recommend/videos": {
        "similar": ("GET /videos/{video_id}/similar", {"path.video_id": _FIRST_VIDEO}),
        "comments": (
            "POST /recommend/comments",
            {"body": {"user_id": "$request.body#/user_id", "video_id": _FIRST_VIDEO}},
        ),
        "details": ("GET /videos", {"query.id": _FIRST_VIDEO}),
    },
    "POST /recommend/feed": {
        "similar": ("GET /videos/{video_id}/similar", {"path.video_id": _FIRST_VIDEO}),
    },
    "POST /recommend/comments": {
        "details": ("GET /comments", {"query.id": "$response.body#/items/0/comment_id"}),
    },
    "GET /videos/{video_id}/similar": {
        "details": ("GET /videos", {"query.id": _FIRST_VIDEO}),
    },
    "POST /events": {
        "recommend": ("POST /recommend/videos", {"body": {"user_id": _USER_SENT}}),
        "feed": ("POST /recommend/feed", {"body": {"user_id": _USER_SENT}}),
        "history": ("GET /users/{user_id}/history", {"path.user_id": _USER_SENT}),
        "export": ("GET /users/{user_id}/export", {"path.user_id": _USER_SENT}),
        "erase": ("DELETE /users/{user_id}", {"path.user_id": _USER_SENT}),
        "arms": ("GET /experiments/assignment", {"query.user_id": _USER_SENT}),
    },
    "GET /users": {
        "recommend": ("POST /recommend/videos", {"body": {"user_id": _USER_LISTED}}),
        "feed": ("POST /recommend/feed", {"body": {"user_id": _USER_LISTED}}),
        "history": ("GET /users/{user_id}/history", {"path.user_id": _USER_LISTED}),
        "export": ("GET /users/{user_id}/export", {"path.user_id": _USER_LISTED}),
        "erase": ("DELETE /users/{user_id}", {"path.user_id": _USER_LISTED}),
    },
    "DELETE /users/{user_id}": {
        "history": ("GET /users/{user_id}/history", {"path.user_id": "$request.path.user_id"}),
        "export": ("GET /users/{user_id}/export", {"path.user_id": "$request.path.user_id"}),
    },
    "GET /admin/models": {
        "activate": (
            "POST /admin/models/{version}/activate",
            {"path.version": "$response.body#/models/0/version"},
        ),
        "reactivate": (
            "POST /admin/models/{version}/activate",
            {"path.version": "$response.body#/current"},
        ),
    },
    "POST /admin/models/{version}/activate": {
        "back": ("POST /admin/models/rollback", {}),
        "look": ("POST /admin/models/refresh", {}),
    },
    "GET /admin/experiments": {
        "read": (
            "GET /admin/experiments/{name}",
            {"path.name": "$response.body#/experiments/0/name"},
        ),
    },
    "PUT /admin/experiments/{name}": {
        "read": ("GET /admin/experiments/{name}", {"path.name": _EXPERIMENT}),
        "stop": ("POST /admin/experiments/{name}/stop", {"path.name": _EXPERIMENT}),
        "report": ("GET /admin/experiments/{name}/report", {"path.name": _EXPERIMENT}),
        "audit": ("GET /admin/experiments/{name}/audit", {"path.name": _EXPERIMENT}),
    },
    "POST /admin/experiments/{name}/stop": {
        "delete": ("DELETE /admin/experiments/{name}", {"path.name": _EXPERIMENT}),
        "report": ("GET /admin/experiments/{name}/report", {"path.name": _EXPERIMENT}),
    },
    "DELETE /admin/experiments/{name}": {
        "audit": ("GET /admin/experiments/{name}/audit", {"path.name": _EXPERIMENT}),
        "read": ("GET /admin/experiments/{name}", {"path.name": _EXPERIMENT}),
    },
}
"""From an operation to its links: the name of a link, the operation it leads to, and what it takes
along, by place and name."""


def add_links(document: dict[str, Any]) -> None:
    """Put the links into an OpenAPI document, at the answers that lead on."""
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    for source, links in LINKS.items():
        answers = operations[source]["responses"]
        good = next(answers[status] for status in ("200", "204") if status in answers)
        good["links"] = {
            name: _link(operations[target]["operationId"], taken)
            for name, (target, taken) in links.items()
        }


def _link(operation_id: str, taken: dict[str, Any]) -> dict[str, Any]:
    link: dict[str, Any] = {"operationId": operation_id}
    if parameters := {place: value for place, value in taken.items() if place != "body"}:
        link["parameters"] = parameters
    if "body" in taken:
        link["requestBody"] = taken["body"]
    return link
