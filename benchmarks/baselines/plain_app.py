"""What one would write first: FastAPI, ONNX Runtime and FAISS in the handler, a user at a time."""

from fastapi import FastAPI
from redis.asyncio import Redis

from benchmarks.baselines.answer_models import Answer, Body
from benchmarks.baselines.plain_model import PATH, READY, STORE_URL, PlainModel

model = PlainModel()
redis = Redis.from_url(STORE_URL, protocol=2)
app = FastAPI()


@app.get(READY)
async def ready() -> dict[str, str]:
    return {}


@app.post(PATH, response_model=Answer)
async def recommend(body: Body) -> dict[str, object]:
    value = await redis.get(model.key(body.user_id))
    [answer] = model.answer([body], [value])
    return answer
