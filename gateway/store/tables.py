"""The gateway's tables, the same for SQLite and PostgreSQL. Moments are seconds since 1970 by the database's clock.

Messages are kept as their bytes. `usage`, `survey_label` and `audit` outlive the survey they tell of.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA = MetaData()
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only in an INTEGER

SURVEY = Table(
    "survey",
    METADATA,
    Column("number", _NUMBER, primary_key=True),  # in the order of creation
    Column("survey_id", String(64), nullable=False, unique=True),
    Column("tenant", String(63), nullable=False),
    Column("request_id", String(128)),  # NULL for a request without one
    Column("request", LargeBinary, nullable=False),  # CreateSurveyRequest as it came
    Column("spec", LargeBinary, nullable=False),  # SurveySpec with its defaults filled in
    Column("state", Integer, nullable=False),  # SurveyState
    Column("run", Integer, nullable=False, server_default="0"),  # turns it has had: a new one for each resume
    Column("attempt", Integer, nullable=False, server_default="0"),  # how often a run was begun, takeovers included
    Column("owner", String(64), nullable=False, server_default=""),  # replica that runs it; empty unless RUNNING
    Column("created_at", Double, nullable=False),
    Column("queued_at", Double, nullable=False),  # since when it waits for its turn, or has waited
    Column("deadline_at", Double),  # of the run; NULL before its turn
    Column("finished_at", Double),
    Column("settled_at", Double),  # when its cost was read from the ledgers after its end; NULL before
    Column("last_number", BigInteger, nullable=False, server_default="0"),  # of its events
    Column("told_at", Double),  # when something was last told of it to those who watch; NULL for what is old
    Column("live_version", BigInteger, nullable=False, server_default="0"),  # of its rows in survey_live
    Column("head", LargeBinary, nullable=False),  # Survey without texts and papers, as lists show it
    Column("trace", Text, nullable=False, server_default=""),  # traceparent of the request that made it
    Column("run_trace", Text, nullable=False, server_default=""),  # traceparent of its last run
    UniqueConstraint("tenant", "request_id", name="survey_request"),
)
Index("survey_list", SURVEY.c.tenant, SURVEY.c.number)
Index("survey_state", SURVEY.c.state, SURVEY.c.queued_at)
Index(
    "survey_unsettled",
    SURVEY.c.finished_at,
    sqlite_where=text("settled_at IS NULL"),
    postgresql_where=text("settled_at IS NULL"),
)

SURVEY_PART = Table(  # what the stages brought; a survey is computed from these
    "survey_part",
    METADATA,
    Column("survey_id", String(64), primary_key=True),
    Column("kind", String(12), primary_key=True),  # gateway.document.draft.PartKind
    Column("place", String(64), primary_key=True),  # paper_id, "2.3" for a section, stage; empty for what is one
    Column("payload", LargeBinary, nullable=False),
)

SURVEY_EVENT = Table(
    "survey_event",
    METADATA,
    Column("survey_id", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True),  # from 1, without gap
    Column("payload", LargeBinary, nullable=False),  # WatchSurveyResponse
)

SURVEY_LIVE = Table(  # how far what is under way has come: the newest only
    "survey_live",
    METADATA,
    Column("survey_id", String(64), primary_key=True),
    Column("place", String(64), primary_key=True),  # "stage 5", "section 2.3", "queue"
    Column("version", BigInteger, nullable=False),  # the survey's live_version when it was written
    Column("payload", LargeBinary, nullable=False),  # WatchSurveyResponse, a section's text whole
)

SURVEY_LABEL = Table(
    "survey_label",
    METADATA,
    Column("survey_id", String(64), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("value", String(255), nullable=False),
)
Index("survey_label_value", SURVEY_LABEL.c.key, SURVEY_LABEL.c.value)

USAGE = Table(  # what a survey's stage took of a model
    "usage",
    METADATA,
    Column("survey_id", String(64), primary_key=True),
    Column("stage", Integer, primary_key=True),  # Stage
    Column("model", Text, primary_key=True),  # "provider:model"
    Column("tenant", String(63), nullable=False),
    Column("created_at", Double, nullable=False),  # the survey's
    Column("day", String(10), nullable=False),  # of created_at, UTC: "2026-11-21"
    Column("call_count", BigInteger, nullable=False),  # calls that the survey paid for, and their tokens
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_nano_usd", BigInteger),  # NULL: the price is unknown
    Column("served_call_count", BigInteger, nullable=False, server_default="0"),  # calls that the ledger answered
    Column("served_input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("served_output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("avoided_cost_nano_usd", BigInteger, nullable=False),  # of those
    Column("paper_count", Integer, nullable=False),  # papers the stage worked on
)
Index("usage_tenant", USAGE.c.tenant, USAGE.c.created_at)

TENANT = Table(
    "tenant",
    METADATA,
    Column("tenant", String(63), primary_key=True),
    Column("limits", LargeBinary, nullable=False),  # the message Tenant, without what the server sets
    Column("max_running_surveys", Integer, nullable=False),  # 0: the gateway's default; here for the queue's query
    Column("created_at", Double, nullable=False),
)

TURN = Table(  # so that tenants take turns, however many gateways give them
    "turn",
    METADATA,
    Column("tenant", String(63), primary_key=True),  # empty: `number` is how much tenants without a limit may have
    Column("number", BigInteger, nullable=False),  # of its last turn
)

TENANT_MONTH = Table(  # what a tenant's surveys took of a month; always the sums over its rows in `reservation`
    "tenant_month",
    METADATA,
    Column("tenant", String(63), primary_key=True),
    Column("month", String(7), primary_key=True),  # "2026-11", UTC
    Column("spent_nano_usd", BigInteger, nullable=False, server_default="0"),
    Column("reserved_nano_usd", BigInteger, nullable=False, server_default="0"),
)

RESERVATION = Table(  # what a survey took of a month; the rows outlive it
    "reservation",
    METADATA,
    Column("survey_id", String(64), primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),  # of the survey, whose run set this aside
    Column("reserved_nano_usd", BigInteger, nullable=False),  # what its calls under way may still cost
    Column("spent_nano_usd", BigInteger, nullable=False),
)

TOKEN = Table(
    "token",
    METADATA,
    Column("token_id", String(32), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("name", String(100), nullable=False),
    Column("scope", Integer, nullable=False),  # TokenScope
    Column("hash", String(64), nullable=False, unique=True),  # SHA-256 of the secret, which is random and long
    Column("old_hash", String(64)),  # of the secret before the last rotation
    Column("old_until", Double),  # until when that one is good
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
)
Index("token_tenant", TOKEN.c.tenant, TOKEN.c.created_at)
Index("token_old_hash", TOKEN.c.old_hash)

AUDIT = Table(
    "audit",
    METADATA,
    Column("number", _NUMBER, primary_key=True),
    Column("happened_at", Double, nullable=False),
    Column("tenant", String(63), nullable=False),
    Column("token_id", String(32), nullable=False),
    Column("action", Integer, nullable=False),  # AuditAction
    Column("subject", String(128), nullable=False),
)
Index("audit_tenant", AUDIT.c.tenant, AUDIT.c.number)
