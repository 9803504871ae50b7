"""Images that are reconstructed while they are measured, and a server of such images for trying that."""

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from icobench.commands.images import Files, Grid, is_auto, prepared_images
from icobench.commands.options import (
    Detector,
    Machine,
    Model,
    Physics,
    Workers,
    examples,
    say,
    until_stopped,
    with_options,
)
from icobench.errors import InputError
from icobench.storage import check_output, plain

__all__ = ["app"]

app = typer.Typer()


@app.command(
    cls=with_options(Files, Grid, Detector, Physics, Machine),
    epilog=examples(
        "icobench watch run42.cxi --out live.parquet --page 8050",
        "icobench watch tcp://exfl-bridge:4545 --out live.parquet --dataset image.data",
    ),
)
def watch(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="An HDF5 file that grows, a folder that fills, or a stream of the Karabo bridge, tcp://host:port."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Table to write or to go on with: .parquet.")] = Path(
        "live.parquet"
    ),
    method: Annotated[
        str,
        typer.Option(
            help="network, paper-network, or one of them + lm, mle, simplex for as many as time allows."
        ),
    ] = "network+lm",
    model: Model = None,
    lit_pixels: Annotated[int, typer.Option(help="A hit has light in so many usable pixels.", min=0)] = 300,
    lit_photons: Annotated[float, typer.Option(help="Photons in a lit pixel, at least.", min=0)] = 1.0,
    sort: Annotated[
        bool, typer.Option("--sort", help="Answer no image that shows nothing or several bodies.")
    ] = False,
    subscribe: Annotated[
        bool,
        typer.Option(
            "--subscribe", help="Subscribe to a stream (PUB) instead of asking for each train (REP)."
        ),
    ] = False,
    page: Annotated[
        int | None, typer.Option(help="Port of a live page on this machine; 0 for any.", min=0, max=65535)
    ] = None,
    idle: Annotated[
        float, typer.Option(help="End when no image came for so many seconds; 0: only by Ctrl-C.", min=0)
    ] = 0.0,
    workers: Workers = 0,
) -> None:
    """Reconstruct images while they are measured, a row for each.

    Every image with enough light is answered by the network at once, with --sort after a classifier. Fits get
    the time that is left: those with the largest predicted error first. Rows are stored every second; a kill
    loses none of them, and the same command goes on with the next image. Ctrl-C ends it.

    Images are read as by reconstruct, whose options mean the same; the first ones decide what is not stated.
    """
    from contextlib import ExitStack

    from icobench.images.live import live_source
    from icobench.methods import find_method
    from icobench.reporting.live import LivePage
    from icobench.runs.watch import LitPixels, Watch

    if out.suffix != ".parquet":
        raise InputError(f"--out must end in .parquet, got {out}")
    _check_finite(idle=idle, lit_photons=lit_photons)
    check_output(out)
    chosen, machine, files = find_method(method), Machine.of(context), Files.of(context)
    mask = _mask_of_stream(files, source)
    values = {name: value for name, value in context.meta["values"].items() if name not in ELSEWHERE}
    identity = {
        "source": source if "://" in source else str(Path(source).resolve()),
        "options": plain(values),
    }
    with ExitStack() as opened:
        images = live_source(source, partial(prepared_images, context, mask=mask), files.reading(), subscribe)
        opened.callback(images.close)
        session = Watch(
            images, out, chosen, LitPixels(lit_pixels, lit_photons), workers, identity,
            auto_physics=is_auto(context), sort=sort, model=model, seed=machine.seed, device=machine.device,
        )  # fmt: skip
        if page is not None:
            say(f"page: {opened.enter_context(LivePage(page, session.state.numbers)).address}")
        with until_stopped(session.stop):
            session.run(idle, say)
    say(session.state.summary())
    say(f"{out}: {session.table.kept:,} rows")


KEPT = 1 << 30
"""Bytes of a file that is repeated which are read once: unpacking them again and again limits the rate."""

ELSEWHERE = ("out", "page", "idle", "workers", "source", "method", "model", "device", "subscribe")
"""Arguments on which no row depends, or that are compared by other means."""


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(f"--{name.replace('_', '-')} must be a finite number, got {value:g}")


def _mask_of_stream(files: Files, source: str) -> Any:
    """The mask that a user names for a stream, (H, W) True where usable; None without, and for files."""
    from contextlib import ExitStack

    from icobench.images.formats import open_mask
    from icobench.images.masks import bad_pixels, has_bits

    if "://" not in source or files.mask is None:
        return None
    with ExitStack() as opened:
        frames = open_mask(Path(source), files.mask, opened, files.follow_links)
        values = frames.read(0, 1)
        return ~bad_pixels(values, has_bits(frames, values), files.invert_mask)[0]


@app.command(epilog=examples("icobench replay run42.cxi --rate 120 --port 4545"))
def replay(
    images: Annotated[Path, typer.Argument(help="A file, as for reconstruct.")],
    rate: Annotated[float, typer.Option(help="Images a second, at most.", min=0.001)] = 10.0,
    port: Annotated[int, typer.Option(help="Where to listen, on this machine.", min=1, max=65535)] = 4545,
    total: Annotated[
        int, typer.Option("--images", help="Images to send; the file is repeated. 0: once all.", min=0)
    ] = 0,
    publish: Annotated[
        bool, typer.Option("--publish", help="Send to all that subscribe (PUB), not to one that asks (REP).")
    ] = False,
    idle: Annotated[
        float, typer.Option(help="End when no client came for so many seconds; 0: never.", min=0)
    ] = 0.0,
    pulses: Annotated[
        int, typer.Option(help="Images of a train; European XFEL's detectors keep up to 352.", min=1)
    ] = 1,
    dataset: Annotated[str | None, typer.Option(help="Dataset inside an HDF5 file.")] = None,
) -> None:
    """Send a file's images as a stream of the Karabo bridge, for trying icobench watch.

    With --publish the first subscriber is waited for, and what it is too slow for is lost, as at a facility.
    """
    from contextlib import ExitStack

    from icobench.images.bridge import serve
    from icobench.images.formats import open_frames
    from icobench.images.reading import check_frames

    _check_finite(rate=rate, idle=idle)
    with ExitStack() as files:
        frames = open_frames(images, dataset, files)
        check_frames(frames)
        count = frames.shape[0]
        say(f"{frames.where}: {count:,} images, at tcp://127.0.0.1:{port}")
        read = frames.read
        if total > count and math.prod(frames.shape) * frames.dtype.itemsize <= KEPT:
            stack = frames.read(0, count)
            read = lambda start, stop: stack[start:stop]  # noqa: E731
        sent = serve(read, count, port, rate, total or count, publish, idle, pulses)
    say(f"sent {sent:,} images")
