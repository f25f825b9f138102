"""Every request of the client against a live service."""

import asyncio
import time
from typing import Any
from uuid import uuid4

import pytest
from tiny_bundle_builder import TINY_VERSIONS

from lsvcr_client import AsyncClient, Client, ProblemError, new_event
from lsvcr_client.answers import CommentsAnswer, FeedAnswer, Problem, VideosAnswer
from lsvcr_client.experiments import Arm, Experiment, ExperimentRecord, Overrides
from lsvcr_client.requests import (
    ActivateModel,
    CheckLive,
    CheckReady,
    DeleteExperiment,
    DescribeComments,
    DescribeVideos,
    EraseUser,
    ExportUser,
    ListExperiments,
    ListModels,
    PutExperiment,
    ReadAssignment,
    ReadAudit,
    ReadExperiment,
    ReadHistory,
    ReadReport,
    RecentUsers,
    RecommendBatch,
    RecommendComments,
    RecommendFeed,
    RecommendVideos,
    RefreshModels,
    Request,
    RollBackModel,
    SendEvents,
    SimilarVideos,
    StopExperiment,
)
from lsvcr_client.wishes import (
    CommentEvent,
    Diversity,
    Filter,
    History,
    NameCondition,
    VideoEvent,
    VideoExclusion,
)

FIRST, SECOND = TINY_VERSIONS
HISTORY = History(videos=[VideoEvent("v3", 1_000)], comments=[CommentEvent("c5", 2_000)])


def test_recommendations_come_typed(live: Client) -> None:
    wished = RecommendVideos(
        history=HISTORY,
        k=5,
        explain=True,
        filter=Filter(categories=NameCondition(any_of=["k1", "k2"])),
        diversity=Diversity(lambda_=0.5, max_per_author=2),
        exclude=VideoExclusion(video_ids=["v5"], seen=False),
    )
    videos = live.send(wished)
    assert [item.rank for item in videos.items] == [1, 2, 3, 4, 5]
    assert (videos.source, videos.history_used.comments) == ("model", 1)
    first = videos.items[0]
    assert sum((first.parts or {}).values()) == pytest.approx(first.score, abs=1e-3)
    assert (first.because or [])[0].video_id == "v3"
    assert videos.timings_ms["total"] > 0

    comments = live.send(RecommendComments(history=HISTORY, video_id=first.video_id))
    assert {item.video_id for item in comments.items} <= {first.video_id}
    feed = live.send(RecommendFeed(history=HISTORY, k=2, comments_per_video=1))
    assert max(len(item.comments) for item in feed.items) == 1
    assert len(live.send(SimilarVideos("v11", k=3)).items) == 3


def test_a_batch_reads_each_result_as_what_was_asked(live: Client) -> None:
    requests = [
        RecommendVideos(history=HISTORY, k=2),
        RecommendComments(history=HISTORY, k=2),
        RecommendFeed(history=HISTORY, k=2),
        RecommendComments(history=HISTORY, video_id="none-such"),
    ]
    results = live.send(RecommendBatch(requests)).results
    kinds = [VideosAnswer, CommentsAnswer, FeedAnswer, Problem]
    assert [type(result) for result in results] == kinds
    assert isinstance(results[3], Problem) and results[3].status == 404


def test_a_users_life_from_events_to_erasure(live: Client) -> None:
    user = f"user/{uuid4()}"
    events = [
        new_event(user, "video_watch", video_id="v1", watch_time_ms=1_500),
        new_event(user, "comment_like", comment_id="c2"),
    ]
    answer = live.send(SendEvents(events))
    assert (answer.accepted, answer.duplicates, answer.rejected) == (2, 0, [])
    assert live.send(SendEvents(events)).duplicates == 2
    history = live.send(ReadHistory(user))
    assert (history.videos[0].video_id, history.comments[0].type) == ("v1", "comment_like")
    assert abs(history.videos[0].timestamp - time.time() * 1000) < 600_000
    assert user in live.send(RecentUsers(limit=100)).user_ids
    assert live.send(RecommendVideos(user_id=user)).history_used.videos == 1
    assert live.send(ExportUser(user)).event_log[0]["watch_time_ms"] == 1_500
    live.send(EraseUser(user))
    assert live.send(ReadHistory(user)).videos == []


def test_items_are_described(live: Client) -> None:
    (video,) = live.send(DescribeVideos(["v8", "none-such"])).videos
    assert (video.title, video.category, video.published_at) == ("title of v8", "k0", None)
    (comment,) = live.send(DescribeComments(["c7"])).comments
    assert comment.text == "text of c7"


def test_models_are_changed(live: Client) -> None:
    assert live.send(ListModels()).current == FIRST
    assert live.send(ActivateModel(SECOND)).current == SECOND
    assert live.send(RefreshModels()).current == SECOND
    assert live.send(RollBackModel()).current == FIRST
    assert live.send(CheckReady()).model["version"] == FIRST
    with pytest.raises(ProblemError) as raised:
        live.send(ActivateModel("none-such"))
    assert raised.value.status == 404


def test_an_experiments_life(live: Client) -> None:
    arms = [
        Arm(name="a", weight=0.5),
        Arm(name="b", weight=0.5, overrides=Overrides(diversity=Diversity(lambda_=0.3))),
    ]
    experiment = Experiment(name="client", arms=arms, control="a", status="running")
    put = live.send(PutExperiment(experiment))
    assert Experiment(**{name: getattr(put, name) for name in Experiment.__struct_fields__}) == (
        experiment
    )
    assert isinstance(live.send(ReadExperiment("client")), ExperimentRecord)
    assert [one.name for one in live.send(ListExperiments()).experiments] == ["client"]
    (assignment,) = live.send(ReadAssignment(user_id="u1")).assignments
    assert (assignment.experiment, assignment.reason) == ("client", "bucket")
    ask = RecommendVideos(user_id="u1")
    assert live.send(ask).model.arm == assignment.arm
    for arm in ("a", "b"):
        assert live.send(ask, headers={"X-Arm": arm}).model.arm == arm
    report = live.send(ReadReport("client", decide_by="fixed_horizon"), timeout_ms=60_000)
    assert (report["experiment"], report["plan"]["decide_by"]) == ("client", "fixed_horizon")
    assert live.send(StopExperiment("client")).status == "stopped"
    live.send(DeleteExperiment("client"))
    actions = [line.action for line in live.send(ReadAudit("client")).entries]
    assert actions == ["delete", "stop", "put"]


def test_what_is_wrong_is_told_by_place(live: Client) -> None:
    with pytest.raises(ProblemError, match="422") as raised:
        live.send(RecommendVideos(history=HISTORY, k=0))
    (error,) = raised.value.problem.errors or []
    assert error.loc == ["body", "k"]


def test_many_at_once_share_a_client(live_url: str) -> None:
    async def ask() -> list[VideosAnswer]:
        async with AsyncClient(live_url, timeout_ms=30_000) as client:
            assert (await client.send(CheckLive())).status == "live"
            asked = [RecommendVideos(history=HISTORY, k=number) for number in range(1, 33)]
            return await asyncio.gather(*(client.send(one) for one in asked))

    assert [len(answer.items) for answer in asyncio.run(ask())] == [*range(1, 33)]


def test_no_request_is_left_out() -> None:
    used = {name for name, kind in globals().items() if is_request(kind)}
    assert used == {kind.__name__ for kind in Request.__subclasses__()}


def is_request(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Request) and kind is not Request
