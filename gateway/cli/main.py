"""The commands of `paperroute`. Heavy modules are imported by the command that needs them."""

from importlib.metadata import version as installed_version
from typing import Any

import click

from gateway.cli import completing
from gateway.cli.index import index
from gateway.cli.options import SURVEY_ID, following_options, output_of
from gateway.cli.running import run_and_exit
from gateway.cli.surveys import surveys
from gateway.cli.tenants import tenants
from gateway.cli.usage import usage
from gateway.roles import ROLES

NAME = "paperroute"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(installed_version("paperroute"), prog_name=NAME, message="%(prog)s %(version)s")
def cli() -> None:
    """Turn a question into a survey of arXiv papers, every claim linked to a real paper.

    \b
    Examples:
      paperroute survey "How is LoRA used for image generation?" --source sample
      paperroute surveys list
      paperroute doctor
    """  # noqa: D301 - click wants the character itself


cli.add_command(index)
cli.add_command(surveys)
cli.add_command(tenants)
cli.add_command(usage)


@cli.command()
@click.argument("question")
@click.option(
    "--language",
    default="",
    metavar="CODE",
    help="Language to write in, such as en or ja.  [default: that of the question]",
)
@click.option("--max-papers", type=int, default=160, show_default=True, help="Most papers to keep, 2 to 500.")
@click.option(
    "--source",
    default="auto",
    show_default=True,
    shell_complete=completing.values_of("search_pb2", "Source", "SOURCE_"),
    metavar="NAME",
    help="Where papers come from: auto, arxiv, index, store or sample.",
)
@click.option(
    "--ordering",
    default="route",
    show_default=True,
    shell_complete=completing.values_of("ordering_pb2", "OrderingMethod", "ORDERING_METHOD_"),
    metavar="NAME",
    help="How papers are put in order: route, route-annealing, semantic, newest or chain.",
)
@click.option(
    "--match",
    default="all-words",
    show_default=True,
    shell_complete=completing.values_of("search_pb2", "MatchMode", "MATCH_MODE_"),
    metavar="NAME",
    help="Which papers hold a search term: all-words, article (the published baseline) or none (whatever is found).",
)
@click.option(
    "--cap-by",
    default="newest",
    show_default=True,
    shell_complete=completing.values_of("search_pb2", "CapBy", "CAP_BY_"),
    metavar="NAME",
    help="Which papers stay when more are found than wanted: newest or relevance.",
)
@click.option(
    "--category",
    multiple=True,
    shell_complete=completing.categories,
    metavar="NAME",
    help="Only papers of this arXiv category; may be repeated.",
)
@click.option("--published-from", default="", metavar="YYYY-MM-DD", help="Only papers published on this day or later.")
@click.option("--with-withdrawn", is_flag=True, help="Keep papers that their authors withdrew.")
@click.option("--as-of", default="", metavar="YYYY-MM-DD", help="Look back from this day.  [default: today, UTC]")
@click.option(
    "--model",
    default="",
    shell_complete=completing.models,
    metavar="PROVIDER:MODEL",
    help="Model for plan, summaries, sections and frame; more after commas stand in for it.  [default: that of a "
    "provider whose key is set, else extractive:builtin]",
)
@click.option(
    "--write-model",
    default="",
    shell_complete=completing.models,
    metavar="PROVIDER:MODEL",
    help="Model for the sections, instead of --model.",
)
@click.option(
    "--writer",
    default="sections",
    show_default=True,
    shell_complete=completing.values_of("survey_pb2", "Writer", "WRITER_"),
    metavar="NAME",
    help="How the text is written: sections (one call each) or single (the published baseline, one call).",
)
@click.option(
    "--summary-style",
    default="problem-method",
    show_default=True,
    shell_complete=completing.values_of("writing_pb2", "SummaryStyle", "SUMMARY_STYLE_"),
    metavar="NAME",
    help="What a model is asked to say of a paper: problem-method or plain.",
)
@click.option(
    "--plan-candidates", type=int, default=1, show_default=True, help="Search plans to ask for, 1 to 20; one is kept."
)
@click.option("--max-cost", default="", metavar="USD", help="Most to spend on models, such as 0.05.")
@click.option("--no-cache", is_flag=True, help="Use no answer that another survey paid for.")
@following_options
@click.option(
    "--gateway",
    default="",
    metavar="HOST:PORT",
    help="Ask a running gateway.  [default: run everything in this process]",
)
def survey(**options: Any) -> None:
    """Write a survey that answers QUESTION, asked in any language.

    \b
    Examples:
      paperroute survey "How is LoRA used for image generation?" --source sample
      paperroute survey "Gaussian Splattingの最先端はどうなっている?" --max-papers 60 --out survey.md
      paperroute survey "RAG evaluation" --format html --out rag.html
      paperroute survey "RAG evaluation" --format json | jq .coverage
      paperroute survey "RAG evaluation" --jsonl | jq -r 'select(.event == "stage_finished").stage'

    Ctrl-C cancels it and prints what is there; a second one leaves at once.

    Exit status: 0 a survey was written, 1 it failed or nothing was found, 2 bad arguments, 130 interrupted, 141 nobody
    read on.
    """  # noqa: D301 - click wants the character itself
    from gateway.cli.survey import SurveyOptions, run

    output = output_of(options)
    run_and_exit(run(SurveyOptions(**options), output))


@cli.command()
@click.argument("role", type=click.Choice(list(ROLES)))
def serve(role: str) -> None:
    """Serve one ROLE until a signal; its settings are PAPERROUTE_<ROLE>__<NAME> variables.

    \b
    Example:
      PAPERROUTE_ORDERING__LISTEN=127.0.0.1:6000 paperroute serve ordering
    """  # noqa: D301 - click wants the character itself
    run_and_exit(ROLES[role].main())


@cli.command()
@SURVEY_ID
@click.argument("section")
@click.option(
    "--model",
    default="",
    shell_complete=completing.models,
    metavar="PROVIDER:MODEL",
    help="Who writes it now; more after commas stand in.  [default: that of the survey]",
)
@click.option(
    "--gateway",
    default="",
    metavar="HOST:PORT",
    help="Where it is kept.  [default: the data folder of this machine]",
)
def rewrite(survey_id: str, section: str, model: str, gateway: str) -> None:
    """Write one SECTION (such as 2.3) of an ended survey again and print it.

    \b
    Example:
      paperroute rewrite SURVEY_ID 2.3 --model anthropic:claude-sonnet-5-5

    Exit status: 0 written, 1 it stays as it was, 2 bad arguments.
    """  # noqa: D301 - click wants the character itself
    from gateway.cli.rewrite import run

    run_and_exit(run(survey_id, section, model, gateway))


@cli.command()
def up() -> None:
    """Serve all roles in this process until a signal, and a console for browsers.

    \b
    Examples:
      paperroute up
      PAPERROUTE_GATEWAY__LISTEN=127.0.0.1:6000 paperroute up
    """  # noqa: D301 - click wants the character itself
    from gateway.cli.up import run

    run_and_exit(run())


@cli.command()
@click.option("--gateway", default="", metavar="HOST:PORT", help="Ask a running gateway, with the token that is set.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line, for programs.")
@click.option("--offline", "is_offline", is_flag=True, help="Do not ask arXiv.")
def doctor(gateway: str, *, is_json: bool, is_offline: bool) -> None:
    """Look at settings, stores, services, keys and arXiv, and say what to do.

    Keys are looked for, never shown or tried.

    \b
    Examples:
      paperroute doctor
      paperroute doctor --gateway 127.0.0.1:50050
      paperroute doctor --json | jq 'select(.health == "problem")'

    Exit status: 0 nothing is broken, 1 something is.
    """  # noqa: D301 - click wants the character itself
    from gateway.cli.doctor.run import run

    run_and_exit(run(gateway, is_json=is_json, is_offline=is_offline))


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets SHELL complete commands, options, their values and the ids of surveys.

    \b
    Examples:
      eval "$(paperroute completion bash)"            # in ~/.bashrc
      eval "$(paperroute completion zsh)"             # in ~/.zshrc, after compinit
      paperroute completion fish > ~/.config/fish/completions/paperroute.fish
    """  # noqa: D301 - click wants the character itself
    from click.shell_completion import ShellComplete, get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101  # the choice names those that there are
    # Of the base class: that of bash would run a bash first to look how old it is.
    click.echo(ShellComplete.source(made(cli, {}, NAME, f"_{NAME.upper()}_COMPLETE")), nl=False)


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(f"paperroute {installed_version('paperroute')}")


def main() -> None:
    """Run the command line."""
    cli(prog_name=NAME)
