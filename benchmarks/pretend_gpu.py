"""A GPU that is not there: code runs as on one, and what it would have to do is counted.

Tensors say that they are on the device "gpu", while their numbers lie in the memory of the CPU. Code takes
the paths of a GPU, an operator that mixes devices fails as it would, and three things are counted: operators
that start work on the device (all but views and allocations, each about one launch), waits of the processor
for the device, and uploads. A first answer where no GPU is at hand; times need one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from benchmarks.common import NO_KERNELS
from icobench.fitting.dictionary import DictionaryOptions, build_dictionary
from icobench.fitting.least_squares import LevenbergMarquardtOptions, levenberg_marquardt
from icobench.fitting.objectives import objective_for
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import TEST_SETS
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["Tally", "Work", "apart", "fits_on_a_gpu", "pretend_gpu"]

aten = torch.ops.aten

WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "bincount", "equal",
    "_linalg_check_errors", "linalg_eigh", "_linalg_eigh", "linalg_inv", "_linalg_solve", "repeat_interleave",
}  # fmt: skip
"""Operators whose answer the processor needs before it can go on."""

MIXED = {"copy_", "_to_copy", "index", "index_put_", "_index_put_impl_", "index_put"}
"""Operators that may have arguments on both devices."""


class _OnGpu(Tensor):
    """A tensor that says it is on the GPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "_OnGpu":
        return Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device="gpu:0",
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        raise RuntimeError(f"{function} outside of the pretended GPU")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **keywords: Any) -> Any:
        raise TypeError("a tensor on the GPU has no NumPy array")


def _inner(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, _OnGpu) else tensor


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "gpu"


class Tally(TorchDispatchMode):
    """What the pretended GPU had to do.

    Attributes:
        operators: that started work, by name.
        waits: of the processor, by the operator's name; blocking uploads are among them as "upload".
        uploads: number of copies from the processor's memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.uploads, self.paused = 0, False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Nothing is counted here."""
        before, self.paused = self.paused, True
        yield
        self.paused = before

    def _count(self, name: str, is_view: bool, tensors: list[Tensor], out_on: bool, keywords: Any) -> None:
        on = [isinstance(tensor, _OnGpu) for tensor in tensors]
        far = any(on)
        if self.paused or not (far or out_on):
            return
        if not is_view and not name.startswith(NO_KERNELS):
            self.operators[name] += 1
        down, up = far and not out_on, out_on and not all(on) and bool(on)
        if name in ("_to_copy", "copy_") and (down or up):
            self.uploads += up
            if not (up and keywords.get("non_blocking")):
                self.waits["download" if down else "upload"] += 1
        elif name in ("index", "index_put_", "_index_put_impl_", "index_put"):
            flags = [tensor.dtype == torch.bool and tensor.ndim > 0 for tensor in tensors[1:]]
            scalar = name != "index" and tensors[-1].ndim == 0
            if any(flags) and not scalar:
                self.waits["mask"] += 1
            if not all(on[1:] if name == "index" else on[1:-1]):
                self.uploads += 1
                self.waits["upload"] += 1
        elif name in WAITS:
            self.waits[name] += 1

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to import the compiler takes seconds

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        keywords = dict(keywords or {})
        name = function._schema.name.partition("::")[2]
        tensors = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)]
        device = keywords.get("device")
        if name == "copy_":
            out_on = isinstance(arguments[0], _OnGpu)
            keywords_of_copy = {"non_blocking": len(arguments) > 2 and arguments[2]} | keywords
        else:
            out_on = _is_gpu(device) or (device is None and any(isinstance(t, _OnGpu) for t in tensors))
            keywords_of_copy = keywords
        strangers = [tensor.shape for tensor in tensors if not isinstance(tensor, _OnGpu) and tensor.ndim]
        if name not in MIXED and strangers and any(isinstance(tensor, _OnGpu) for tensor in tensors):
            raise RuntimeError(f"{name} of tensors on two devices: {strangers}")
        self._count(name, function.is_view, tensors, out_on, keywords_of_copy)
        if _is_gpu(device):
            keywords["device"] = "cpu"
        if name == "_to_copy" and keywords.get("device") is not None and tensors[0].numel():
            # Copies between devices are copies, even though both lie in the same memory.
            return self._wrapped(function(_inner(tensors[0]), **keywords), out_on)
        arguments, keywords = tree_map_only(Tensor, _inner, (arguments, keywords))
        return self._wrapped(function(*arguments, **keywords), out_on and name != "_local_scalar_dense")

    @staticmethod
    def _wrapped(result: Any, on: bool) -> Any:
        return tree_map_only(Tensor, _OnGpu, result) if on else result


@cache
def _name_device() -> None:
    _setup_privateuseone_for_python_backend("gpu")


@contextmanager
def pretend_gpu() -> Iterator[Tally]:
    """Inside, "gpu" is a device. Simulations there are made on the CPU, and not counted.

    Meant for a process of its own, see :func:`apart`: torch keeps the name of the device to the end.
    """
    _name_device()
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    tally, twins = Tally(), {}

    def on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
        def simulated(simulator: Simulator, *arguments: Any, **keywords: Any) -> Any:
            if simulator.device.type != "gpu":
                return function(simulator, *arguments, **keywords)
            key = simulator.experiment, simulator.method, simulator.body.name, simulator.dtype
            arguments, keywords = tree_map_only(Tensor, _inner, (arguments, keywords))
            with _disable_current_modes():
                if key not in twins:
                    twins[key] = Simulator(key[0], key[1], "cpu", simulator.dtype, simulator.body)
                made = function(twins[key], *arguments, **keywords)
            return tree_map_only(Tensor, _OnGpu, made)

        return simulated

    names = ("field", "intensity", "intensity_jacobian", "read")
    replaced = {name: on_cpu(getattr(Simulator, name)) for name in names}
    try:
        with patch.multiple(Simulator, **replaced), tally:
            yield tally
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)


Result = TypeVar("Result")


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """What a function says in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Work(NamedTuple):
    """What a GPU has to do for something, beside simulations.

    Attributes:
        operators: that start work.
        waits: of the processor for the GPU.
        same: whether the result is that of the CPU.
    """

    operators: int
    waits: int
    same: bool


def fits_on_a_gpu(images: Sequence[int], pixels: int = 128) -> list[dict[str, Work]]:
    """The work of fits to so many images of 1e5 photons: of a "step" of Levenberg-Marquardt, an "iteration"
    of some simplices each, and a "match" with some stored patterns."""
    experiment, seed = Experiment(pixels=pixels), 20_200_827
    every = generate_patterns(TEST_SETS["counting"].options(max(images)), experiment, seed)
    on_cpu = Simulator(experiment)
    dictionary = build_dictionary(on_cpu, DictionaryOptions(20))
    steps, simplices = LevenbergMarquardtOptions(iterations=2), SimplexOptions(starts=4, iterations=2)
    marks: list[tuple[int, int]] = []

    def mark(share: float = 0.0) -> None:
        marks.append((tally.operators.total(), tally.waits.total()))

    def fit(simulator: Simulator) -> Tensor:
        objective, start = objective_for(made, simulator), made.radius_nm + 0.5
        return levenberg_marquardt(objective, start, made.quaternion, steps, progress=mark).radius_nm

    def simplex(simulator: Simulator) -> Tensor:
        return monte_carlo_simplex(objective_for(made, simulator), simplices, seed, None, mark).radius_nm

    def match(simulator: Simulator) -> Tensor:
        seen, mask = made.images.to(simulator.device), made.mask.to(simulator.device)
        # Once for what is kept, once to be counted.
        for _ in range(2):
            mark()
            found = dictionary.match(seen, mask, made.kind, experiment)
        mark()
        return found.radius_nm

    work: list[dict[str, Work]] = []
    on_gpu = Simulator(experiment)
    with pretend_gpu() as tally:
        on_gpu.to("gpu")
        for number in images:
            made = every.subset(torch.arange(number))
            work.append({})
            for name, function in (("step", fit), ("iteration", simplex), ("match", match)):
                with _disable_current_modes():
                    expected = function(on_cpu)
                marks.clear()
                same = torch.equal(function(on_gpu), expected)
                (operators, waits), (more, longer) = marks[-2:]
                work[-1][name] = Work(more - operators, longer - waits, same)
    return work
