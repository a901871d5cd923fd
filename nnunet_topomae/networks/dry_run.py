"""A forward pass of shapes alone: what it multiplies, and what it keeps for the backward pass.

PyTorch's FakeTensorMode and FlopCounterMode tell the same of any program, but need seconds to be imported and to run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

Network = TypeVar("Network", bound=nn.Module)

SAMPLES = 2  # with one, some tensors are views of others that are copies with several


@dataclass
class DryRun:
    """What was seen of a forward pass.

    Attributes:
        network: its parameters have shapes and no values.
        total_multiply_adds: of matrix products, convolutions and attention, for all samples.
        kept: storages that the backward pass needs, without those of the network, by their address; and whether they
            depend on the sample.
    """

    network: nn.Module
    total_multiply_adds: int = 0
    kept: dict[int, tuple[torch.UntypedStorage, bool]] = field(default_factory=dict)

    @property
    def multiply_adds(self) -> int:
        """For one sample."""
        return self.total_multiply_adds // SAMPLES

    @property
    def bytes_per_sample(self) -> int:
        return sum(storage.nbytes() for storage, per_sample in self.kept.values() if per_sample) // SAMPLES

    @property
    def bytes_per_batch(self) -> int:
        """Whatever the number of samples: what autocast makes of the weights."""
        return sum(storage.nbytes() for storage, per_sample in self.kept.values() if not per_sample)


def dry_run(
    build: Callable[[], Network],
    forward: Callable[[Network, torch.Tensor], object],
    sample_shape: Iterable[int],
    dtype: torch.dtype,
) -> DryRun:
    """`forward` of the network that `build` makes and a batch of samples, under autocast to `dtype` on the CPU."""
    with _Unfilled():
        network = build()
    for module in network.modules():
        parameters: dict[str, Any] = module._parameters  # to take outlines
        for name, parameter in parameters.items():
            if parameter is not None:
                parameters[name] = Outline(_shape_of(parameter)).requires_grad_()
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Outline(_shape_of(buffer))
    own = {_storage(tensor)._cdata for tensor in [*network.parameters(), *network.buffers()]}
    run = DryRun(network)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = _storage(tensor)
        if storage._cdata not in own:
            per_sample = getattr(tensor, "per_sample", False) or run.kept.get(storage._cdata, (None, False))[1]
            run.kept[storage._cdata] = storage, per_sample  # held, so that no address is used twice
        return tensor

    with (
        _Operations(run),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
    ):
        forward(network, Outline(torch.empty(SAMPLES, *sample_shape, device="meta"), per_sample=True))
    return run


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return getattr(tensor, "shape_only", tensor).untyped_storage()


class _Unfilled(TorchFunctionMode):
    """Leaves memory as it is where a network draws its weights."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if function in (torch.Tensor.uniform_, torch.Tensor.normal_):
            return args[0]
        return function(*args, **kwargs)


class Outline(torch.Tensor):
    """Looks like a tensor on the CPU, to autocast and to attention, and has a shape but no values.

    Attributes:
        shape_only: the same on PyTorch's device "meta".
        per_sample: whether it was made of the sample, and not of the network alone.
    """

    shape_only: torch.Tensor
    per_sample: bool
    # As PyTorch's manual has both methods: the stubs give Tensor other signatures than those it calls.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, shape_only: torch.Tensor, per_sample: bool = False) -> Outline:
        return torch.Tensor._make_wrapper_subclass(
            cls, shape_only.shape, strides=shape_only.stride(), dtype=shape_only.dtype, device=torch.device("cpu")
        )

    def __init__(self, shape_only: torch.Tensor, per_sample: bool = False) -> None:
        self.shape_only, self.per_sample = shape_only, per_sample

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise RuntimeError(f"{operation} of a tensor without values, outside its dry run")


class _Operations(TorchDispatchMode):
    """Works out the shapes of what is done to outlines, and tells `run` of it.

    A mode, and not a method of `Outline`: for that PyTorch imports its distributed tensors, at the first operation.
    """

    def __init__(self, run: DryRun) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch gives it no types
        self.run = run

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler, only to tell it to leave this class alone

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given: dict[int, Outline] = {}

        def lower(value: object) -> object:
            if isinstance(value, Outline):
                given[id(value.shape_only)] = value
                return value.shape_only
            if isinstance(value, torch.Tensor):
                return _shape_of(value)  # a constant
            if isinstance(value, list | tuple):
                return [lower(item) for item in value]
            return torch.device("meta") if isinstance(value, torch.device) else value

        lowered = [lower(value) for value in args]
        options = {name: lower(value) for name, value in (kwargs or {}).items()}
        if not given:
            return operation(*args, **(kwargs or {}))  # of constants alone
        result = SHAPES.get(operation, operation)(*lowered, **options)
        count = flop_registry.get(operation.overloadpacket)
        if count is not None:
            self.run.total_multiply_adds += count(*lowered, **options, out_val=result) // 2
        per_sample = any(value.per_sample for value in given.values())

        def lift(value: object) -> object:
            if isinstance(value, list | tuple):
                return type(value)(lift(item) for item in value)
            if not isinstance(value, torch.Tensor):
                return value
            outline = given.get(id(value))  # an operation in place
            if outline is None:
                return Outline(value, per_sample)
            outline.per_sample |= per_sample
            return outline

        return lift(result)


# Shapes of what PyTorch itself would work out in Python, after importing its compiler: the larger part of the time.


def _laid_out_as(x: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor without gaps whose axes have the order in memory that those of `x` have."""
    order = sorted(range(x.ndim), key=x.stride, reverse=True)
    axes = sorted(range(x.ndim), key=order.__getitem__)
    return x.new_empty([shape[axis] for axis in order], dtype=dtype or x.dtype).permute(axes)


def _same(x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return _laid_out_as(x, x.shape)


def _elementwise(a: torch.Tensor, b: torch.Tensor | float, **_: object) -> torch.Tensor:
    if not isinstance(b, torch.Tensor):
        return _same(a)
    shape, dtype = np.broadcast_shapes(a.shape, b.shape), torch.promote_types(a.dtype, b.dtype)
    for operand in (a, b):
        if operand.shape == shape and 0 not in operand.stride():
            return _laid_out_as(operand, shape, dtype)
    return a.new_empty(shape, dtype=dtype)


def _reduced(x: torch.Tensor, axes: list[int], keepdim: bool) -> torch.Tensor:
    gone = {axis % x.ndim for axis in axes}
    return x.new_empty(
        [1 if axis in gone else side for axis, side in enumerate(x.shape) if keepdim or axis not in gone]
    )


def _norm(x: torch.Tensor, order: float, axes: list[int], keepdim: bool = False, **_: object) -> torch.Tensor:
    return _reduced(x, axes, keepdim)


def _mean(x: torch.Tensor, axes: list[int], keepdim: bool = False, **_: object) -> torch.Tensor:
    return _reduced(x, axes, keepdim)


def _concatenated(tensors: list[torch.Tensor], axis: int = 0) -> torch.Tensor:
    shape = list(tensors[0].shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    return tensors[0].new_empty(shape)


def _repeated(x: torch.Tensor, times: list[int]) -> torch.Tensor:
    shape = (1,) * (len(times) - x.ndim) + x.shape
    return x.new_empty([side * number for side, number in zip(shape, times, strict=True)])


def _gathered(x: torch.Tensor, axis: int, index: torch.Tensor) -> torch.Tensor:
    return x.new_empty(index.shape)


def _scattered(x: torch.Tensor, *_: object) -> torch.Tensor:
    return x.new_empty(x.shape)


def _layer_norm(x: torch.Tensor, normalized_shape: list[int], *_: object) -> tuple[torch.Tensor, ...]:
    statistics = (*x.shape[: -len(normalized_shape)], *(1 for _ in normalized_shape))
    return x.new_empty(x.shape), x.new_empty(statistics), x.new_empty(statistics)


def _batch_norm(x: torch.Tensor, *_: object) -> tuple[torch.Tensor, ...]:
    return _same(x), *(x.new_empty(x.shape[1], dtype=torch.float32) for _ in range(2))


def _group_norm(
    x: torch.Tensor, weight: object, bias: object, samples: int, channels: int, voxels: int, groups: int, *_: object
) -> tuple[torch.Tensor, ...]:
    return _same(x), x.new_empty(samples, groups), x.new_empty(samples, groups)


def _upsampled(x: torch.Tensor, size: list[int], *_: object) -> torch.Tensor:
    return _laid_out_as(x, (*x.shape[:2], *size))


def _convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: list[int],
    paddings: list[int],
    dilations: list[int],
    transposed: bool,
    output_paddings: list[int],
    groups: int,
) -> torch.Tensor:
    """As torch.nn.Conv3d and ConvTranspose3d say, for any number of axes."""
    per_axis = zip(x.shape[2:], weight.shape[2:], strides, paddings, dilations, output_paddings, strict=True)
    sides = [
        (side - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
        if transposed
        else (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, padding, dilation, output_padding in per_axis
    ]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return _laid_out_as(x, (len(x), channels, *sides))


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def _add_product(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **_: object) -> torch.Tensor:
    return _product(a, b)


def _attention(query: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, ...]:
    batch, heads, tokens, channels = query.shape
    log_sum_exp = query.new_empty(batch, tokens, heads, dtype=torch.float32)
    return query.new_empty(batch, tokens, heads, channels).transpose(1, 2), log_sum_exp.transpose(1, 2)


SHAPES = {
    aten.leaky_relu.default: _same,
    aten.leaky_relu_.default: lambda x, *_: x,
    aten.gelu.default: _same,
    aten.clamp_min.default: _same,
    aten._softmax.default: _same,
    aten.add.Tensor: _elementwise,
    aten.mul.Tensor: _elementwise,
    aten.div.Tensor: _elementwise,
    aten.linalg_vector_norm.default: _norm,
    aten.mean.dim: _mean,
    aten.cat.default: _concatenated,
    aten.repeat.default: _repeated,
    aten.gather.default: _gathered,
    aten.scatter.src: _scattered,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_group_norm.default: _group_norm,
    aten.upsample_trilinear3d.default: _upsampled,
    aten.convolution.default: _convolved,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.addmm.default: _add_product,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
}
