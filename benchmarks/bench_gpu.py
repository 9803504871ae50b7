"""What fits leave to do for a GPU and for the processor that feeds it, counted without one."""

from benchmarks.common import count, grid
from benchmarks.pretend_gpu import Work, apart, fits_on_a_gpu


class FitsOnGpu:
    """Of a Levenberg-Marquardt step, a simplex iteration and a match; simulations are not among it."""

    params = (grid("step", "iteration", "match"), grid(16, 64))
    param_names = ("work", "images")
    timeout = 600

    def setup_cache(self) -> dict[int, dict[str, Work]]:
        """All is counted at once, in a process of its own."""
        images = self.params[1]
        return dict(zip(images, apart(fits_on_a_gpu, images, count(128, 64)), strict=True))

    def track_operators(self, counted: dict[int, dict[str, Work]], work: str, images: int) -> int:
        return counted[images][work].operators

    track_operators.unit = "operators"

    def track_waits(self, counted: dict[int, dict[str, Work]], work: str, images: int) -> int:
        return counted[images][work].waits

    track_waits.unit = "waits"
