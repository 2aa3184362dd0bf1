"""The command line: `meshwise COMMAND ...`. Exit 0 on an answer, 2 on bad input, 3 when no plan fits.

Commands import what they need when they run, so that `--help` answers at once.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from meshwise import __version__
from meshwise.commands import calibrate, capacity, diff, estimate, export, plan, profiles, score, simulate, validate
from meshwise.interruption import INTERRUPTED
from meshwise.invocation import invoked
from meshwise.screen import say_error

BAD_INPUT = 2

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""typer's command-line errors; newer releases bring their own copy of click, so the class is found from typer."""

app = typer.Typer(
    name="meshwise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, simulate and validate how large models are split over many accelerators.",
)
app.command("plan")(plan.plan)
app.command("estimate")(estimate.estimate)
app.command("simulate")(simulate.simulate)
app.command("validate")(validate.validate)
app.command("capacity")(capacity.capacity)
app.command("calibrate")(calibrate.calibrate)
app.command("diff")(diff.diff)
app.command("export")(export.export)
app.command("score")(score.score)
app.add_typer(profiles.app, name="profiles")


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"meshwise {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Nothing but --version: the commands do the work."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; faults of the input end in one sentence on stderr."""
    try:
        with invoked(arguments):
            code = app(args=list(arguments) or ["--help"], prog_name="meshwise", standalone_mode=False)
    except UsageError as error:
        say_error(_usage(error))
        return BAD_INPUT
    except ValueError as error:
        say_error(str(error))
        return int(getattr(error, "exit_code", BAD_INPUT))
    except OSError as error:
        say_error(f"{error.filename or 'file'}: {error.strerror or error}")
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        say_error("interrupted")
        return INTERRUPTED
    return code or 0


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def _usage(error: Exception) -> str:
    """What is wrong with the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "meshwise"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return f"{message.strip().rstrip('.') or 'a command is missing'}; see `{command} --help`"


if __name__ == "__main__":
    main()
