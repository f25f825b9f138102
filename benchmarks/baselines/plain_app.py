"""What one would write first: FastAPI, ONNX Runtime and FAISS in the handler, one user at a time.

The same model, index and histories as the service's, read with `lsvcr`; no batches, no prior, no
filters, no experiments, no deadlines. `BUNDLE` names the bundle's folder, `STORE` the store's URL.
"""

import os
from pathlib import Path

import faiss
import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis

from lsvcr.bundle import load_bundle
from lsvcr.history import Timelines
from service.history_value import decode_history
from service.settings import Settings
from service.store_keys import StoreKeys

bundle = load_bundle(Path(os.environ["BUNDLE"]), verify_checksums=False)
catalogue = bundle.catalogue
session = ort.InferenceSession(bundle.folder / "encoder.onnx", providers=["CPUExecutionProvider"])
index = faiss.read_index(str(bundle.folder / "index" / "video.faiss"))
tables = {
    name: bundle.tables[name]
    for name in ("video_input_VD", "comment_video_input_VD", "comment_input_CD")
}
keys = StoreKeys(Settings.model_fields["store_shards"].default)
redis = Redis.from_url(os.environ["STORE"], protocol=2)
app = FastAPI()


class Body(BaseModel):
    user_id: str
    k: int = 20


class Item(BaseModel):
    video_id: str
    rank: int
    score: float
    title: str


class Answer(BaseModel):
    user_id: str
    items: list[Item]


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    return {}


@app.post("/recommend/videos", response_model=Answer)
async def recommend(body: Body) -> dict[str, object]:
    value = await redis.get(keys.history(body.user_id))
    if value is None:
        return {"user_id": body.user_id, "items": []}
    history = decode_history(value)
    video_N = catalogue.video_index.rows(history.video_hash_N)
    comment_C = catalogue.comment_index.rows(history.comment_hash_M)
    batch = Timelines.build(
        users=1,
        video_user_N=np.zeros(len(video_N), np.int64),
        video_N=video_N,
        video_time_N=history.video_timestamp_N,
        comment_user_C=np.zeros(len(comment_C), np.int64),
        comment_C=comment_C,
        comment_video_C=catalogue.comment_video_C[comment_C],
        comment_time_C=history.comment_timestamp_M,
        comments_per_event=bundle.manifest.comments_per_event,
    ).latest_windows(bundle.manifest.max_history)
    [preference_BD] = session.run(["video_preference"], {**batch.arrays(), **tables})
    score_BK, row_BK = index.search(preference_BD, body.k + len(video_N))
    seen = set(video_N.tolist())
    found = zip(row_BK[0].tolist(), score_BK[0].tolist(), strict=True)
    best = [(row, score) for row, score in found if row > 0 and row not in seen][: body.k]
    items = [
        {
            "video_id": catalogue.video_id[row],
            "rank": rank,
            "score": score,
            "title": catalogue.video_title[row],
        }
        for rank, (row, score) in enumerate(best, start=1)
    ]
    return {"user_id": body.user_id, "items": items}
