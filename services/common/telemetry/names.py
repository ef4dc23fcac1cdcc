"""Every name of a span, an attribute, a metric and a log field: nothing else spells one.

Names that begin with "gen_ai." are those of the OpenTelemetry conventions for generative AI
(github.com/open-telemetry/semantic-conventions-genai, in development), "rpc.", "server." and "error." those of its
general conventions (opentelemetry.io/docs/specs/semconv). There is no convention for the cost of a call: it is ours, as
is everything that begins with "paperroute.".
"""

# Attributes of the conventions.
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STREAM = "gen_ai.request.stream"
OUTPUT_TYPE = "gen_ai.output.type"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
EMBEDDING_DIMENSION = "gen_ai.embeddings.dimension.count"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105  # a kind of tokens
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
RPC_SYSTEM = "rpc.system"
RPC_METHOD = "rpc.method"

# Attributes of ours.
STAGE = "paperroute.stage"
SURVEY_ID = "paperroute.survey_id"
TENANT = "paperroute.tenant"
ATTEMPT = "paperroute.attempt"
ITEM = "paperroute.item"
"""What in the stage a call is for: a paper's id, "2.3" for a section."""
PROMPT_ID = "paperroute.prompt_id"
OUTCOME = "paperroute.outcome"
"""What became of a call: the names of the enum CallOutcome in small letters, and "served" for the ledger's answers."""
STATE = "paperroute.state"
"""How a survey or a stage ended: "done", "failed"."""
MODEL = "paperroute.model"
"""The model as PaperRoute names it: "openai:gpt-6-luna"."""
PAPER_COUNT = "paperroute.paper_count"
CACHED_COUNT = "paperroute.cached_count"
LOST_COUNT = "paperroute.lost_count"
CALL_COUNT = "paperroute.call_count"
SERVED_CALL_COUNT = "paperroute.served_call_count"
COST_USD = "paperroute.cost_usd"
AVOIDED_COST_USD = "paperroute.avoided_cost_usd"
UNPRICED = "paperroute.unpriced"
"""Models whose price is unknown: the cost beside it is not the whole."""
IS_ESTIMATED = "paperroute.is_estimated"
MODELS = "paperroute.models"
SOURCE = "paperroute.source"
"""Where papers come from: "arxiv", "index"."""
FALLBACK_COUNT = "paperroute.fallback_count"
BUDGET_REACHED = "paperroute.budget_reached"

# Spans; those of RPCs are named by their methods, those of model calls "chat MODEL" and "embeddings MODEL".
SURVEY_RUN = "survey.run"
STAGE_SPAN = "survey."
"""Followed by the stage's name."""

# Events of spans.
RETRY = "paperroute.retry"
FLAG = "paperroute.flag"
"""A claim that its citation does not bear out."""
FALLBACK = "paperroute.fallback"

# Metrics of the conventions.
OPERATION_DURATION = "gen_ai.client.operation.duration"
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105
TIME_TO_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"

# Metrics of ours.
COST = "paperroute.cost"
AVOIDED_COST = "paperroute.avoided_cost"
CALLS = "paperroute.calls"
CALLS_UNPRICED = "paperroute.calls.unpriced"
RETRIES = "paperroute.retries"
SURVEYS = "paperroute.surveys"
SURVEYS_RUNNING = "paperroute.surveys.running"
SURVEY_COST = "paperroute.survey.cost"
SURVEY_DURATION = "paperroute.survey.duration"
SURVEY_SILENCE = "paperroute.survey.silence"
STAGE_DURATION = "paperroute.stage.duration"
QUEUE_DEPTH = "paperroute.queue.depth"
QUEUE_WAIT = "paperroute.queue.wait"
BUDGET_SPENT = "paperroute.budget.spent"
SUMMARIES_PENDING = "paperroute.summaries.pending"
SUMMARIES_IN_FLIGHT = "paperroute.summaries.in_flight"
GOVERNOR_LIMIT = "paperroute.governor.limit"
GOVERNOR_IN_FLIGHT = "paperroute.governor.in_flight"
GOVERNOR_WAITING = "paperroute.governor.waiting"
GOVERNOR_COOLDOWN = "paperroute.governor.cooldown"
ARXIV_REQUESTS = "paperroute.arxiv.requests"
ARXIV_WAIT = "paperroute.arxiv.wait"
ARXIV_COOLDOWN = "paperroute.arxiv.cooldown"
SPANS_DROPPED = "paperroute.spans.dropped"

# Bounds of the histograms' buckets.
DURATION_BOUNDS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""As the convention advises, for calls to models."""
TOKEN_BOUNDS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
"""As the convention advises."""
LONG_DURATION_BOUNDS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1_200, 1_800)
"""Of stages and surveys, which are to take about a minute."""
COST_BOUNDS_USD = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50)
"""Of surveys, which are to cost cents."""
