"""How every command runs and ends: in an event loop of its own, what it cannot do told in one line for each reason."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

EXIT_DONE, EXIT_FAILED, EXIT_BAD_ARGUMENTS, EXIT_INTERRUPTED = 0, 1, 2, 130
EXIT_BROKEN_PIPE = 141
"""As a shell reports a program that SIGPIPE ended: whoever read the output has left."""


def run_and_exit(command: Coroutine[Any, Any, int | None]) -> NoReturn:
    """Run a command and exit with its status."""
    from gateway.cli.report import complain
    from gateway.client.errors import RequestFailed
    from services.common.errors import InvalidRequest, PaperRouteError
    from services.common.settings import SettingsError

    try:
        status = asyncio.run(_interruptible(command)) or EXIT_DONE
        if sys.stdout:  # there is none where it was closed
            sys.stdout.flush()  # now, while there is somebody to tell that it cannot be written
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        _end_with_a_broken_pipe()
    except SettingsError as error:
        status, problems = EXIT_BAD_ARGUMENTS, error.problems
    except InvalidRequest as error:
        status, problems = EXIT_BAD_ARGUMENTS, [f"{each.field}: {each.description}" for each in error.violations]
    except PaperRouteError as error:
        status, problems = EXIT_FAILED, [error.message]
    except RequestFailed as error:
        status, problems = EXIT_FAILED, [str(error)]
    for problem in problems:
        complain(problem)
    sys.exit(status)


async def _interruptible(command: Coroutine[Any, Any, int | None]) -> int | None:
    """Run a command; whatever it says when Ctrl-C ends it, it was ended by that."""
    try:
        return await command
    except Exception:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise


def _end_with_a_broken_pipe() -> NoReturn:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in filter(None, (sys.stdout, sys.stderr)):  # what they still hold would fail once more at the end
        os.dup2(nowhere, stream.fileno())
    sys.exit(EXIT_BROKEN_PIPE)
