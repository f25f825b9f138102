"""FastAPI's default way to answer 20 items that nobody had to compute."""

from typing import Any

from fastapi import FastAPI

from benchmarks.baselines.answer_models import Answer, Body

app = FastAPI()


@app.post("/recommend/videos", response_model=Answer)
async def recommend(body: Body) -> Any:
    """Invent items; the dictionary is validated as the model says."""
    items = [
        {"video_id": f"video-{n}", "rank": n, "score": 1 / n, "title": f"Title of video {n}"}
        for n in range(1, body.k + 1)
    ]
    return {"user_id": body.user_id, "items": items}


@app.get("/health/ready")
async def ready() -> dict[str, str]:
    """Say that it answers."""
    return {}
