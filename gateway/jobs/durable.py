"""Runs of surveys that outlive their process: the journal, and the one module that knows DBOS.

The journal says which steps of a run are done. A run is a workflow of DBOS; each of its stages is a step whose stored
result is only a marker: what a stage brought lies in the gateway's own tables. A step is done at least once: a process
that dies between the work and its marker leaves it to be done again.

DBOS is one a process, and it puts its own threads behind the loop's `asyncio.to_thread` until it is closed.
"""

import asyncio
import contextvars
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from paperroute.v1 import survey_pb2 as pb

from gateway.document.stages import name_of
from services.common.database import Database, database_url
from services.common.errors import NotReady, PaperRouteError, UpstreamFailed
from services.common.settings import SharedSettings

if TYPE_CHECKING:
    from dbos import DBOSConfig, StepReservation
    from sqlalchemy import Engine

logger = logging.getLogger(__name__)
T = TypeVar("T")
RunSurvey = Callable[[str, int, "StepRunner"], Awaitable[None]]
"""Runs a survey to its end, given its id, which of its turns this is, and what runs its steps."""

APPLICATION_VERSION = "paperroute-1"
"""To be changed when the steps of a run change so that the journal of the version before cannot be read."""
JOURNAL_FILE = "journal.sqlite3"
WORKFLOW = "survey"
BUSY_TIMEOUT_S = 30
MAX_THREADS = 32
"""Threads behind `asyncio.to_thread` while the journal is open; unset, DBOS makes as many as are asked for."""
MAX_CONNECTIONS = 8
"""To PostgreSQL. DBOS holds one for its own jobs; the rest write markers, which take milliseconds."""
IDLE_TRANSACTION_S = 60
"""PostgreSQL ends a transaction that its process left open for so long: it may hold what others wait for."""
WAKE_S = 0.1
"""How soon a thread of DBOS that has nothing to do notices that the journal is being closed."""
NEVER_S = 3_600.0
"""Pause between looks for schedules, of which there are none."""
START_S = 10.0
"""Longest from the start of a run in the journal to its begin on the loop."""
CLOSE_S = 5.0
"""Longest a run may take to end its work when the journal is closed."""
MAX_TIDIED = 1_000
_WHAT = "the journal of surveys"
_STAGES = sorted(stage for stage in pb.Stage.values() if stage != pb.STAGE_UNSPECIFIED)


class Durable:
    """Runs surveys as workflows of DBOS on the loop it was launched in. One at a time in a process."""

    _launched: ClassVar["Durable | None"] = None

    def __init__(
        self, shared: SharedSettings, run: RunSurvey, owner: str, *, version: str = APPLICATION_VERSION
    ) -> None:
        """Name a journal; nothing is opened yet.

        Args:
            shared: where it lies: PostgreSQL, else a file in the data folder.
            run: what runs a survey. It is called again after an interruption; what it raises interrupts it, and
                leaves it to whoever resumes the survey.
            owner: this process; never used before.
            version: of the steps. A run that another version began is begun anew.
        """
        self.on_left: Callable[[], None] = _nothing
        """Called when a run is no longer under way here: there is a place for another one."""
        self._url = database_url(shared, JOURNAL_FILE)
        self._run = run
        self._owner = owner
        self._version = version
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._workflow: Callable[[str, int], Coroutine[Any, Any, None]] = self._execute
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._is_closing = False
        self._tasks: dict[asyncio.Task[Any], str] = {}
        """All that DBOS runs here, with the name of the workflow; some only wait for what another process records."""
        self._under_way: dict[asyncio.Task[Any], str] = {}
        self._starting: dict[str, asyncio.Event] = {}

    async def launch(self) -> None:
        """Open the journal in the loop that serves, before it serves: what is resumed runs on this loop.

        Raises:
            RuntimeError: another journal is open in this process.
            NotReady: the database cannot be opened.
            UpstreamFailed: it does not answer.
        """
        if Durable._launched is not None:
            raise RuntimeError("a journal is open in this process; close it before another one is launched")
        Durable._launched = self
        try:
            await self._make_file()
            self._loop = asyncio.get_running_loop()
            self._engine = _engine_of(self._url)
            self._launch_dbos()
        except BaseException as error:
            await self.close()
            if _is_of_database(error):
                problem = f"its tables cannot be read or made ({type(error).__name__}); may its user do that?"
                raise NotReady(_WHAT, problem) from error
            raise

    async def start(self, survey_id: str, run: int) -> None:
        """Start a run that was never started, and return once it is under way.

        Raises:
            UpstreamFailed: the journal does not answer.
        """
        name = _workflow_id(survey_id, run)
        begun = self._starting[name] = asyncio.Event()
        try:
            await self._call(self._start(survey_id, run))
            async with asyncio.timeout(START_S):
                await begun.wait()
        except TimeoutError as error:
            raise UpstreamFailed(_WHAT, f"survey {survey_id} did not begin", retry_after_s=1) from error
        finally:
            del self._starting[name]

    async def resume(self, survey_id: str, run: int) -> None:
        """Go on with a run whose process is gone, after its last finished step; any live process may pick it up.

        The caller sees to it that nobody runs it. A run that was never started is started, and one that another
        version began, or that has ended in the journal, is begun anew.

        Raises:
            UpstreamFailed: the journal does not answer.
        """
        await self._call(self._resume(survey_id, run))

    async def cancel(self, survey_id: str, run: int) -> None:
        """End a run, wherever it runs: here at once, elsewhere within about a second.

        Raises:
            UpstreamFailed: the journal does not answer.
        """
        from dbos import DBOS

        name = _workflow_id(survey_id, run)
        for task in [task for task, known in self._under_way.items() if known == name]:
            task.cancel()
        await self._call(DBOS.cancel_workflow_async(name))

    @property
    def count(self) -> int:
        """How many runs are under way here, those that are being started included."""
        return len({*self._under_way.values(), *self._starting})

    def is_under_way(self, survey_id: str, run: int) -> bool:
        """Return whether a run is under way here, or being started."""
        name = _workflow_id(survey_id, run)
        return name in self._starting or name in self._under_way.values()

    def pause(self) -> None:
        """Let no step begin until `go_on`; steps that have begun go on."""
        self._may_start.clear()

    def go_on(self) -> None:
        """Let steps begin again."""
        self._may_start.set()

    async def tidy(self, keep: Collection[tuple[str, int]], *, older_than_s: float) -> int:
        """Forget runs that have ended; return how many.

        Args:
            keep: survey id and run of all that have not ended, on any replica.
            older_than_s: age from which a run is forgotten; those begun after `keep` was read must be younger.

        Raises:
            UpstreamFailed: the journal does not answer.
        """
        from dbos import DBOS

        until = datetime.now(UTC) - timedelta(seconds=older_than_s)
        old = await self._call(
            DBOS.list_workflows_async(
                name=WORKFLOW, end_time=until.isoformat(), limit=MAX_TIDIED, load_input=False, load_output=False
            )
        )
        kept = {_workflow_id(*each) for each in keep}
        ended = [each.workflow_id for each in old if each.workflow_id not in kept]
        if ended:
            await self._call(DBOS.delete_workflows_async(ended))
        return len(ended)

    async def close(self) -> None:
        """Interrupt what runs here, so that another process can go on with it, and close the journal."""
        if Durable._launched is not self:
            return
        self._is_closing = True
        await self._interrupt()
        if self._loop is not None:
            from dbos import DBOS

            # The threads behind `asyncio.to_thread` are DBOS's and end with it. It is closed in a thread: it waits
            # for threads of its own, which may wait for this loop.
            self._loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
            await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
            await self._interrupt()  # what a thread handed over meanwhile
        if self._engine is not None:
            self._engine.dispose()
        Durable._launched = None

    async def _make_file(self) -> None:
        """Make the file of the journal as those of other stores are made, and see whether its database answers."""
        database = Database(
            self._url,
            name=_WHAT,
            make_tables=lambda _: None,
            advice="{file} in PAPERROUTE_DATA_DIR holds how far surveys are: move it away, and they begin anew",
            is_durable=True,
        )
        try:
            await database.run(lambda _: None)
        finally:
            await database.close()

    def _launch_dbos(self) -> None:
        from dbos import DBOS

        log = logging.getLogger("dbos")
        if not log.handlers:  # with a handler DBOS adds none of its own: what it has to say goes where everything goes
            log.addHandler(logging.NullHandler())
        DBOS(config=self._config())

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
        async def survey(survey_id: str, run: int) -> None:
            await self._execute(survey_id, run)

        self._workflow = survey
        DBOS.launch()  # in this thread: DBOS runs on the loop that it finds here what it picks up

    def _config(self) -> "DBOSConfig":
        return {
            "name": "paperroute",
            "system_database_engine": self._engine,
            "application_version": self._version,
            "executor_id": self._owner,
            "serializer": _serializer(),
            "max_executor_threads": MAX_THREADS,
            "log_level": "ERROR",
            "use_listen_notify": False,
            "notification_listener_polling_interval_sec": WAKE_S,
            "scheduler_polling_interval_sec": NEVER_S,
        }

    async def _start(self, survey_id: str, run: int) -> None:
        from dbos import DBOS, SetWorkflowID

        with SetWorkflowID(_workflow_id(survey_id, run)):
            await DBOS.start_workflow_async(self._workflow, survey_id, run)

    async def _resume(self, survey_id: str, run: int) -> None:
        from dbos import DBOS, WorkflowStatusString

        name = _workflow_id(survey_id, run)
        known = await DBOS.get_workflow_status_async(name)
        if known is not None:
            has_ended = known.status in {WorkflowStatusString.SUCCESS.value, WorkflowStatusString.ERROR.value}
            if known.app_version == self._version and not has_ended:
                await DBOS.resume_workflow_async(name)
                return
            await DBOS.delete_workflow_async(name)
        await self._start(survey_id, run)

    async def _call(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call to DBOS where it does not take it for a step of the survey that it may be made from."""
        try:
            return await contextvars.Context().run(asyncio.create_task, call)
        except Exception as error:
            if _is_of_database(error):
                raise UpstreamFailed(_WHAT, type(error).__name__, retry_after_s=1) from error
            raise

    async def _execute(self, survey_id: str, run: int) -> None:
        """Run a survey; raise what DBOS does not record unless it has been run to its end, here."""
        from dbos import error as dbos_error

        task, name = asyncio.current_task(), _workflow_id(survey_id, run)
        if self._is_closing or task is None:
            raise _Interrupted
        self._tasks[task] = self._under_way[task] = name
        task.add_done_callback(self._tasks.pop)
        if begun := self._starting.get(name):
            begun.set()
        try:
            self.check_loop()
            await self.may_start()
            await self._run(survey_id, run, StepRunner(self))
            await self._check_owner(task, name)
        except PaperRouteError as error:  # what a database says of its cause may hold rows
            logger.error("survey %s was interrupted: %s", survey_id, error)  # noqa: TRY400
            raise _Interrupted from None
        except Exception:
            logger.exception("survey %s was interrupted", survey_id)
            raise _Interrupted from None
        except (dbos_error.DBOSBaseException, BaseExceptionGroup):  # cancelled, or another process has taken it over
            raise _Interrupted from None
        finally:
            del self._under_way[task]
            self.on_left()

    def check_loop(self) -> None:
        """See that what runs is on the loop that serves: the channels to the services belong to it.

        Raises:
            RuntimeError: it is on another one.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("a survey is not run on the loop that serves")

    async def may_start(self) -> None:
        """Wait until steps may begin."""
        await self._may_start.wait()

    async def _check_owner(self, task: asyncio.Task[Any], name: str) -> None:
        """See that a run that returned has come to its end, here.

        DBOS would wait until another process that runs it has ended it.

        Raises:
            _Interrupted: it was told to stop, or the journal has it that it was cancelled or that another runs it.
        """
        from dbos import DBOS, WorkflowStatusString

        if task.cancelling():
            raise _Interrupted
        known = await self._call(DBOS.get_workflow_status_async(name))
        pending = WorkflowStatusString.PENDING.value
        if known is None or (known.status, known.executor_id) != (pending, self._owner):
            raise _Interrupted

    async def _interrupt(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLOSE_S)


class StepRunner:
    """Runs the steps of one run, each at most once in a process, and not again once its marker is in the journal."""

    def __init__(self, durable: Durable) -> None:
        """Number the steps, in the workflow: a stage has its own number, whatever runs beside it and in which order."""
        from dbos import DBOS

        self._durable = durable
        self._reserved: dict[int, StepReservation] = {stage: DBOS.reserve_step() for stage in _STAGES}

    async def run_step(self, stage: pb.Stage.ValueType, work: Callable[[], Awaitable[None]]) -> None:
        """Run a stage's work, unless this run has finished it before.

        What it raises is not recorded: the step is done again when the run is resumed.
        """

        async def step() -> None:
            await self._durable.may_start()
            try:
                self._durable.check_loop()
                await work()
            except Exception as error:  # noqa: BLE001  # whatever it is, it leaves by the same way
                raise _Raised(error) from None

        try:
            await self._reserved[stage].run_async({"name": name_of(stage), "preemptible": True}, step)
        except _Raised as raised:
            raise raised.error from None


class _Raised(BaseException):
    """Carries what a step raised past DBOS, which would record an `Exception` and raise it again ever after."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Interrupted(BaseException):
    """Ends a workflow without a word in the journal, so that it can be resumed."""


def _is_of_database(error: BaseException) -> bool:
    """Return whether DBOS failed by its database, rather than by a bug."""
    from dbos import error as dbos_error
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, SQLAlchemyError | dbos_error.DBOSException)


def _nothing() -> None:
    """Do nothing."""


def _workflow_id(survey_id: str, run: int) -> str:
    return f"{survey_id}-{run}"


def _serializer() -> Any:  # Any: the base class is DBOS's, which is not imported before it is needed
    from dbos import Serializer

    class Plain(Serializer):
        """Writes JSON; of an exception only its class, since its message may hold what a survey says."""

        def name(self) -> str:
            return "paperroute_json"

        def serialize(self, data: Any) -> str:
            return json.dumps({"raised": type(data).__name__} if isinstance(data, BaseException) else data)

        def deserialize(self, serialized_data: str) -> Any:
            data = json.loads(serialized_data)
            is_error = isinstance(data, dict) and data.keys() == {"raised"}
            return RuntimeError(data["raised"]) if is_error else data

    return Plain()


def _engine_of(url: str) -> "Engine":
    """Return connections as DBOS wants them: on SQLite it begins its transactions through the driver."""
    from sqlalchemy import URL, create_engine, event

    if not url.startswith("sqlite"):
        engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=MAX_CONNECTIONS,
            max_overflow=0,
            connect_args={"connect_timeout": 10},
        )
        event.listen(engine, "connect", _limit_idle_transactions)
        return engine
    address = URL.create("sqlite", database=url.removeprefix("sqlite:///"))
    engine = create_engine(
        address,
        pool_size=MAX_CONNECTIONS,
        max_overflow=MAX_THREADS,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )
    event.listen(engine, "connect", _begin_with_the_lock)
    return engine


def _limit_idle_transactions(connection: Any, _record: object) -> None:
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_S}s'")
    connection.commit()


def _begin_with_the_lock(connection: Any, _record: object) -> None:
    connection.isolation_level = "IMMEDIATE"
    # A power cut may take the last markers: their stages run again and find what they brought in the gateway's tables.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
