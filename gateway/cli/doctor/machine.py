"""What lies on this machine: settings, packages, the data folder, the databases, the local index, keys."""

import importlib.util
import os
import platform
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.doctor.finding import Finding, note, ok, problem, warning
from gateway.roles import ROLES
from services.common.errors import PaperRouteError
from services.common.paid.settings import BUILTIN, ModelSettings, PaidSettings
from services.common.settings import ClientSettings, SettingsError, SharedSettings, load

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

PACKAGES: Mapping[str, Sequence[str]] = {
    "retrieval": ("arxiv", "lxml", "sqlalchemy"),
    "embedding": ("qdrant_client", "wordllama", "openai"),
    "ordering": ("python_tsp", "fast_tsp", "numpy"),
    "generation": ("openai", "anthropic", "rapidfuzz"),
    "gateway": ("dbos", "alembic", "jinja2"),
    "telemetry": ("opentelemetry.sdk",),
}
"""By extra: packages that tell whether it is installed."""
LEAST_FREE_BYTES = 1024**3
OTHERS = stat.S_IRWXG | stat.S_IRWXO
WRITING_STAGES = ("plan", "summarize", "write", "frame")


def check_program() -> Iterator[Finding]:
    """Look at the program itself: its version and what is installed of it."""
    yield ok("PaperRoute", f"{version('paperroute')} on Python {platform.python_version()}")
    for extra, packages in PACKAGES.items():
        missing = [name for name in packages if not _is_installed(name)]
        if missing:
            advice = f"pip install 'paperroute[{extra}]'"
            yield note(f"extra {extra}", f"not installed: {', '.join(missing)}", f"for that role: {advice}")


def check_settings() -> Iterator[Finding]:
    """Look at every PAPERROUTE_ variable."""
    kinds: list[type[BaseSettings]] = [SharedSettings, ClientSettings, ModelSettings, PaidSettings]
    kinds += [role.settings() for role in ROLES.values()]
    lines: list[str] = []
    for kind in kinds:
        try:
            load(kind)
        except SettingsError as error:
            lines += error.problems
    for line in dict.fromkeys(lines):
        name, _, rule = line.partition(": ")
        yield problem(name.partition("=")[0], rule or line, "correct the variable, or unset it")
    if not lines:
        count = sum(name.startswith("PAPERROUTE_") for name in os.environ)
        yield ok("settings", f"{count} variables set, all known and well-formed")


def check_data_folder(shared: SharedSettings) -> Iterator[Finding]:
    """Look at the folder of the store files."""
    folder, what = shared.data_dir, "data folder"
    if not folder.exists():
        parent = next(each for each in folder.parents if each.exists())
        if os.access(parent, os.W_OK):
            yield ok(what, f"{folder} will be made with the first survey")
        else:
            yield problem(what, f"{folder} cannot be made", "set PAPERROUTE_DATA_DIR to a folder of your own")
        return
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield problem(what, f"{folder} cannot be written to", "set PAPERROUTE_DATA_DIR to a folder of your own")
        return
    free = shutil.disk_usage(folder).free
    yield ok(what, f"{folder}, {free / 1024**3:.1f} GiB free")
    if free < LEAST_FREE_BYTES:
        yield warning(what, "less than 1 GiB is free", "make room, or set PAPERROUTE_DATA_DIR")
    if folder.stat().st_mode & OTHERS:
        yield warning(what, "others on this machine may look into it", f"chmod 700 {folder}")


async def check_database(shared: SharedSettings) -> list[Finding]:
    """Look at the database of surveys and usage."""
    from gateway.store.schema import gateway_database

    what = "database"
    if not shared.database_url and not (shared.data_dir / "gateway.sqlite3").exists():
        return [ok(what, "SQLite, made with the first survey")]
    try:
        database = gateway_database(shared)
    except SettingsError as error:
        return [problem(what, error.problems[0], "correct PAPERROUTE_DATABASE_URL")]
    try:
        count, unfinished = await database.read(_counts)
    except PaperRouteError as error:
        return [problem(what, error.message)]
    finally:
        await database.close()
    kind = "PostgreSQL" if shared.database_url else "SQLite"
    return [ok(what, f"{kind}: {count:,} surveys, {unfinished:,} of them queued or under way")]


def check_index(shared: SharedSettings, path: Path | None, max_age_days: int) -> Iterator[Finding]:
    """Look at the local index of arXiv records.

    Args:
        shared: says where the data folder is.
        path: of the index, where it is not there.
        max_age_days: how old it may be to be asked before arXiv.
    """
    from services.retrieval.index_file import IndexFile
    from services.retrieval.index_schema import FILE_NAME

    what, file = "local index", path or shared.data_dir / FILE_NAME
    build = "paperroute index build FILE, from arXiv's metadata snapshot"
    if not file.exists():
        yield note(what, "there is none, so each search asks arXiv", f"quicker and without waiting: {build}")
        return
    index = IndexFile(file)
    try:
        facts = index.facts()
    except PaperRouteError as error:
        yield problem(what, error.message, build)
        return
    finally:
        index.close()
    age = (datetime.now(UTC) - facts.newest_at).days
    found = f"{facts.record_count:,} records, the newest of {facts.newest_at:%Y-%m-%d}"
    if age > max_age_days:
        yield warning(what, f"{found}, {age} days ago: arXiv is asked first", f"bring it up to date: {build}")
    else:
        yield ok(what, found)


def check_models(models: ModelSettings) -> Iterator[Finding]:
    """Look at the models that write, and whether their keys are there; the keys themselves are not shown or tried."""
    from gateway.cli.models import PROPOSALS
    from services.common.providers.registry import Providers

    try:
        providers = Providers.from_environment()
    except SettingsError as error:
        yield problem("providers", error.problems[0], "correct the variable, or unset it")
        return
    chosen = {name for stage in WRITING_STAGES for name in getattr(models, stage).split(",")} - {BUILTIN}
    for model in sorted(chosen):
        fault = providers.problem_of(model)
        yield problem(f"model {model}", fault) if fault else ok(f"model {model}", "configured, its key is set")
    keys = [name for proposal in PROPOSALS for name in proposal.key_names if os.environ.get(name)]
    if keys:
        yield ok("provider keys", f"set: {', '.join(keys)} (not tried)")
    elif not chosen:
        advice = f"set one of {', '.join(proposal.key_names[0] for proposal in PROPOSALS)}"
        yield note("provider keys", "none: the built-in engine writes, without a language model", advice)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def _counts(connection: Any) -> tuple[int, int]:  # Any: a connection of SQLAlchemy
    from sqlalchemy import func, select

    from gateway.store.tables import SURVEY

    query = select(func.count(), func.count(SURVEY.c.number).filter(SURVEY.c.finished_at.is_(None)))
    row = connection.execute(query.select_from(SURVEY)).one()
    return int(row[0]), int(row[1])
