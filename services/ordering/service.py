"""The servicer of OrderingService."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry import trace
from paperroute.v1 import ordering_service_pb2 as pb
from paperroute.v1 import ordering_service_pb2_grpc as pb_grpc

from services.common.telemetry import names
from services.ordering import convert
from services.ordering.caller import Caller
from services.ordering.order import Anneal, order_papers
from services.ordering.settings import OrderingSettings


class OrderingService(pb_grpc.OrderingServiceServicer):
    """Serves OrderingService: each method reads, calls `order_papers`, writes."""

    def __init__(self, settings: OrderingSettings, anneal: Anneal) -> None:
        self._settings = settings
        self._anneal = anneal
        # Threads are enough: numpy and fast-tsp let go of Python's lock, and annealing has a process of its own. The
        # pool is the limit: a request whose caller leaves while it waits is never begun.
        self._workers = ThreadPoolExecutor(settings.concurrent_solves, thread_name_prefix="ordering")

    async def OrderPapers(
        self,
        request: pb.OrderPapersRequest,
        context: grpc.aio.ServicerContext[pb.OrderPapersRequest, pb.OrderPapersResponse],
    ) -> pb.OrderPapersResponse:
        """Order and cut the papers of one request."""
        caller = Caller(context.time_remaining())
        task = await asyncio.to_thread(convert.task_of, request)
        span = trace.get_current_span()
        span.set_attributes({names.PAPER_COUNT: len(task.paper_ids), names.METHOD: task.method.name.lower()})
        work = asyncio.get_running_loop().run_in_executor(
            self._workers, order_papers, task, self._anneal, caller, self._settings.search_factor
        )
        try:
            order = await work
            span.set_attribute(names.PATH_LENGTH, order.path_length)
            return convert.response_of(order)
        finally:
            caller.leave()

    async def close(self) -> None:
        """Wait for the searches under way; they are short."""
        await asyncio.to_thread(self._workers.shutdown, cancel_futures=True)
