"""The same behind BentoML with adaptive batching.

Batches are joined from lists, so each request is a list of one (`listed` in the load generator).
"""

import os

import bentoml
from redis import Redis

from benchmarks.baselines.answer_models import Answer, Body
from benchmarks.baselines.plain_model import PATH, STORE_URL, PlainModel


@bentoml.service(workers=int(os.environ["WORKERS"]), logging={"access": {"enabled": False}})
class Recommender:
    def __init__(self) -> None:
        self.model = PlainModel()
        self.redis = Redis.from_url(STORE_URL, protocol=2)

    @bentoml.api(batchable=True, route=PATH, max_batch_size=16, max_latency_ms=10_000)
    def recommend(self, bodies: list[Body], /) -> list[Answer]:
        values = self.redis.mget([self.model.key(body.user_id) for body in bodies])
        return self.model.answer(bodies, values)
