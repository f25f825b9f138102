"""A runtime that runs out of memory, or computes nothing any more: answers go on without it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_questions import ask_comments, ask_videos, history, open_ranker
from msgspec import structs
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from tiny_bundle_builder import TINY_VERSIONS

from lsvcr.bundle import load_bundle
from lsvcr.history import HistoryBatch
from service.engine.bundle_opening import open_warm
from service.engine.candidate_index import CandidateIndex, Candidates
from service.engine.encoder_session import CpuEncoder, Encoding
from service.engine.engine import InlineEngine, LocalBundle
from service.engine.engine_client import RemoteEngine
from service.engine.engine_server import EngineServer
from service.engine.queries import Answer, FeedQuery, Query, SimilarQuery
from service.engine.ranker import Ranker
from service.errors import EngineFailedError

VERSION = TINY_VERSIONS[0]
NO_MEMORY = "Failed to allocate memory for requested buffer of size 123456789"
USERS = [history([f"v{number}"], [f"c{number}"]) for number in range(1, 9)]
Fails = Callable[[HistoryBatch], bool]


class ScarceEncoder(CpuEncoder):
    """The real one, on a device that has no memory for some batches."""

    fails: Fails = staticmethod(lambda _: False)

    def encode_run(
        self, encoding: Encoding, history: HistoryBatch, row_B: NDArray[np.int64]
    ) -> None:
        if self.fails(HistoryBatch(*(array[row_B] for array in history.arrays().values()))):
            raise RuntimeException(NO_MEMORY)
        super().encode_run(encoding, history, row_B)


class ScarceIndex(CandidateIndex):
    """The real one, on a device that has no memory for long lists."""

    most = 10**9

    def search(self, query_BD: NDArray[np.float32], counts: Sequence[int]) -> list[Candidates]:
        if max(counts, default=0) > self.most:
            raise RuntimeError("Error in faiss::gpu::StandardGpuResourcesImpl::allocMemory")
        return super().search(query_BD, counts)


class ScarceEngine(InlineEngine):
    """Opens bundles as ever; then `fails` says which batches are too much."""

    def open_bundle(self, folder: Path) -> LocalBundle:
        bundle = load_bundle(folder)
        warm, _ = open_warm(bundle, "cpu", max_batch=16)
        self.encoder = ScarceEncoder(bundle)
        entry = bundle.manifest.indexes["comment"]
        table_CD = bundle.tables["comment_candidate_CD"]
        path = bundle.folder / "index" / "comment.faiss"
        self.index = ScarceIndex.load(path, entry, table_CD)
        scarce = replace(warm, encoder=self.encoder, comment_index=self.index)
        opened = LocalBundle(scarce, wanted="cpu", cpu_reason=None)
        self._open.add(opened)
        return opened

    async def open(self, version: str) -> LocalBundle:
        return self.open_bundle(self._registry / version)


@pytest.fixture
def engine(tiny_registry: Path) -> ScarceEngine:
    return ScarceEngine(tiny_registry, device="cpu", max_batch=16)


def answer(engine: ScarceEngine, fails: Fails, queries: Sequence[Query]) -> list[Any]:
    async def main() -> list[Any]:
        ranker = Ranker(await engine.open(VERSION))
        engine.encoder.fails = fails  # type: ignore[method-assign]
        answers = await ranker.answer(queries)
        await engine.close()
        return list(answers)

    return asyncio.run(main())


def without_timings(answers: Sequence[Answer]) -> list[Answer]:
    return [structs.replace(answer, timings_ms={}) for answer in answers]


def test_a_batch_too_large_for_the_memory_is_computed_in_parts(
    engine: ScarceEngine, tiny_registry: Path
) -> None:
    queries: list[Query] = [ask_videos(user) for user in USERS]
    queries += [FeedQuery(ask_videos(USERS[0]), 2), ask_videos(None)]
    answers = answer(engine, lambda batch: len(batch.video_BI) > 2, queries)
    expected = asyncio.run(open_ranker(tiny_registry / VERSION).answer(queries))
    assert without_timings(answers) == without_timings(expected)  # type: ignore[arg-type]
    assert all(one.degraded == () for one in answers)


def test_a_history_that_always_fails_fails_alone(engine: ScarceEngine) -> None:
    poison = engine.open_bundle(engine._registry / VERSION).bundle.catalogue.video_index.row("v3")
    queries = [ask_videos(user) for user in USERS]
    answers = answer(engine, lambda batch: bool((batch.video_BI == poison).any()), queries)
    assert [one.degraded for one in answers] == [
        ("encoder",) if number == 2 else () for number in range(8)
    ]
    assert all(one.items for one in answers)


def test_an_index_that_fails_later_costs_the_model_and_no_more(engine: ScarceEngine) -> None:
    async def main() -> None:
        ranker = Ranker(await engine.open(VERSION))
        engine.index.most = 0
        of_all, under_one = await ranker.answer(
            [ask_comments(USERS[0]), ask_comments(USERS[0], video_id="v1")]
        )
        assert isinstance(of_all, Answer) and isinstance(under_one, Answer)
        assert (of_all.source, of_all.degraded) == ("popular", ("encoder",))
        assert of_all.items
        assert (under_one.source, under_one.degraded) == ("model", ())
        await engine.close()

    asyncio.run(main())


def test_what_needs_the_engine_says_that_it_failed(engine: ScarceEngine) -> None:
    async def main() -> None:
        ranker = Ranker(await engine.open(VERSION))

        def search(*_: object) -> list[Candidates]:
            raise RuntimeError("CUDA error 2 out of memory")

        ranker.opened._warm.video_index.search = search  # type: ignore[attr-defined]
        [similar] = await ranker.answer([SimilarQuery("v1", 3, float("inf"))])
        assert isinstance(similar, EngineFailedError)
        await engine.close()

    asyncio.run(main())


def test_an_engine_that_computes_nothing_says_so_until_it_does(engine: ScarceEngine) -> None:
    async def main() -> None:
        ranker = Ranker(await engine.open(VERSION))
        engine.encoder.fails = lambda _: True  # type: ignore[method-assign]
        [first] = await ranker.answer([ask_videos(USERS[0])])
        assert isinstance(first, Answer)
        assert (first.source, first.degraded) == ("popular", ("encoder",))
        async with asyncio.timeout(60):
            while engine.problem([VERSION]) is None:
                await asyncio.sleep(0.01)
            assert engine.problem([VERSION]) == "the engine fails even at the golden inputs"
            engine.encoder.fails = lambda _: False  # type: ignore[method-assign]
            while engine.problem([VERSION]) is not None:
                await asyncio.sleep(0.01)
        await engine.close()

    asyncio.run(main())


def test_an_engine_process_that_computes_nothing_wants_to_end(
    engine: ScarceEngine, tmp_path: Path
) -> None:
    async def main() -> None:
        server = EngineServer(engine)
        listening = await server.listen(tmp_path / "engine.sock")
        remote = RemoteEngine(engine._registry, tmp_path / "engine.sock")
        ranker = Ranker(await remote.open(VERSION))
        [first] = await ranker.answer([ask_videos(USERS[0])])
        assert isinstance(first, Answer)
        assert first.degraded == ()
        engine.encoder.fails = lambda _: True  # type: ignore[method-assign]
        [second] = await ranker.answer([ask_videos(USERS[0])])
        assert isinstance(second, Answer)
        assert second.degraded == ("encoder",)
        async with asyncio.timeout(60):
            await server.has_broken.wait()
        await remote.close()
        listening.close()
        await engine.close()

    asyncio.run(main())
