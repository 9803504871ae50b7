"""A GPU that is not there: code runs as on one, and what it would have to do is counted.

Tensors say that they are on the device "gpu", while their numbers lie in the memory of the CPU. Code takes
the paths of a GPU, an operator that mixes devices fails as it would, and three things are counted: operators
that start work on the device (all but views and allocations, each about one launch), waits of the processor
for the device, and uploads. A first answer where no GPU is at hand; times need one.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from icobench.simulator.simulator import Simulator

__all__ = ["Tally", "pretend_gpu"]

aten = torch.ops.aten

NO_WORK = ("empty", "detach", "alias", "lift_fresh", "resolve_", "_unsafe_view", "_reshape_alias")
"""How the names of operators begin that are no views and start nothing."""

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
        if not is_view and not name.startswith(NO_WORK):
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
        if name not in MIXED and strangers and len(strangers) < len(tensors):
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


@contextmanager
def pretend_gpu() -> Iterator[Tally]:
    """Inside, "gpu" is a device. Simulations there are made on the CPU, and not counted.

    Meant for a process of its own: torch keeps the name of the device to the end.
    """
    with patch("torch.utils.backend_registration.warnings", create=True):
        _setup_privateuseone_for_python_backend("gpu")
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
