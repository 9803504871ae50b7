"""What every fitter returns."""

from dataclasses import dataclass, field

from torch import Tensor

from icobench.fitting.nuisance import Nuisance

__all__ = ["FitResult", "Trace"]


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

    def add(self, evaluations: Tensor, radius_nm: Tensor, quaternion: Tensor, objective: Tensor) -> None:
        """Append one step; tensors are copied to the CPU."""
        self.evaluations.append(evaluations.detach().cpu().clone())
        self.radius_nm.append(radius_nm.detach().cpu().clone())
        self.quaternion.append(quaternion.detach().cpu().clone())
        self.objective.append(objective.detach().cpu().clone())


@dataclass
class FitResult:
    """Reconstruction of N images.

    Attributes:
        radius_nm: (N,).
        quaternion: (N, 4) in the fundamental domain.
        objective: (N,) final value of the objective.
        evaluations: (N,) simulator evaluations, counted by the simulator's wrapper.
        converged: (N,) the method's own stopping rule was met.
        trace: course of the fit.
        nuisance: fitted nuisance parameters, None if there were none.
    """

    radius_nm: Tensor
    quaternion: Tensor
    objective: Tensor
    evaluations: Tensor
    converged: Tensor
    trace: Trace
    nuisance: Nuisance | None = None
