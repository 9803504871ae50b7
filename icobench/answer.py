"""What reconstructions say: one type for the answers of all methods, one for ranked hypotheses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "AMBIGUOUS", "BLOCK", "COSTS", "FAILED", "MISS", "NOT_CONVERGED", "OK", "OUTSIDE", "POOR", "RADII_NM",
    "RESCUED", "SOLVED_DEG", "SOLVED_NM", "UNKNOWN", "UNTRAINED", "Answer", "Hypotheses", "Progress", "Trace",
    "at_the_end", "solved",
]  # fmt: skip

OK, RESCUED, POOR, AMBIGUOUS, NOT_CONVERGED, UNTRAINED, OUTSIDE, UNKNOWN = (
    "ok", "ok-race", "poor-fit", "ambiguous", "not-converged", "outside-training", "outside-range", "unknown",
)  # fmt: skip
"""What a status says.

ok: the body explains the image. ok-race: it does, but only a second search, from a dictionary, found it.
poor-fit: it does not explain the image. ambiguous: two orientations do, or two shapes. not-converged: the fit
ran out of iterations. outside-training: the network has not seen such images, so its error bars do not hold.
outside-range: the fit ended at the smallest or the largest radius (or parameter of the shape) that is
searched, so it is no measurement. unknown: no shape of the catalogue explains the image.
"""

FAILED = "failed: "
"""How the status of an image begins that could not be reconstructed; the reason follows."""

MISS = "miss: "
"""How the status of an image begins that was not fitted because of what it shows, which follows."""

Progress = Callable[[float], None]
"""Called with the finished share of some work, 0 to 1."""

BLOCK = 8
"""Images of a comparison that are reconstructed together and share a time."""

RADII_NM = (20.0, 170.0)
"""Radii that fits search."""

SOLVED_DEG, SOLVED_NM = 1.0, 1.0
"""An image counts as solved when both errors are below these."""


def at_the_end(radius_nm: Tensor) -> Tensor:
    """(N,) where fitted radii (N,) are at an end of :data:`RADII_NM`, to a hundredth of a nanometre."""
    low, high = RADII_NM
    return (radius_nm <= low + 0.01) | (radius_nm >= high - 0.01)


def solved(disorientation_deg: Any, radius_error_nm: Any) -> Any:
    """Whether an image counts as solved; elementwise for tensors, arrays and columns of tables."""
    return (disorientation_deg < SOLVED_DEG) & (radius_error_nm < SOLVED_NM)


@dataclass
class Trace:
    """The best estimate so far against the evaluations spent, for curves.

    Attributes:
        evaluations: list over steps of (N,) evaluations of each image so far.
        radius_nm: list over steps of (N,).
        quaternion: list over steps of (N, 4).
        objective: list over steps of (N,).
    """

    evaluations: list[Tensor] = field(default_factory=list)
    radius_nm: list[Tensor] = field(default_factory=list)
    quaternion: list[Tensor] = field(default_factory=list)
    objective: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls, evaluations: list[Tensor], radius_nm: Tensor, quaternion: Tensor, objective: Tensor
    ) -> "Trace":
        """A whole course of S steps, from wherever it is: S tensors (N,), (S, N), (S, N, 4) and (S, N)."""
        parts = torch.stack(evaluations), radius_nm, quaternion, objective
        return cls(*(list(part.detach().cpu().unbind(0)) for part in parts))

    def add(self, evaluations: Tensor, radius_nm: Tensor, quaternion: Tensor, objective: Tensor) -> None:
        """Append one step; tensors are copied to the CPU."""
        self.evaluations.append(evaluations.detach().cpu().clone())
        self.radius_nm.append(radius_nm.detach().cpu().clone())
        self.quaternion.append(quaternion.detach().cpu().clone())
        self.objective.append(objective.detach().cpu().clone())


class Hypotheses(NamedTuple):
    """Ranked guesses for N images, best first, such as a network's or the nearest patterns of a dictionary.

    Attributes:
        radius_nm: (N, K).
        quaternion: (N, K, 4) in the fundamental domain.
        score: (N, K); higher is better, on a scale of the source's own.
    """

    radius_nm: Tensor
    quaternion: Tensor
    score: Tensor


RESULTS = ("radius_nm", "quaternion", "objective", "converged", "radius_std_nm", "orientation_std_deg")
COSTS = ("evaluations", "seconds", "core_seconds")
WORDS = ("status", "physics", "shape", "runner_up")
"""Tensors and lists of words of an answer with a row for each image, beside its number."""


@dataclass
class Answer:
    """Radius and orientation of N images, with what is known of their quality; all tensors on the CPU.

    What a method does not know is NaN. Missing fields are filled in when the object is made.

    Attributes:
        radius_nm: (N,) circumradius.
        quaternion: (N, 4), scalar first, in the fundamental domain.
        objective: (N,) value at the end: deviance per usable pixel for photon counts, mean squared error for
            log images.
        evaluations: (N,) simulated images.
        converged: (N,) whether the method's own stopping rule was met.
        status: N words, see :data:`OK` and its neighbours, or :data:`FAILED` or :data:`MISS` with a reason.
        radius_std_nm: (N,) estimated standard deviation.
        orientation_std_deg: (N,) estimated root mean square angle.
        seconds: (N,) wall time, shared evenly by images that were computed together.
        core_seconds: (N,) likewise, of all processor cores together; on a GPU the time of the GPU.
        nuisance: fitted nuisance parameters, (N,) each, by column.
        physics: N words, which physics made the fit, where both were tried.
        shape: N names of the fitted shapes, where they are not all icosahedra.
        runner_up: N names of the shapes that explain the images second best, where several were tried.
        hypotheses: the guesses behind the answer, None if there was only one.
        samples: of the posterior, where it was asked for: columns of a table with a row for each sample, the
            first being the number of its image.
        bodies: fitted facets (:class:`~icobench.fitting.facets.FreeBody`) by the images' numbers, where they
            were free.
        index: (N,) numbers of the images within their set.
        trace: course of the fit, for curves.
        experiment: physics and grid that were fitted, where the answer is of a user's own images.
        notes: what the user should know of the images, a line each.
        origins: where the values of the experiment come from, what was decided and what assumed, a line each.

    Example:
        >>> answer = Answer(torch.tensor([60.0]), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
        >>> answer.to_frame()["radius_nm"].tolist(), answer.status
        ([60.0], ['ok'])
    """

    radius_nm: Tensor
    quaternion: Tensor
    objective: Tensor = None  # type: ignore[assignment]
    evaluations: Tensor = None  # type: ignore[assignment]
    converged: Tensor = None  # type: ignore[assignment]
    status: list[str] = field(default_factory=list)
    radius_std_nm: Tensor = None  # type: ignore[assignment]
    orientation_std_deg: Tensor = None  # type: ignore[assignment]
    seconds: Tensor = None  # type: ignore[assignment]
    core_seconds: Tensor = None  # type: ignore[assignment]
    nuisance: dict[str, Tensor] = field(default_factory=dict)
    physics: list[str] = field(default_factory=list)
    shape: list[str] = field(default_factory=list)
    runner_up: list[str] = field(default_factory=list)
    hypotheses: Hypotheses | None = None
    samples: dict[str, Tensor] = field(default_factory=dict)
    bodies: dict[int, Any] = field(default_factory=dict)
    index: Tensor = None  # type: ignore[assignment]
    trace: Trace = field(default_factory=Trace)
    experiment: Any = None
    notes: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.radius_nm)
        for name in ("objective", "radius_std_nm", "orientation_std_deg"):
            if getattr(self, name) is None:
                setattr(self, name, torch.full((count,), torch.nan, dtype=torch.float64))
        for name in ("seconds", "core_seconds"):
            if getattr(self, name) is None:
                setattr(self, name, torch.zeros(count, dtype=torch.float64))
        if self.evaluations is None:
            self.evaluations = torch.zeros(count, dtype=torch.long)
        if self.converged is None:
            self.converged = torch.ones(count, dtype=torch.bool)
        if self.index is None:
            self.index = torch.arange(count)
        self.status = self.status or [OK] * count

    def __len__(self) -> int:
        return len(self.radius_nm)

    @classmethod
    def failed(cls, problems: dict[int, str], word: str = FAILED) -> "Answer":
        """The answer for images that were not reconstructed: reasons, after ``word``, by their numbers."""
        nothing = torch.full((len(problems),), torch.nan, dtype=torch.float64)
        return cls(
            nothing, nothing[:, None].expand(-1, 4), converged=torch.zeros(len(problems), dtype=torch.bool),
            status=[word + reason for reason in problems.values()], index=torch.tensor(list(problems)),
        )  # fmt: skip

    @classmethod
    def join(cls, parts: "Sequence[Answer]") -> "Answer":
        """The answers for several blocks of one set as one, in the order of the images; without traces."""
        order = torch.cat([part.index for part in parts]).argsort()
        columns: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])[order]
            for name in (*RESULTS, *COSTS, "index")
        }
        words: dict[str, Any] = {
            name: [word for part in parts for word in getattr(part, name) or [""] * len(part)]
            for name in WORDS
        }
        words = {
            name: [column[place] for place in order.tolist()] for name, column in words.items() if any(column)
        }
        further = dict.fromkeys(name for part in parts for name in part.nuisance)
        nuisance = {
            name: torch.cat(
                [part.nuisance.get(name, torch.full_like(part.objective, torch.nan)) for part in parts]
            )[order]
            for name in further
        }
        sampled = [part.samples for part in parts if part.samples]
        samples = (
            {name: torch.cat([columns[name] for columns in sampled]) for name in sampled[0]}
            if sampled
            else {}
        )
        bodies = {number: body for part in parts for number, body in part.bodies.items()}
        return cls(**columns, **words, nuisance=nuisance, samples=samples, bodies=bodies)

    def take(self, rows: Tensor) -> "Answer":
        """The results and costs of some of the images, by their places (M,)."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in (*RESULTS, *COSTS, "index")}
        places = rows.tolist()
        words: dict[str, Any] = {
            name: [getattr(self, name)[place] for place in places] for name in WORDS if getattr(self, name)
        }
        nuisance = {name: values[rows] for name, values in self.nuisance.items()}
        return Answer(**columns, **words, nuisance=nuisance)

    def replace_rows(self, rows: Tensor, other: "Answer", taken: Tensor) -> None:
        """Take the results of the images ``taken`` (M,) of another answer for ``rows`` (M,) of this one.

        What either cost is left as it is.
        """
        for name in RESULTS:
            values, new = getattr(self, name), getattr(other, name)[taken]
            values[rows] = new.to(values)
        unknown = torch.full((len(other),), torch.nan, dtype=torch.float64)
        for name in {**self.nuisance, **other.nuisance}:
            values = self.nuisance.setdefault(name, torch.full((len(self),), torch.nan, dtype=torch.float64))
            values[rows] = other.nuisance.get(name, unknown)[taken]
        for name in ("status", "shape", "runner_up"):
            words = getattr(self, name)
            for row, place in zip(rows.tolist(), taken.tolist(), strict=True):
                if words:
                    words[row] = getattr(other, name)[place]

    def to_frame(self) -> "pd.DataFrame":
        """A table with a row for each image.

        Columns: index, radius_nm, q_w, q_x, q_y, q_z, radius_std_nm, orientation_std_deg, objective,
        evaluations, seconds (per image), status; physics, where both were tried; shape and runner_up, where
        it is not the icosahedron; the nuisance parameters.
        """
        import pandas as pd

        def column(values: Tensor) -> Any:
            return values.double().numpy()

        return pd.DataFrame(
            {
                "index": self.index.numpy(),
                "radius_nm": column(self.radius_nm),
                **{f"q_{axis}": column(self.quaternion[:, i]) for i, axis in enumerate("wxyz")},
                "radius_std_nm": column(self.radius_std_nm),
                "orientation_std_deg": column(self.orientation_std_deg),
                "objective": column(self.objective),
                "evaluations": self.evaluations.numpy(),
                "seconds": column(self.seconds),
                "status": self.status,
                **{name: getattr(self, name) for name in WORDS[1:] if getattr(self, name)},
                **{name: column(values) for name, values in self.nuisance.items()},
            }
        )

    def _repr_html_(self) -> str:
        return self.to_frame()._repr_html_()
