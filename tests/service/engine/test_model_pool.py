import asyncio
import gc
import json
import math
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from engine_questions import ask_comments, ask_videos, history
from tiny_bundle_builder import TINY_VERSIONS, sign, write_index, write_tiny_bundle

from lsvcr.errors import BundleError
from lsvcr.registry import read_current, write_current
from service.engine.engine import InlineEngine
from service.engine.model_pool import ModelPool
from service.engine.queries import FeedQuery
from service.engine.recommender import Recommender
from service.errors import (
    DeadlineExceededError,
    NotReadyError,
    UnknownModelError,
    UnknownVideoError,
)

FIRST, SECOND = TINY_VERSIONS
USER = history(["v1", "v2"], ["c5"])


async def load(folder: Path) -> Recommender:
    engine = InlineEngine(folder.parent, device="cpu", max_batch=4)
    return await Recommender.load(engine, folder, max_queue=9, max_batch=4)


def new_pool(registry: Path, device: str = "cpu", only: str | None = None) -> ModelPool:
    engine = InlineEngine(registry, device=device, max_batch=8)  # type: ignore[arg-type]
    return ModelPool(registry, engine, max_queue=1000, max_batch=8, only=only)


def test_activation_and_rollback_change_who_answers_and_the_registry(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        assert pool.readiness() == []
        assert pool.current().version == FIRST
        await pool.activate(SECOND)
        answer = await pool.current().recommend_videos(ask_videos(USER))
        assert answer.model_version == SECOND
        assert read_current(tiny_registry).version == SECOND  # type: ignore[union-attr]
        assert await pool.rollback() == FIRST
        assert pool.current().version == FIRST
        assert read_current(tiny_registry).previous == SECOND  # type: ignore[union-attr]
        assert pool.get(FIRST) is pool.current()
        with pytest.raises(UnknownModelError):
            pool.get(SECOND)
        await pool.close()
        with pytest.raises(NotReadyError):
            pool.current()

    asyncio.run(main())


def test_refresh_follows_the_registry(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        before = pool.current()
        assert await pool.refresh() == FIRST
        assert pool.current() is before
        write_current(tiny_registry, SECOND)
        assert await pool.refresh() == SECOND
        assert pool.current().version == SECOND
        await pool.close()

    asyncio.run(main())


def test_versions_that_are_kept_answer_beside_the_current_one(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        await pool.keep([SECOND])
        second = pool.get(SECOND)
        assert (await second.recommend_videos(ask_videos(USER))).model_version == SECOND
        assert pool.current().version == FIRST
        assert [entry["loaded"] for entry in pool.listing()] == [True, True]
        await pool.keep([FIRST, SECOND])
        assert pool.get(SECOND) is second  # nothing is loaded twice
        await pool.activate(SECOND)
        assert pool.current() is second
        assert pool.has(FIRST)  # still kept, though no longer current
        with pytest.raises(UnknownModelError, match="gone"):
            await pool.keep(["gone", FIRST])
        assert pool.has(FIRST)
        await pool.keep([])
        assert not pool.has(FIRST)
        await pool.close()
        with pytest.raises(UnknownModelError):
            pool.get(SECOND)

    asyncio.run(main())


def test_a_deployment_of_one_version_serves_it_whatever_is_current(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry, only=SECOND)
        await pool.open()
        assert pool.current().version == SECOND
        assert [entry["current"] for entry in pool.listing()] == [False, True]
        with pytest.raises(BundleError, match="alone"):
            await pool.activate(FIRST)
        assert await pool.refresh() == SECOND
        assert read_current(tiny_registry).version == FIRST  # type: ignore[union-attr]
        await pool.close()

    asyncio.run(main())


def test_requests_under_way_finish_with_the_bundle_they_began_with(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        answered: list[str] = []
        are_changed = asyncio.Event()

        async def ask_all_the_time() -> None:
            while not are_changed.is_set():
                recommender = pool.current()
                await asyncio.sleep(0)
                answer = await recommender.recommend_feed(FeedQuery(ask_videos(USER), 2))
                assert answer.model_version == recommender.version
                answered.append(answer.model_version)

        users = [asyncio.create_task(ask_all_the_time()) for _ in range(8)]
        for version in (SECOND, FIRST, SECOND):
            seen = len(answered)
            await pool.activate(version)
            while len(answered) < seen + 20:
                await asyncio.sleep(0.001)
        are_changed.set()
        await asyncio.gather(*users)
        assert set(answered) == {FIRST, SECOND}
        await pool.close()

    asyncio.run(main())


def test_a_replaced_bundle_goes_with_its_last_user(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        old = pool.current()
        gone = weakref.ref(old)
        await pool.activate(SECOND)
        assert (await old.recommend_videos(ask_videos(USER))).model_version == FIRST
        del old
        gc.collect()
        assert gone() is None
        await pool.close()

    asyncio.run(main())


def flip_a_byte(bundle: Path) -> None:
    path = bundle / "tables" / "video_candidate_VD.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose_a_file(bundle: Path) -> None:
    (bundle / "encoder.onnx").unlink()


def narrow_a_table(bundle: Path) -> None:
    path = bundle / "tables" / "video_query_VD.npy"
    np.save(path, np.load(path)[:, :4])
    sign(bundle)


def spoil_a_number(bundle: Path) -> None:
    path = bundle / "tables" / "comment_input_CD.npy"
    table_CD = np.load(path)
    table_CD[3, 2] = np.nan
    np.save(path, table_CD)
    sign(bundle)


def repeat_the_most_popular(bundle: Path) -> None:
    path = bundle / "popular" / "overall_P.npy"
    overall_P = np.load(path)
    overall_P[-1] = overall_P[0]
    np.save(path, overall_P)
    sign(bundle)


def change_the_golden_outputs(bundle: Path) -> None:
    path = bundle / "golden" / "video_preference_BD.npy"
    np.save(path, -np.load(path))
    sign(bundle)


def change_the_golden_best(bundle: Path) -> None:
    path = bundle / "golden" / "top_video_BK.npy"
    np.save(path, np.load(path) % 50 + 1)
    sign(bundle)


def invent_a_golden_best(bundle: Path) -> None:
    path = bundle / "golden" / "top_video_BK.npy"
    np.save(path, np.load(path) + 50)
    sign(bundle)


def index_half_the_videos(bundle: Path) -> None:
    write_index(bundle / "index" / "video.faiss", np.eye(26, 8, dtype=np.float32))
    sign(bundle)


def break_the_index(bundle: Path) -> None:
    (bundle / "index" / "comment.faiss").write_bytes(b"not an index")
    sign(bundle)


def break_the_graph(bundle: Path) -> None:
    (bundle / "encoder.onnx").write_bytes(b"not a graph")
    sign(bundle)


def rename_an_output(bundle: Path) -> None:
    model = onnx.load(bundle / "comment_head.onnx")
    model.graph.output[1].name = "attention"
    model.graph.node[-1].output[0] = "attention"
    onnx.save(model, bundle / "comment_head.onnx")
    sign(bundle)


def ask_for_an_unknown_part(bundle: Path) -> None:
    sign(bundle, score_parts=["encoder", "horoscope"])


def hold_another_version(bundle: Path) -> None:
    sign(bundle, version="other")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "checksum"),
        (lose_a_file, "missing"),
        (narrow_a_table, "float32"),
        (spoil_a_number, "not finite"),
        (repeat_the_most_popular, "popular/overall_P.npy names a video twice"),
        (change_the_golden_outputs, "golden video_preference"),
        (change_the_golden_best, "golden top_video: the index finds better"),
        (invent_a_golden_best, "golden/top_video_BK.npy names items that do not exist"),
        (index_half_the_videos, "number of vectors is 25, not 50"),
        (break_the_index, "index/comment.faiss: kind is"),
        (break_the_graph, "cannot be opened"),
        (rename_an_output, "no output comment_share"),
        (ask_for_an_unknown_part, "horoscope"),
        (hold_another_version, "other"),
    ],
)
def test_a_bad_bundle_is_refused_and_the_old_one_serves_on(
    tiny_registry: Path, damage: Callable[[Path], None], reason: str
) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        damage(tiny_registry / SECOND)
        with pytest.raises(BundleError, match=reason):
            await pool.activate(SECOND)
        assert read_current(tiny_registry).version == FIRST  # type: ignore[union-attr]
        write_current(tiny_registry, SECOND)
        with pytest.raises(BundleError, match=reason):
            await pool.refresh()
        assert pool.readiness() == []
        answer = await pool.current().recommend_videos(ask_videos(USER))
        assert answer.model_version == FIRST
        await pool.close()

    asyncio.run(main())


def test_a_pool_without_a_usable_bundle_says_why(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        assert pool.readiness()
        lose_a_file(tiny_registry / FIRST)
        await pool.open()
        assert pool.readiness() == ["encoder.onnx is missing"]
        with pytest.raises(NotReadyError, match=r"encoder\.onnx is missing"):
            pool.current()
        await pool.activate(SECOND)
        assert pool.readiness() == []
        await pool.close()

    asyncio.run(main())


def test_an_empty_registry_becomes_ready_by_a_refresh(tiny_master: Path, tmp_path: Path) -> None:
    async def main() -> None:
        pool = new_pool(tmp_path)
        await pool.open()
        assert pool.readiness() == ["the registry has no current version"]
        write_tiny_bundle(tmp_path / "new", version="new")
        write_current(tmp_path, "new")
        assert await pool.refresh() == "new"
        assert pool.readiness() == []
        await pool.close()

    asyncio.run(main())


def test_a_refused_bundle_is_not_read_again_at_every_look(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        lose_a_file(tiny_registry / FIRST)
        await pool.open()
        shutil.copy(tiny_registry / SECOND / "encoder.onnx", tiny_registry / FIRST)
        with pytest.raises(BundleError, match="missing"):
            await pool.refresh()
        await pool.activate(FIRST)  # asks for it by name: tries
        assert await pool.refresh() == FIRST
        await pool.close()

    asyncio.run(main())


@pytest.mark.parametrize("version", ["gone", "../secrets", ""])
def test_only_versions_of_the_registry_can_be_activated(tiny_registry: Path, version: str) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        with pytest.raises(UnknownModelError):
            await pool.activate(version)
        with pytest.raises(UnknownModelError):
            await pool.rollback()
        await pool.close()

    asyncio.run(main())


def test_the_listing_tells_current_loaded_and_broken_versions(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        manifest = tiny_registry / SECOND / "manifest.json"
        manifest.write_text(json.dumps({"format": 9}))
        first, second = pool.listing()
        assert (first["version"], first["current"], first["loaded"]) == (FIRST, True, True)
        assert (second["version"], second["current"], second["loaded"]) == (SECOND, False, False)
        assert "format 9" in str(second["error"])
        await pool.close()

    asyncio.run(main())


def has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.skipif(has_cuda(), reason="shows what happens without CUDA")
def test_wanting_cuda_without_having_it_is_not_ready(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry, "cuda")
        await pool.open()
        [reason] = pool.readiness()
        assert "cuda" in reason
        await pool.close()

    asyncio.run(main())


@pytest.mark.skipif(has_cuda(), reason="shows what happens without CUDA")
def test_auto_without_cuda_serves_on_the_cpu_and_says_so(tiny_registry: Path) -> None:
    async def main() -> None:
        pool = new_pool(tiny_registry, "auto")
        await pool.open()
        status = pool.current().status()
        assert (status["device_wanted"], status["device"]) == ("auto", "cpu")
        assert "CUDA" in str(status["cpu_reason"])
        await pool.close()

    asyncio.run(main())


def test_a_history_that_breaks_the_encoder_is_answered_without_it(tiny_registry: Path) -> None:
    table = tiny_registry / FIRST / "tables" / "video_input_VD.npy"
    table_VD = np.load(table)
    table_VD[20:22] = 3e38  # finite, but not the sum of two
    np.save(table, table_VD)
    sign(tiny_registry / FIRST)

    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        broken, good = await asyncio.gather(
            pool.current().recommend_videos(ask_videos(history(["v20", "v21"]))),
            pool.current().recommend_videos(ask_videos(USER)),
        )
        assert (broken.source, broken.degraded) == ("popular", ("encoder",))
        assert (good.source, good.degraded) == ("model", ())
        await pool.close()

    asyncio.run(main())


def test_a_malformed_history_fails_alone(tiny_registry: Path) -> None:
    malformed = msgspec.structs.replace(USER, video_timestamp_N=USER.video_timestamp_N[:1])

    async def main() -> None:
        pool = new_pool(tiny_registry)
        await pool.open()
        users = [USER, malformed, USER]
        good, bad, too = await asyncio.gather(
            *(pool.current().recommend_videos(ask_videos(user)) for user in users),
            return_exceptions=True,
        )
        assert isinstance(bad, ValueError)
        assert not isinstance(good, BaseException)
        assert not isinstance(too, BaseException)
        await pool.close()

    asyncio.run(main())


@pytest.mark.parametrize(("videos", "comments"), [(1, 0), (1, 3), (3, 0), (3, 1)])
def test_the_smallest_catalogues_are_served(tmp_path: Path, videos: int, comments: int) -> None:
    write_tiny_bundle(tmp_path / "x", version="x", videos=videos, comments=comments)

    async def main() -> None:
        recommender = await load(tmp_path / "x")
        for user in (None, history(["v1"], ["c1"] if comments else [])):
            query = ask_videos(user, 500, exclude_seen=False)
            assert len((await recommender.recommend_videos(query)).items) == videos
            everywhere = await recommender.recommend_comments(ask_comments(user, 500))
            assert len(everywhere.items) == comments
            under = await recommender.recommend_comments(ask_comments(user, video_id="v1"))
            assert len(under.items) <= comments
            feed = await recommender.recommend_feed(FeedQuery(query, 3))
            assert len(feed.items) == videos
        assert len((await recommender.similar_videos("v1", 10)).items) == videos - 1
        await recommender.close()

    asyncio.run(main())


def test_a_recommender_tells_timings_and_errors(tiny_bundle: Path) -> None:
    async def main() -> None:
        recommender = await load(tiny_bundle)
        answer = await recommender.recommend_videos(ask_videos(USER))
        timings_ms = answer.timings_ms
        assert set(timings_ms) == {"queue", "encode", "retrieve", "total"}
        assert timings_ms["total"] >= timings_ms["queue"] + timings_ms["encode"]
        with pytest.raises(UnknownVideoError):
            await recommender.similar_videos("gone", 3)
        with pytest.raises(DeadlineExceededError):
            await recommender.similar_videos("v1", 3, deadline_s=-math.inf)
        await recommender.close()
        with pytest.raises(NotReadyError):
            await recommender.recommend_videos(ask_videos(USER))

    asyncio.run(main())
