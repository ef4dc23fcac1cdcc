"""The commands `paperroute tenants ...`: what they are called and take; what they do is imported when one is called."""

from datetime import datetime
from typing import Any

import click

from gateway.cli.running import run_and_exit

MAX_NUMBER = 2**31 - 1  # what a message holds; the gateway says what it allows

_gateway = click.option(
    "--gateway", default="127.0.0.1:50050", show_default=True, metavar="HOST:PORT", help="The gateway to ask."
)
_json = click.option("--json", "is_json", is_flag=True, help="Print the gateway's answer as JSON.")


def _limits(command: Any) -> Any:  # Any: a command as click sees it
    """Add the options that set limits."""
    number = click.IntRange(0, MAX_NUMBER)
    for option in (
        click.option(
            "--max-requests-per-s", type=float, help="Requests a second of each of its tokens; 0: the default."
        ),
        click.option(
            "--models",
            metavar="PATTERNS",
            help='Models it may name, such as "openai:*,extractive:builtin"; "": all that the gateway allows.',
        ),
        click.option("--max-month-cost", metavar="USD", help='Most to spend in a calendar month, UTC; "": no limit.'),
        click.option("--max-queued", type=number, help="Surveys that may wait for their turn; 0: the default."),
        click.option("--max-running", type=number, help="Surveys under way at one time; 0: the default."),
    ):
        command = option(command)
    return command


@click.group()
def tenants() -> None:
    """Set up tenants and their tokens. PAPERROUTE_TOKEN is a token with the scope admin."""


@tenants.command("list")
@_gateway
@_json
def list_(gateway: str, *, is_json: bool) -> None:
    """Print all tenants with their limits and what this month has cost.

    \b
    Example:
      paperroute tenants list --gateway 127.0.0.1:50050
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import tenant_admin

    run_and_exit(tenant_admin.list_tenants(gateway, is_json=is_json))


@tenants.command()
@click.argument("tenant")
@_limits
@_gateway
@_json
def create(tenant: str, gateway: str, *, is_json: bool, **limits: Any) -> None:
    """Set up TENANT; a limit that is not given is the gateway's.

    \b
    Example:
      paperroute tenants create vision --max-running 8 --max-month-cost 200 --models "openai:*"
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import tenant_admin

    run_and_exit(tenant_admin.create_tenant(gateway, tenant, tenant_admin.Limits(**limits), is_json=is_json))


@tenants.command()
@click.argument("tenant")
@_limits
@_gateway
@_json
def update(tenant: str, gateway: str, *, is_json: bool, **limits: Any) -> None:
    """Change limits of TENANT; those that are not given stay.

    \b
    Example:
      paperroute tenants update vision --max-month-cost 500
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import tenant_admin

    run_and_exit(tenant_admin.update_tenant(gateway, tenant, tenant_admin.Limits(**limits), is_json=is_json))


@tenants.command()
@click.option("--tenant", default="", help="Only what its tokens did.")
@click.option("--limit", type=click.IntRange(1, MAX_NUMBER), default=100, show_default=True, help="Most to print.")
@_gateway
@_json
def audit(tenant: str, limit: int, gateway: str, *, is_json: bool) -> None:
    """Print who did what, newest first.

    \b
    Example:
      paperroute tenants audit --tenant vision --limit 20
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import tenant_admin

    run_and_exit(tenant_admin.show_audit(gateway, tenant, limit, is_json=is_json))


@tenants.group()
def tokens() -> None:
    """Make and end the tokens of tenants."""


@tokens.command("list")
@click.option("--tenant", default="", help="Only those of this tenant.")
@_gateway
@_json
def list_tokens(tenant: str, gateway: str, *, is_json: bool) -> None:
    """Print tokens, newest first; secrets are not known to anybody.

    \b
    Example:
      paperroute tenants tokens list --tenant vision
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import tenant_admin

    run_and_exit(tenant_admin.list_tokens(gateway, tenant, is_json=is_json))


@tokens.command("create")
@click.argument("tenant")
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    required=True,
    help="What it allows; each includes those before it.",
)
@click.option("--name", default="", help="What it is for.")
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Day with whose beginning, UTC, it ends.  [default: never]",
)
@_gateway
@_json
def create_token(tenant: str, scope: str, name: str, expires: datetime | None, gateway: str, *, is_json: bool) -> None:
    """Make a token of TENANT and print its secret, this once.

    \b
    Example:
      eval $(paperroute tenants tokens create vision --scope write --name ci)
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import tenant_admin

    run_and_exit(tenant_admin.create_token(gateway, tenant, scope, name, expires, is_json=is_json))


@tokens.command()
@click.argument("token_id", default="")
@click.option(
    "--grace-s",
    type=click.IntRange(0, MAX_NUMBER),
    default=0,
    show_default=True,
    help="How long the old secret stays good, in seconds.",
)
@_gateway
@_json
def rotate(token_id: str, grace_s: int, gateway: str, *, is_json: bool) -> None:
    """Give TOKEN_ID, or the token in PAPERROUTE_TOKEN, a new secret and print it, this once.

    \b
    Example:
      eval $(paperroute tenants tokens rotate --grace-s 3600)
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import tenant_admin

    run_and_exit(tenant_admin.rotate_token(gateway, token_id, grace_s, is_json=is_json))


@tokens.command()
@click.argument("token_id")
@_gateway
@_json
def revoke(token_id: str, gateway: str, *, is_json: bool) -> None:
    """End TOKEN_ID at once.

    \b
    Example:
      paperroute tenants tokens revoke TOKEN_ID
    """  # noqa: D301 - click wants the character itself
    from gateway.cli import tenant_admin

    run_and_exit(tenant_admin.revoke_token(gateway, token_id, is_json=is_json))
