"""The client for ordinary code; safe to share among threads."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from lsvcr_client.exchange import NO_HEADERS, Exchange, Retries
from lsvcr_client.requests import Request

AnswerT = TypeVar("AnswerT")

TIMEOUT_MS = 2_000


class Client:
    """Sends requests to one service, over connections that are kept.

    Args:
        url: Such as http://127.0.0.1:8000.
        key: API key, if the service wants one.
        timeout_ms: For a request with all its attempts. The service is told what is left
            (`X-Deadline-Ms`); here it bounds connecting, sending and each wait for more bytes.
        retries: How to try again after 503 and lost connections.
        http: For proxies, certificates and pools of your own; yours to close.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_ms: int = TIMEOUT_MS,
        retries: Retries = Retries(),  # noqa: B008 # frozen
        http: httpx2.Client | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._timeout_ms = timeout_ms
        self._retries = retries
        self._http = http or httpx2.Client()
        self._owns_http = http is None

    def send(
        self,
        request: Request[AnswerT],
        *,
        timeout_ms: int | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> AnswerT:
        """Send a request and wait for its answer.

        Args:
            request: Of `lsvcr_client.requests`.
            timeout_ms: Instead of the client's.
            headers: Such as `X-Request-Id`, `traceparent`, or `X-Arm` and `X-Experiment`.

        Raises:
            ProblemError: If the service refused it, for good or too often.
            NoAnswerError: If the service couldn't be reached.
            DeadlineExceededError: If the time was up.
        """
        timeout_s = (timeout_ms or self._timeout_ms) / 1000
        exchange = Exchange(
            request,
            retries=self._retries,
            timeout_s=timeout_s,
            key=self._key,
            headers=headers,
        )
        while True:
            attempt_headers, attempt_s = exchange.begin_attempt()
            try:
                response = self._http.request(
                    exchange.method,
                    self.url + exchange.target,
                    content=exchange.content,
                    headers=attempt_headers,
                    timeout=attempt_s,
                )
            except httpx2.TransportError as error:
                was_sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                wait_s = exchange.wait_after_failure(error, was_sent=was_sent)
            else:
                if response.is_success:
                    return exchange.read(response.content)
                wait_s = exchange.wait_after_problem(
                    response.status_code, response.headers, response.content
                )
            time.sleep(wait_s)

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
