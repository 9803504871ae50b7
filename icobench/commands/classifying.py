"""What a user's own images show."""

from pathlib import Path
from typing import Annotated

import typer

from icobench.commands.images import Files, Grid, check_outputs, prepared_images, write_table
from icobench.commands.options import Detector, Machine, Physics, examples, progress_bar, say, with_options

app = typer.Typer()


@app.command(
    cls=with_options(Files, Grid, Detector, Physics, Machine), epilog=examples("icobench classify run42.cxi")
)
def classify(
    context: typer.Context,
    images: Annotated[Path, typer.Argument(help="Images, as for reconstruct.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")] = Path("labels.csv"),
    model: Annotated[Path | None, typer.Option(help="Weights of another classifier.")] = None,
) -> None:
    """What your own images show: empty, sphere, icosahedron, faceted or several, with probabilities.

    No image is fitted. The probabilities suppose that all five labels are equally common, and images as in
    training: radii of 30 to 160 nm, bodies that scatter 1,000 photons or more; below 200 photons an image
    counts as empty.
    """
    from icobench.runs.classify import classify as run

    check_outputs(out)
    machine = Machine.of(context)
    with prepared_images(context, images) as prepared:
        for note in prepared.notes:
            say(note)
        with progress_bar(f"classify {len(prepared.source)} images") as update:
            labels = run(prepared, model=model, device=machine.device, progress=update)
        write_table(labels, out)
        for number, reason in labels.problems.items():
            say(f"{prepared.source.where}: image {number} failed: {reason}")
    for note in labels.notes:
        say(note)
    names = labels.names
    counted = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names) if name)
    say(f"wrote {out}: {counted or 'no image could be used'}")
