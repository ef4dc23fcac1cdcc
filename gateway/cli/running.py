"""How every command runs and ends: in an event loop of its own, what it cannot do told in one line for each reason."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

EXIT_DONE, EXIT_FAILED, EXIT_BAD_ARGUMENTS, EXIT_INTERRUPTED = 0, 1, 2, 130


def run_and_exit(command: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run a command and exit with its status."""
    from gateway.cli.report import complain
    from services.common.errors import InvalidRequest, PaperRouteError
    from services.common.settings import SettingsError

    try:
        sys.exit(asyncio.run(command) or 0)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except SettingsError as error:
        status, problems = EXIT_BAD_ARGUMENTS, error.problems
    except InvalidRequest as error:
        status, problems = EXIT_BAD_ARGUMENTS, [f"{each.field}: {each.description}" for each in error.violations]
    except PaperRouteError as error:
        status, problems = EXIT_FAILED, [error.message]
    for problem in problems:
        complain(problem)
    sys.exit(status)
