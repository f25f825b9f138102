"""What the baselines are asked and answer, as FastAPI's users would write it."""

from pydantic import BaseModel


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
