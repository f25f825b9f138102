"""What every engine must do, here or in a process of its own, and what happens when it dies."""

import asyncio
import dataclasses
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from engine_questions import ExactIndex, answer_all, ask_comments, ask_videos, history, open_ranker
from msgspec.structs import replace
from stand_in_gpu import HeadBehind, LaunchedOnCpu, SlowStream, lane_of
from tiny_bundle_builder import PRIOR, SEED_HOUR, TINY_VERSIONS, sign, write_tiny_bundle

from lsvcr.bundle import load_bundle
from lsvcr.catalogue import item_hashes
from lsvcr.errors import BundleError
from service.engine import engine_client, video_ranking
from service.engine.bundle_opening import open_warm
from service.engine.candidate_index import Kind
from service.engine.cuda_bundle import WarmCudaBundle
from service.engine.cuda_encoder import CudaEncoder
from service.engine.cuda_head import CudaHead
from service.engine.cuda_stream import Lane
from service.engine.engine import Engine, InlineEngine, LocalBundle
from service.engine.engine_client import BEAT_S, RemoteEngine
from service.engine.engine_group import EngineGroup
from service.engine.engine_messages import (
    Alive,
    Beat,
    Encode,
    Encoded,
    Found,
    Frames,
    Open,
    Opened,
    Question,
    Search,
    unpack_found,
    unpack_users,
)
from service.engine.engine_server import EngineServer, encode_together, search_together
from service.engine.first_look import CommentLook, FirstLook
from service.engine.model_pool import ModelPool
from service.engine.popularity_prior import LiveCounts
from service.engine.queries import Answer, FeedQuery, Query, SimilarQuery
from service.engine.ranker import Ranker
from service.engine.warm_bundle import EncodedUsers
from service.engine_process import EngineProcess
from service.errors import EngineLostError
from service.settings import Settings

NewEngine = Callable[[], Engine]
FIRST, SECOND = TINY_VERSIONS
SOON_S = 60.0
USER = history(["v1", "v2"], ["c5"])
QUERIES: list[Query] = [
    ask_videos(USER),
    ask_videos(history(["v9"]), 45),
    ask_videos(None),
    FeedQuery(ask_videos(history(["v3"], ["c9", "c77"])), 3),
    ask_comments(USER, video_id="v3"),
    ask_comments(USER, 30),
    SimilarQuery("v7", 5, float("inf")),
    SimilarQuery("gone", 5, float("inf")),
]


@contextmanager
def engine_process(registry: Path, *, hung_s: float = SOON_S) -> Iterator[EngineProcess]:
    settings = Settings(registry=registry, device="cpu", log_level="error", engine_hung_s=hung_s)
    with EngineProcess(settings) as process:
        yield process


def run_with_pool(
    registry: Path,
    main: Callable[[EngineProcess, ModelPool], Awaitable[None]],
    *,
    hung_s: float = SOON_S,
) -> None:
    """Run with an engine process, and a pool that has opened the current bundle there."""

    async def run(process: EngineProcess) -> None:
        engine = RemoteEngine(registry, process.socket)
        pool = ModelPool(registry, engine, max_queue=99, max_batch=8)
        await pool.open()
        await main(process, pool)
        await pool.close()
        await engine.close()

    with engine_process(registry, hung_s=hung_s) as process:
        asyncio.run(run(process))


@pytest.fixture(params=["inline", "process", "group"])
def new_engine(
    request: pytest.FixtureRequest, tiny_registry: Path
) -> Iterator[Callable[[], Engine]]:
    if request.param == "inline":
        yield lambda: InlineEngine(tiny_registry, device="cpu", max_batch=16)
        return
    if request.param == "process":
        with engine_process(tiny_registry) as process:
            yield lambda: RemoteEngine(tiny_registry, process.socket)
        return
    with engine_process(tiny_registry) as one, engine_process(tiny_registry) as two:
        sockets = (one.socket, two.socket)
        yield lambda: EngineGroup([RemoteEngine(tiny_registry, socket) for socket in sockets])


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not is_so():
            await asyncio.sleep(0.01)


def without_timings(answers: Sequence[object]) -> list[object]:
    return [
        replace(answer, timings_ms={}, batch_size=0) if isinstance(answer, Answer) else type(answer)
        for answer in answers
    ]


def test_answers_are_those_of_one_ranker_alone(new_engine: NewEngine, tiny_registry: Path) -> None:
    expected = without_timings(answer_all(open_ranker(tiny_registry / FIRST), QUERIES))

    async def main() -> None:
        engine = new_engine()
        ranker = Ranker(await engine.open(FIRST))
        assert without_timings(await ranker.answer(QUERIES)) == expected
        together = await asyncio.gather(*(ranker.answer([query]) for query in QUERIES))
        assert without_timings([answer for [answer] in together]) == expected
        assert ranker.opened.describe()["device"] == "cpu"
        assert engine.problem([FIRST]) is None
        await engine.close()

    asyncio.run(main())


def test_versions_stand_side_by_side_and_bad_ones_are_refused(
    new_engine: NewEngine, tiny_registry: Path
) -> None:
    async def main() -> None:
        engine = new_engine()
        pool = ModelPool(tiny_registry, engine, max_queue=99, max_batch=8)
        await pool.open()
        old = pool.current()
        await pool.activate(SECOND)
        first, second = await asyncio.gather(
            old.recommend_videos(ask_videos(USER)),
            pool.current().recommend_videos(ask_videos(USER)),
        )
        assert (first.model_version, second.model_version) == (FIRST, SECOND)
        assert first.items != second.items

        path = tiny_registry / FIRST / "golden" / "video_preference_BD.npy"
        del old
        gc.collect()
        np.save(path, -np.load(path))
        sign(tiny_registry / FIRST)
        with pytest.raises(BundleError, match="golden video_preference"):
            await pool.activate(FIRST)
        assert pool.readiness() == []
        await pool.close()
        await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize("is_read_there", [True, False])
def test_what_is_launched_is_answered_as_if_it_were_not_and_a_stuck_gpu_shows(
    tiny_registry: Path, is_read_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """How a GPU is used; here it is the CPU."""
    expected = without_timings(answer_all(open_ranker(tiny_registry / FIRST), QUERIES))
    # Encoded in parts of two, of which only the first wants comments, and nobody wants states.
    mixed = [ask_comments(USER, 30), ask_comments(USER, video_id="v3"), ask_videos(USER)]
    mixed_alone = without_timings(answer_all(open_ranker(tiny_registry / FIRST), mixed))
    bundle = load_bundle(tiny_registry / FIRST)
    warm, _ = open_warm(bundle, "cpu", max_batch=16)
    streams = SlowStream(), SlowStream()
    lanes: dict[Kind, Lane] = {"video": lane_of(streams[0]), "comment": lane_of(streams[1])}
    encoder = cast(CudaEncoder, LaunchedOnCpu(bundle))
    head_there = cast(CudaHead, HeadBehind(bundle)) if is_read_there else None
    parts = encoder, warm.head, warm.video_index, warm.comment_index

    async def main() -> None:
        on_gpu = WarmCudaBundle(bundle, *parts, lanes=lanes, head_there=head_there)
        opened = LocalBundle(on_gpu, wanted="cuda", cpu_reason=None)
        ranker = Ranker(opened)
        together = await asyncio.gather(*(ranker.answer([query]) for query in QUERIES))
        assert without_timings([answer for [answer] in together]) == expected
        assert without_timings(await ranker.answer(QUERIES)) == expected
        assert without_timings(await ranker.answer(mixed)) == mixed_alone
        assert "failed" not in caplog.text, "else it was done again in halves"
        await opened.reach()
        for stream in streams:
            stream.done.clear()
            reaching = asyncio.create_task(opened.reach())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not reaching.done()
            stream.done.set()
            await reaching

    asyncio.run(main())


def test_questions_joined_by_the_engine_are_answered_as_if_alone(tiny_registry: Path) -> None:
    ranker = open_ranker(tiny_registry / FIRST)
    arrays = list(ranker.bundle.golden.history.arrays().values())

    def ask(rows: slice, slots: int, look: FirstLook) -> Encode:
        part = type(ranker.bundle.golden.history)(*(array[rows, :slots] for array in arrays))
        return Encode(1, FIRST, float("inf"), look, part.packed())

    def about_comments(users: list[int], counts: list[int]) -> CommentLook:
        rng, width = np.random.default_rng(len(users)), ranker.bundle.manifest.width
        target_AX = rng.standard_normal((len(users), width + 1), np.float32)
        return CommentLook(users, target_AX, counts, target_AX[:, :0])

    slots = arrays[0].shape[1]
    fewer, nobody = slots - 1, [0.0] * 3
    questions = [
        ask(slice(0, 2), fewer, FirstLook([5, 9], nobody[:2], with_states=True)),
        ask(slice(2, 3), slots, FirstLook([7], nobody[:1])),
        ask(slice(0, 3), slots, FirstLook([0] * 3, nobody, False, about_comments([2], [0]))),
        ask(slice(1, 3), fewer, FirstLook([3, 0], [0, 0], False, about_comments([0, 1], [4, 6]))),
    ]

    def unpacked(question: Encode, reply: Encoded | Exception) -> EncodedUsers:
        assert isinstance(reply, Encoded)
        width, slots = ranker.bundle.manifest.width, question.history_BSF.shape[1]
        sizes = ranker.opened.sizes
        return unpack_users(reply, question.look, width=width, slots=slots, sizes=sizes)

    async def main() -> None:
        together = await encode_together(ranker.opened, questions)
        alone = [(await encode_together(ranker.opened, [question]))[0] for question in questions]
        for question, *replies in zip(questions, together, alone, strict=True):
            one, other = (unpacked(question, reply) for reply in replies)
            for array, expected in zip(
                dataclasses.astuple(one.encoding), dataclasses.astuple(other.encoding), strict=True
            ):
                np.testing.assert_allclose(array, expected, atol=1e-6)
            for found, wanted in zip(one.candidates, other.candidates, strict=True):
                assert found.row_N.tolist() == wanted.row_N.tolist()
            assert (one.comments is None) == (question.look.comments is None)
            if one.comments is None or other.comments is None:
                continue
            for array, expected in (
                (one.comments.preference_AD, other.comments.preference_AD),
                (one.comments.share_AJ, other.comments.share_AJ),
            ):
                np.testing.assert_allclose(array, expected, atol=1e-6)
            comments = zip(one.comments.candidates, other.comments.candidates, strict=True)
            for found, wanted in comments:
                assert found.row_N.tolist() == wanted.row_N.tolist()

    asyncio.run(main())


def test_an_engine_that_dies_is_replaced_and_meanwhile_popularity_answers(
    tiny_registry: Path,
) -> None:
    async def main(process: EngineProcess, pool: ModelPool) -> None:
        assert (await pool.current().recommend_videos(ask_videos(USER))).source == "model"
        killed = process.pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda: pool.readiness() != [])
        answer = await pool.current().recommend_videos(ask_videos(USER))
        assert (answer.source, answer.degraded) == ("popular", ("encoder",))
        with pytest.raises(EngineLostError):
            await pool.current().similar_videos("v1", 3)
        await until(lambda: pool.readiness() == [])
        assert process.pid != killed
        answer = await pool.current().recommend_videos(ask_videos(USER))
        assert (answer.source, answer.degraded) == ("model", ())

    run_with_pool(tiny_registry, main)


def test_a_new_engine_that_refuses_what_the_last_one_had_is_asked_again(
    tiny_registry: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU whose memory somebody else has for a while."""
    away = tmp_path / "away"

    async def main(process: EngineProcess, pool: ModelPool) -> None:
        (tiny_registry / FIRST).rename(away)
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: caplog.text.count(f"the new engine refuses {FIRST}") >= 2)
        assert pool.readiness() == ["the engine process ended; another one is starting"]
        away.rename(tiny_registry / FIRST)
        await until(lambda: pool.readiness() == [])
        answer = await pool.current().recommend_videos(ask_videos(USER))
        assert (answer.source, answer.degraded) == ("model", ())

    run_with_pool(tiny_registry, main)


def test_what_a_new_engine_refuses_matters_only_while_it_is_wanted(tiny_registry: Path) -> None:
    async def main(process: EngineProcess, pool: ModelPool) -> None:
        under_way = pool.current()  # a request, or a traceback, may hold a bundle for long
        (tiny_registry / FIRST / "manifest.json").unlink()
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: pool.readiness() != [])
        await pool.activate(SECOND)
        assert pool.readiness() == []
        answer = await pool.current().recommend_videos(ask_videos(USER))
        assert (answer.source, answer.model_version) == ("model", SECOND)
        with pytest.raises(EngineLostError):
            await under_way.similar_videos("v1", 3)

    run_with_pool(tiny_registry, main)


def test_what_is_under_way_when_the_engine_dies_is_answered(tiny_registry: Path) -> None:
    async def main(process: EngineProcess, pool: ModelPool) -> None:
        os.kill(process.pid, signal.SIGSTOP)  # it takes questions, and answers none
        asked = [
            asyncio.create_task(pool.current().recommend_videos(ask_videos(USER))) for _ in "abc"
        ]
        await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGKILL)
        for answer in await asyncio.gather(*asked):
            assert answer.degraded == ("encoder",)

    run_with_pool(tiny_registry, main)


def test_an_engine_that_hangs_costs_answers_their_model_and_no_more(tiny_registry: Path) -> None:
    async def main(process: EngineProcess, pool: ModelPool) -> None:
        os.kill(process.pid, signal.SIGSTOP)
        asked = (pool.current().recommend_videos(ask_videos(USER)) for _ in range(40))
        for answer in await asyncio.gather(*asked):
            assert (answer.source, answer.degraded) == ("popular", ("encoder",))
        assert pool.readiness() == ["the engine process does not answer"]
        os.kill(process.pid, signal.SIGCONT)
        await until(lambda: pool.readiness() == [])
        answer = await pool.current().recommend_videos(ask_videos(USER))
        assert (answer.source, answer.degraded) == ("model", ())

    run_with_pool(tiny_registry, main)


def test_an_engine_that_hangs_for_good_is_replaced(tiny_registry: Path) -> None:
    async def main(process: EngineProcess, pool: ModelPool) -> None:
        hung = process.pid
        os.kill(hung, signal.SIGSTOP)
        await until(lambda: process.pid != hung and pool.readiness() == [])
        answer = await pool.current().recommend_videos(ask_videos(USER))
        assert (answer.source, answer.degraded) == ("model", ())

    run_with_pool(tiny_registry, main, hung_s=0.5)


@contextmanager
def engine_pair(
    registry: Path, *, beat_s: float = BEAT_S
) -> Iterator[tuple[list[EngineProcess], NewEngine]]:
    with engine_process(registry) as one, engine_process(registry) as two:
        pair = [one, two]
        sockets = [each.socket for each in pair]
        yield (
            pair,
            lambda: EngineGroup([RemoteEngine(registry, one, beat_s=beat_s) for one in sockets]),
        )


def test_an_engine_of_two_that_dies_leaves_the_other_answering(tiny_registry: Path) -> None:
    async def main(pair: list[EngineProcess], engine: Engine) -> None:
        pool = ModelPool(tiny_registry, engine, max_queue=99, max_batch=1)
        await pool.open()
        await until(lambda: pool.current().status()["engines"] == 2)
        assert pool.lost() == []
        killed = pair[0].pid
        os.kill(killed, signal.SIGSTOP)  # it takes questions, and answers none
        asked = [
            asyncio.create_task(pool.current().recommend_videos(ask_videos(USER))) for _ in range(8)
        ]
        await until(lambda: sum(task.done() for task in asked) >= 4)
        os.kill(killed, signal.SIGKILL)
        for answer in await asyncio.gather(*asked):
            assert (answer.source, answer.degraded) == ("model", ())
        await until(lambda: pool.lost() == ["engine 0"])
        assert pool.readiness() == []
        for _ in range(3):
            answer = await pool.current().recommend_videos(ask_videos(USER))
            assert (answer.source, answer.degraded) == ("model", ())
        await until(lambda: pool.lost() == [] and pool.current().status()["engines"] == 2)
        assert pair[0].pid != killed
        await pool.close()
        await engine.close()

    with engine_pair(tiny_registry) as (pair, new_pair):
        asyncio.run(main(pair, new_pair()))


def test_a_question_that_a_living_engine_never_answers_is_given_up(
    tiny_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "MOST_WAIT_S", 0.3)

    def receive(frames: Frames, question: Question) -> None:
        if isinstance(question, Open):
            sizes: dict[Kind, tuple[int, int, bool]] = {"video": (5, 5, False)}
            frames.send(Opened(question.number, sizes, {}))
        elif isinstance(question, Beat):
            frames.send(Alive(question.number))

    async def main() -> None:
        loop, socket = asyncio.get_running_loop(), tmp_path / "engine"
        server = await loop.create_unix_server(
            lambda: Frames(Question, receive, lambda _: None), str(socket)
        )
        engine = RemoteEngine(tiny_registry, socket, beat_s=0.02)
        opened = await engine.open(FIRST)
        with pytest.raises(EngineLostError):
            await opened.search("video", np.ones((1, 4), np.float32), [1])
        assert engine.problem([FIRST]) is None
        await engine.close()
        server.close()

    asyncio.run(main())


def test_searches_joined_by_the_engine_find_what_each_finds(tiny_registry: Path) -> None:
    """Also where one query has parts behind its vector and another one has none."""
    warm, _ = open_warm(load_bundle(tiny_registry / FIRST), "cpu", max_batch=4)
    candidate_CD = warm.bundle.tables["comment_candidate_CD"]
    random = np.random.default_rng(3)
    parts_CF = random.standard_normal((len(candidate_CD), 3)).astype(np.float32)
    warm = dataclasses.replace(warm, comment_index=ExactIndex(candidate_CD, parts_CF))
    opened = LocalBundle(warm, wanted="cpu", cpu_reason=None)
    query_BX = random.standard_normal((6, candidate_CD.shape[1] + 3)).astype(np.float32)
    plain_BD = query_BX[:2, : candidate_CD.shape[1]]
    questions = [
        Search(1, FIRST, "comment", [3], query_BX[:1]),
        Search(2, FIRST, "comment", [7, 2], plain_BD),
        Search(3, FIRST, "comment", [1, 0, 9, 4, 5], query_BX[1:]),
    ]

    async def main() -> None:
        together = await search_together(opened, questions)
        for one, question in zip(together, questions, strict=True):
            assert isinstance(one, Found)
            whole = one.found_BX, one.error, one.with_parts
            found = unpack_found(*whole, question.counts, opened.sizes["comment"].rows)
            alone = await opened.search("comment", question.query_BD, question.counts)
            for candidates, expected in zip(found, alone, strict=True):
                assert candidates.row_N.tolist() == expected.row_N.tolist()
                np.testing.assert_allclose(candidates.part_N, expected.part_N, atol=1e-5)

    asyncio.run(main())


class WholeEngine(InlineEngine):
    """As on a GPU: candidates come by the whole score."""

    def __init__(self, registry: Path) -> None:
        super().__init__(registry, device="cpu", max_batch=16)
        self.indexes: list[ExactIndex] = []

    async def open(self, version: str) -> LocalBundle:
        warm, _ = open_warm(load_bundle(self._registry / version), "cpu", max_batch=16)
        index = ExactIndex(warm.bundle.tables["video_candidate_VD"])
        self.indexes.append(index)
        warm = dataclasses.replace(warm, video_index=index)
        return LocalBundle(warm, wanted="cpu", cpu_reason=None)


def test_an_engine_chooses_by_the_prior_that_one_of_all_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here and over a socket; before, and after another engine has come, the popular help out."""
    monkeypatch.setattr(video_ranking, "SCAN_AT_ONCE_BELOW", 0)
    write_tiny_bundle(tmp_path / FIRST, version=FIRST, prior=PRIOR)
    users = [history([f"v{row}", f"v{row + 1}"]) for row in range(1, 9)]
    queries: list[Query] = [
        ask_videos(user, 7, popularity_weight=[1.0, 0.5, 0.0][number % 3])
        for number, user in enumerate(users)
    ]
    hour = SEED_HOUR + 2
    counts = LiveCounts(hour, {hour - 1: (item_hashes(["v33"]), np.array([10**6]))})

    def expected() -> list[object]:
        ranker = open_ranker(tmp_path / FIRST)
        ranker.update_popularity(counts)
        return without_timings(answer_all(ranker, queries))

    async def main() -> None:
        socket, engine = tmp_path / "socket", WholeEngine(tmp_path)
        rankers, remotes = [Ranker(await engine.open(FIRST))], []
        server = EngineServer(engine)
        async with await server.listen(socket):
            for _ in range(2):
                remotes.append(EngineGroup([RemoteEngine(tmp_path, socket)]))
                rankers.append(Ranker(await remotes[-1].open(FIRST)))
            assert all(ranker.opened.sizes["video"].takes_parts for ranker in rankers)
            here, there = engine.indexes
            for ranker in rankers:
                ranker.update_popularity(counts)
                assert without_timings(await ranker.answer(queries)) == expected_answers
            assert here.parts_VF is None and there.parts_VF is None
            for ranker in rankers:
                await ranker.share_popularity()
                assert without_timings(await ranker.answer(queries)) == expected_answers
            assert here.parts_VF is not None and there.parts_VF is not None
            told_VF = there.parts_VF
            np.testing.assert_array_equal(told_VF[1:], here.parts_VF[1:])
            await rankers[1].share_popularity()
            assert there.parts_VF is told_VF  # it was asked, not told again

            there.parts_VF = None  # as in an engine that is new
            server._served[FIRST].result().prior_digest = b""
            for _ in range(2):  # the first answer shows it
                assert without_timings(await rankers[1].answer(queries)) == expected_answers
                await until(lambda: there.parts_VF is not None)
            rankers[2].update_popularity(LiveCounts(hour + 1, counts.by_hour))
            await rankers[2].share_popularity()
            assert not np.array_equal(there.parts_VF, told_VF)
            for remote in remotes:
                await remote.close()

    expected_answers = expected()
    asyncio.run(main())


def test_the_less_busy_engine_is_asked(tiny_registry: Path) -> None:
    async def main(pair: list[EngineProcess], engine: Engine) -> None:
        opened = await engine.open(FIRST)
        await until(lambda: opened.describe()["engines"] == 2)
        content_BSF = opened.bundle.golden.history.packed()
        counts = [1] * len(content_BSF)

        async def ask() -> None:
            nobody = [0.0] * len(counts)
            await opened.encode(content_BSF, FirstLook(counts, nobody), until_s=float("inf"))

        os.kill(pair[1].pid, signal.SIGSTOP)
        stuck: list[asyncio.Task[None]] = []
        for _ in range(9):
            task = asyncio.create_task(ask())
            done, _ = await asyncio.wait([task], timeout=0.5)
            if not done:
                stuck.append(task)
        assert len(stuck) == 1, "one question waits there, and no further one goes to it"
        os.kill(pair[1].pid, signal.SIGCONT)
        await asyncio.gather(*stuck)
        await engine.close()

    # It isn't to count as lost while it is stopped.
    with engine_pair(tiny_registry, beat_s=SOON_S) as (pair, new_pair):
        asyncio.run(main(pair, new_pair()))


def test_a_group_opens_what_one_engine_has_while_another_is_not_there(
    tiny_registry: Path, tmp_path: Path
) -> None:
    async def main(process: EngineProcess) -> None:
        absent = RemoteEngine(tiny_registry, tmp_path / "nobody.sock")
        engine = EngineGroup([absent, RemoteEngine(tiny_registry, process.socket)])
        pool = ModelPool(tiny_registry, engine, max_queue=99, max_batch=8)
        await pool.open()
        assert (pool.readiness(), pool.lost()) == ([], ["engine 0"])
        assert pool.current().status()["engines"] == 1
        assert (await pool.current().recommend_videos(ask_videos(USER))).source == "model"
        await pool.close()
        await engine.close()

    with engine_process(tiny_registry) as process:
        asyncio.run(main(process))


def test_the_engine_ends_with_whoever_started_it(tiny_registry: Path) -> None:
    with engine_process(tiny_registry) as process:
        pid = process.pid
        socket = process.socket
        end_s = time.monotonic() + SOON_S
        while not socket.exists() and time.monotonic() < end_s:
            time.sleep(0.01)
        assert socket.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
