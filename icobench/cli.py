"""The command line: ``icobench``, put together from :mod:`icobench.commands`.

Heavy imports stay inside the commands' functions, so that ``--help`` is fast.
"""

import os
import sys
from typing import Annotated

import typer

from icobench import __version__
from icobench.commands import (
    classifying,
    cluster,
    comparing,
    data,
    images,
    live,
    networks,
    searching,
    showing,
    sweeping,
)
from icobench.commands.options import say
from icobench.errors import InputError, WorkerDiedError

app = typer.Typer(
    name="icobench",
    help="Radius and orientation of icosahedral clusters from single wide-angle diffraction images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for commands in (comparing, images, showing, live, classifying, data, networks, sweeping, searching, cluster):
    app.add_typer(commands.app)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line: one line and exit code 2 on bad input or dead workers, never a traceback."""
    import logging

    # Figures are files; a notebook's setting would have matplotlib look for the notebook.
    os.environ["MPLBACKEND"] = "Agg"
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character, such as one of Latin-1, shows another.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="replace")
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    # Of its fonts, and of a home folder that it cannot write to.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        app()
    except (InputError, WorkerDiedError) as error:
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
    except OSError as error:
        if os.environ.get("ICOBENCH_DEBUG"):
            raise
        name = f"{error.filename}: " if error.filename else ""
        say(f"error: {name}{error.strerror or error}")
        sys.exit(2)
    except (MemoryError, RecursionError, OverflowError) as error:
        if os.environ.get("ICOBENCH_DEBUG"):
            raise
        say(f"error: the input is too large ({type(error).__name__}: {error})")
        sys.exit(2)
    except Exception as error:
        if os.environ.get("ICOBENCH_DEBUG"):
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        say(f"error: {type(error).__name__}: {first} (ICOBENCH_DEBUG=1 shows where)")
        sys.exit(1)


if __name__ == "__main__":
    main()
