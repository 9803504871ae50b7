"""A page on a user's own images."""

from pathlib import Path
from typing import Annotated

import typer

from icobench.commands.images import OF_IMAGES, prepared_images
from icobench.commands.options import Machine, examples, progress_bar, say, take_over, with_options
from icobench.errors import InputError

app = typer.Typer()


@app.command(
    cls=with_options(*OF_IMAGES, Machine),
    epilog=examples("icobench show run42.cxi --results result.csv --open"),
)
def show(
    context: typer.Context,
    images: Annotated[Path, typer.Argument(help="Images, as for reconstruct.")],
    results: Annotated[
        str | None,
        typer.Option(
            help="Table of reconstruct; by default the one that was made from the file, if one lies beside "
            "it or here. none: images and masks alone."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Page to write: .html.")] = Path("show.html"),
    frames: Annotated[
        str | None,
        typer.Option(help="first:last (exclusive), first:last:step, or a number; the first 100 by default."),
    ] = None,
    opened: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """One page with your images, their masks and reconstructions, residuals, and the bodies; a slider.

    The page is a file of its own, which can be sent. The images are read as by the reconstruct that made the
    table, and simulated again with its experiment: OUT.json says how. Other options are for images without
    a table, or with one that lacks that file.
    """
    from icobench.reporting.show import chosen_frames, find_results, read_results, write_show
    from icobench.storage import check_output

    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out must end in .html, got {out}")
    check_output(out)
    table, earlier = None, {}
    if results != "none":
        path = Path(results) if results is not None else find_results(images)
        table = None if path is None else read_results(path)
    if table is not None:
        earlier = {name: table.origin.get(name) or {} for name in ("options", "found")}
        if not all(isinstance(part, dict) for part in earlier.values()):
            raise InputError(f"{table.path}.json: damaged")
        take_over(context, earlier["options"], *OF_IMAGES)
    machine = Machine.of(context)
    with prepared_images(context, images) as prepared:
        if table is not None:
            prepared.take(earlier["found"])
        for note in prepared.notes:
            say(note)
        count = len(prepared.grid)
        chosen = chosen_frames(frames, count, prepared.experiment.pixels)
        with progress_bar(f"show {len(chosen):,} of {count:,} frames") as update:
            notes = write_show(out, prepared, table, chosen, machine.chosen(), update)
    for note in notes:
        say(note)
    if table is None:
        say("images and masks alone: no table of results was given or found (--results)")
    shown = (
        f"frames {chosen[0]:,} to {chosen[-1]:,} of {count:,}" if len(chosen) > 1 else f"frame {chosen[0]:,}"
    )
    others = "" if len(chosen) == count else "; --frames first:last shows others"
    beside = "" if table is None else f" with {table.path}"
    say(f"wrote {out}: {shown}{beside}, {out.stat().st_size / 1e6:.1f} MB{others}")
    if opened:
        _open(out)


def _open(page: Path) -> None:
    """Open a page in a browser, and say so where there is none."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser was found; open {page.resolve()}")
