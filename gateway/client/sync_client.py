"""The client for programs without an event loop: the other one, on a loop in a thread of its own."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from paperroute.v1 import survey_pb2 as pb
from paperroute.v1 import survey_service_pb2 as service_pb
from paperroute.v1 import usage_service_pb2 as usage_pb

from gateway.client.async_client import ADDRESS, AsyncPaperRouteClient
from gateway.client.errors import RequestFailed
from services.common.settings import ClientSettings

T = TypeVar("T")


class PaperRouteClient:
    """A gateway, asked from any thread, by several at a time. Used with `with`, or closed with `close`.

    Methods, arguments and errors are those of `AsyncPaperRouteClient`. A call that is under way when another thread
    closes the client fails with `RequestFailed`, status CANCELLED; one that begins later with `RuntimeError`.
    """

    def __init__(self, address: str = ADDRESS, settings: ClientSettings | None = None) -> None:
        """Name a gateway; it is reached with the first call. See `AsyncPaperRouteClient`."""
        self._loop = asyncio.new_event_loop()
        self._closing = threading.RLock()
        self._thread = threading.Thread(target=self._loop.run_forever, name="paperroute-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(self._opened(address, settings))
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the channel and end the thread; closing twice does nothing."""
        with self._closing:
            if self._thread.is_alive():
                self._run(self._client.close())
                self._end()

    def estimate_survey(self, question: str | pb.SurveySpec, **options: Any) -> service_pb.EstimateSurveyResponse:
        """Return what a survey is expected to cost."""
        return self._run(self._client.estimate_survey(question, **options))

    def create_survey(
        self,
        question: str | pb.SurveySpec,
        *,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
        **options: Any,
    ) -> pb.Survey:
        """Start a survey and return it at once."""
        return self._run(self._client.create_survey(question, labels=labels, request_id=request_id, **options))

    def get_survey(self, survey_id: str) -> pb.Survey:
        """Return a survey as it is now."""
        return self._run(self._client.get_survey(survey_id))

    def list_surveys(self, **filters: Any) -> Iterator[pb.Survey]:
        """Yield surveys without their texts, newest first."""
        return self._each(self._client.list_surveys(**filters))

    def watch_survey(self, survey_id: str, after_number: int = 0) -> Iterator[service_pb.WatchSurveyResponse]:
        """Yield a survey's events until it has ended, each once, also over connections that break."""
        return self._each(self._client.watch_survey(survey_id, after_number))

    def cancel_survey(self, survey_id: str) -> pb.Survey:
        """Stop a survey and return it with what was finished."""
        return self._run(self._client.cancel_survey(survey_id))

    def resume_survey(self, survey_id: str) -> pb.Survey:
        """Go on with a survey that failed, was cancelled or ran out of time."""
        return self._run(self._client.resume_survey(survey_id))

    def rewrite_section(self, survey_id: str, chapter: int, section: int, model: str = "") -> pb.Survey:
        """Write one section again, with another model if one is named, and return the survey."""
        return self._run(self._client.rewrite_section(survey_id, chapter, section, model))

    def delete_survey(self, survey_id: str) -> int:
        """Remove a survey; return how many recorded answers went with it."""
        return self._run(self._client.delete_survey(survey_id))

    def query_usage(self, **query: Any) -> usage_pb.QueryUsageResponse:
        """Return what surveys took and cost."""
        return self._run(self._client.query_usage(**query))

    async def _opened(self, address: str, settings: ClientSettings | None) -> AsyncPaperRouteClient:
        return AsyncPaperRouteClient(address, settings)  # on the loop that will use its channel

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            with self._closing:  # else it could be handed to a loop that has just turned its last round
                running = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise RuntimeError("the client is closed") from None
        try:
            return running.result()
        except concurrent.futures.CancelledError:
            raise RequestFailed(grpc.StatusCode.CANCELLED, "the client was closed", reason="CANCELLED") from None
        except BaseException:  # Ctrl-C while it waits, among others
            running.cancel()
            raise

    def _each(self, items: AsyncIterator[T]) -> Iterator[T]:
        try:
            while (item := self._run(_next(items))) is not None:
                yield item
        finally:
            self._let_go(items)

    def _let_go(self, items: AsyncIterator[T]) -> None:
        """End what is read no more."""
        if threading.current_thread() is self._thread:  # a loop that was left is cleared away wherever that happens
            self._loop.create_task(_closed(items))
        else:
            with contextlib.suppress(RuntimeError, RequestFailed):  # the client is closed, and everything with it
                self._run(_closed(items))

    def _end(self) -> None:
        """End the thread, and whatever other threads still wait for."""
        ending = asyncio.run_coroutine_threadsafe(_all_cancelled(), self._loop)
        ending.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


async def _closed(items: Any) -> None:  # Any: an async generator, which its type does not say
    with contextlib.suppress(RuntimeError):  # another thread reads on
        await items.aclose()


async def _all_cancelled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
