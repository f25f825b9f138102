"""Python client of the service: typed requests and answers, retries, deadlines, durable events."""

from lsvcr_client.async_client import AsyncClient
from lsvcr_client.client import Client
from lsvcr_client.errors import (
    ClientError,
    DeadlineExceededError,
    NoAnswerError,
    ProblemError,
    SpoolError,
)
from lsvcr_client.event_sender import EventSender, new_event
from lsvcr_client.exchange import Retries

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceededError",
    "EventSender",
    "NoAnswerError",
    "ProblemError",
    "Retries",
    "SpoolError",
    "new_event",
]
