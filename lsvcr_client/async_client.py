"""The client for asynchronous code."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from lsvcr_client.client import TIMEOUT_MS
from lsvcr_client.exchange import NO_HEADERS, Exchange, Retries
from lsvcr_client.requests import Request

AnswerT = TypeVar("AnswerT")


class AsyncClient:
    """As `Client`, which describes the arguments; for one event loop."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_ms: int = TIMEOUT_MS,
        retries: Retries = Retries(),  # noqa: B008 # frozen
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._key = key
        self._timeout_ms = timeout_ms
        self._retries = retries
        self._http = http or httpx2.AsyncClient()
        self._owns_http = http is None

    async def send(
        self,
        request: Request[AnswerT],
        *,
        timeout_ms: int | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> AnswerT:
        """Send a request and wait for its answer; raises as `Client.send` does."""
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
                async with asyncio.timeout(attempt_s):
                    response = await self._http.request(
                        exchange.method,
                        self.url + exchange.target,
                        content=exchange.content,
                        headers=attempt_headers,
                        timeout=attempt_s,
                    )
            except (httpx2.TransportError, TimeoutError) as error:
                was_sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                wait_s = exchange.wait_after_failure(error, was_sent=was_sent)
            else:
                if response.is_success:
                    return exchange.read(response.content)
                wait_s = exchange.wait_after_problem(
                    response.status_code, response.headers, response.content
                )
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
