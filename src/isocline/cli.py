"""``isocline …``: one command per task, errors in one line.

Nothing heavy is imported before a command needs it, so that ``isocline --help`` is instant.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import typer

from isocline.app import commands_models, commands_project
from isocline.app.errors import disk_full

__all__ = ["app", "main"]

app = typer.Typer(
    help="Residual networks, neural ODEs, flows, diffusion and discrete diffusion as one thing: a vector field "
    "integrated by a solver.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
commands_project.register(app)
commands_models.register(app)

_USER_ERRORS = (ValueError, TypeError, OSError, RuntimeError, KeyError, ImportError)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; ``ISOCLINE_DEBUG=1`` shows tracebacks."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    _prefer_working_directory()
    try:
        status = app(args=arguments, prog_name="isocline", standalone_mode=False)
        return int(status or 0)
    except typer.Exit as error:
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; run the same command again to go on")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of click, which typer vendors under a private name
            return _usage(error, sys.argv[1:] if arguments is None else arguments)
        if os.environ.get("ISOCLINE_DEBUG") == "1":
            raise
        _complain(disk_full(error) or _line(error))
        return 1


def _line(error: Exception) -> str:
    if isinstance(error, _USER_ERRORS) and str(error):
        return str(error)
    where = "" if isinstance(error, _USER_ERRORS) else " (ISOCLINE_DEBUG=1 shows where)"
    return f"{type(error).__name__}: {error}{where}"


def _usage(error: Any, arguments: list[str]) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        options = getattr(getattr(error, "param", None), "opts", [])
        given = [value for option, value in pairwise(arguments) if option in options]
        got = f", got {given[-1]!r}" if given else ""
        _complain(f"{error.format_message().rstrip('.')}{got} (isocline --help lists commands and options)")
    return int(error.exit_code)


def _complain(message: str) -> None:
    print(f"isocline: {' '.join(message.split())}", file=sys.stderr)


def _prefer_working_directory() -> None:
    """Let ``pipeline`` and a user's own modules be imported from the project's directory."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
