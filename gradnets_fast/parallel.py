"""`parallelize` and `fully_shard`: hidden units, or the memory of parameters, divided among the ranks of a mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .errors import message
from .functional._ranks import smallest_part
from .nn import GradNet
from .nn.base import METHODS

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["fully_shard", "parallelize"]

Model = TypeVar("Model", bound=nn.Module)

_AVERAGED = WeakTensorKeyDictionary()
"""Scalar parameters that have a hook of `fully_shard`, which may be applied to a submodule first."""


def parallelize(model: Model, mesh: DeviceMesh) -> Model:
    """Divide the hidden units of every gradient network in a model among the ranks of a mesh, in place.

    f is a sum over hidden units: each rank computes its part at all points, and one all-reduce of f, and one of the
    gradient of x, adds the parts.  Parameters become DTensors: those over hidden units Shard(…), the others
    Replicate(); their gradients and an optimizer's moments likewise.  A network of modules keeps its parameters whole,
    and each rank computes some of the modules.  The points are plain tensors, the same on all ranks of the mesh; along
    another mesh dimension `fully_shard` may divide the batch.

    Equivalent to: the model as it is, to rounding, on every rank.

    Args:
        model: a gradient network, or a module with some in it.  The first rank's weights count, also those of other
            layers, which stay whole.  Make the optimizer afterwards, for the networks' Parameter
            objects are new; a fused one needs one group for them and another for those of other layers.
        mesh: one-dimensional, for example init_device_mesh("cuda", (8,)), or mesh["tensor"] of a larger one.

    Returns:
        The model.

    Raises:
        TypeError: model or mesh is of another type.
        ValueError: the mesh has several dimensions, there is no gradient network, or a rank would have no
            hidden units or modules.

    >>> import torch, gradnets_fast
    >>> from torch.distributed.device_mesh import init_device_mesh
    >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    >>> mesh = init_device_mesh("cpu", (1,))  # a real one has a rank for each process that torchrun starts
    >>> net = gradnets_fast.parallelize(gradnets_fast.mGradNetC(2, 3, 8), mesh)
    >>> net(torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    >>> torch.distributed.destroy_process_group()
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    made: dict[Tensor, nn.Parameter] = {}  # networks may share parameters
    for _, network in _networks(model, mesh):
        network.mesh = mesh
        dimensions = network.hidden_dimensions()
        for prefix, owner in network.named_modules():
            for name, parameter in list(owner.named_parameters(recurse=False)):
                if parameter not in made:
                    dim = dimensions.get(f"{prefix}.{name}".lstrip("."))
                    placement = Replicate() if dim is None else Shard(dim)
                    distributed = distribute_tensor(parameter.detach(), mesh, [placement])
                    made[parameter] = nn.Parameter(distributed, requires_grad=parameter.requires_grad)
                setattr(owner, name, made[parameter])
    others = [tensor for tensor in (*model.parameters(), *model.buffers()) if not isinstance(tensor, DTensor)]
    for tensor in others:
        torch.distributed.broadcast(tensor.detach(), group=mesh.get_group(), group_src=0)
    return model


def fully_shard(model: Model, mesh: DeviceMesh, **options: Any) -> Model:
    """PyTorch's `fully_shard`, for models with gradient networks: each rank holds a part of every parameter.

    Besides `forward`, a network's `potential`, `jvp`, `divergence` and `jacobian` gather the parameters too.  Scalar
    parameters, such as the sharpness of a soft maximum, which PyTorch's refuses to shard, stay whole on each rank, with
    the mean of the ranks' gradients.

    Equivalent to, where there are no such scalars:
        torch.distributed.fsdp.fully_shard(model, mesh=mesh, **options)

    Args:
        model: any module; apply it to submodules first, as PyTorch's own.  Make the optimizer afterwards.
        mesh: the ranks that hold the parameters together, each with a batch of its own.
        options: further arguments of `torch.distributed.fsdp.fully_shard`.

    Returns:
        The model.

    Raises:
        ValueError: PyTorch's own refuses the model or the mesh, for example a torch.nn.ModuleList.

    >>> import torch, gradnets_fast
    >>> from torch.distributed.device_mesh import init_device_mesh
    >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    >>> mesh = init_device_mesh("cpu", (1,))  # a real one has a rank for each process that torchrun starts
    >>> net = gradnets_fast.fully_shard(gradnets_fast.mGradNetC(2, 3, 8), mesh)
    >>> net(torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    >>> torch.distributed.destroy_process_group()
    """
    from torch.distributed import fsdp

    scalars = {parameter for parameter in model.parameters() if not parameter.dim()}
    kept = scalars | (options.pop("ignored_params", None) or set())
    if kept:
        options["ignored_params"] = kept  # which PyTorch 2.6 does not know
    fsdp.fully_shard(model, mesh=mesh, **options)

    def mean_over_ranks(parameter: Tensor) -> None:
        gradient: Any = parameter.grad
        own = gradient.to_local() if hasattr(gradient, "to_local") else gradient  # divided by `parallelize` too
        for group in mesh.get_all_groups():
            torch.distributed.all_reduce(own, group=group)
        own /= mesh.size()

    for scalar in scalars:
        if scalar.requires_grad and scalar not in _AVERAGED:
            scalar.register_post_accumulate_grad_hook(mean_over_ranks)
            _AVERAGED[scalar] = True
    if isinstance(model, GradNet):
        for method in METHODS[1:]:
            fsdp.register_fsdp_forward_method(model, method)
    return model


def _networks(model: nn.Module, mesh: DeviceMesh) -> list[tuple[str, GradNet]]:
    """The gradient networks of the model by their names.

    Raises:
        TypeError, ValueError: as `parallelize` does.
    """
    from torch.distributed.device_mesh import DeviceMesh as Mesh

    where = "parallelize"
    if not isinstance(model, nn.Module):
        raise TypeError(message(where, "model", "a torch.nn.Module", type(model).__name__, "pass the network"))
    if not isinstance(mesh, Mesh):
        fix = 'for example init_device_mesh("cpu", (2,))'
        raise TypeError(message(where, "mesh", "a DeviceMesh", type(mesh).__name__, fix))
    if mesh.ndim != 1:
        fix = "name one of its dimensions, for example mesh['tensor']"
        raise ValueError(message(where, "mesh", "one dimension", f"{mesh.ndim}, {mesh.mesh_dim_names}", fix))
    networks = [(name, net) for name, net in model.named_modules() if isinstance(net, GradNet)]
    if not networks:
        fix = "call gradnets_fast.accelerate(model) first, if it has networks in the authors' structure"
        raise ValueError(message(where, "model", "at least one gradient network", "none", fix))
    for name, network in networks:
        _check(f"model{'.' if name else ''}{name}", network, mesh.size())
    return networks


def _check(argument: str, network: GradNet, ranks: int) -> None:
    if getattr(network, "combine", "sum") != "sum":
        fix = "use fully_shard or DistributedDataParallel for it"
        raise ValueError(message("parallelize", argument, "a sum over hidden units or modules", "a soft maximum", fix))
    dimensions = network.hidden_dimensions()
    modules = getattr(network, "num_modules", None)
    if not dimensions and modules is None:
        fix = "use fully_shard or DistributedDataParallel for it"
        raise ValueError(
            message("parallelize", argument, "a ridge, cascaded or modular network", type(network).__name__, fix)
        )
    units = modules if modules is not None else network.get_parameter("W").shape[dimensions["W"]]
    if not smallest_part(units, [ranks]):
        parts = "hidden units" if modules is None else "modules"
        most = max(size for size in range(1, ranks) if smallest_part(units, [size]))
        expected, got = f"{parts} for each of {ranks} ranks, ⌈{parts} / ranks⌉ at a time", str(units)
        raise ValueError(message("parallelize", argument, expected, got, f"use a mesh of {most}"))
