"""`to_c`: a network as one C99 file that needs nothing but the C library's mathematics."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable
from pathlib import Path
from string import Template

import torch
from torch import Tensor

from ..activations import TABLE
from ..activations.quadrature import PANELLED_RULE, rule
from ..errors import check_choice, message
from ..functional import Ridge, SoftmaxModules, TransformedModules
from ..nn import GradNet
from . import _templates as templates
from ._scalar import Real

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_MOST = 64
"""Of dimensions: a Jacobian and its factor stand on the stack."""


def to_c(net: GradNet, path: str | os.PathLike[str], *, name: str = "gradnet", dtype: str | None = None) -> None:
    """Print a network as a C99 file: f, F, the Jacobian and, of a monotone network, the inverse map.

    The file needs math.h alone and allocates nothing.  It declares, for points of d numbers,
        void NAME_gradient(const real *x, real *f);
        real NAME_potential(const real *x);
        void NAME_jacobian(const real *x, real *J);     /* d × d, row by row */
        int NAME_inverse(const real *y, real *x, real tolerance, int steps);
    where real is float or double.  NAME_inverse finds f(x) = y by damped Newton steps from the x given, until
    |f(x) − y| <= tolerance, and returns how many it made, or −1 if it did not get there.

    Equivalent to, for one point:
        net(x), net.potential(x), net.jacobian(x), gradnets_fast.convex.inverse(net, y).x
    up to rounding, but for the potential of cascades whose functions have kinks, which is by 128 nodes here: of relu it
    is some 1e-5 off.

    Args:
        net: a `RidgeGradNet`, `GradNetC` or `GradNetM`, or their monotone kin, of at most 64 dimensions, without spline
            and soft maximum.
        path: the file, which is replaced whole or not at all.
        name: what the functions' names begin with.
        dtype: "float32" or "float64"; None for that of the parameters, float32 for 16 bits.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, and the fix.
        OSError: the file cannot be written.

    Source: none; the formulas are those of arXiv 2404.07361.

    >>> import tempfile, gradnets_fast
    >>> from pathlib import Path
    >>> from gradnets_fast.export import to_c
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_c(gradnets_fast.mGradNetC(2, 3, 8), Path(folder) / "map.c", name="map")
    ...     "void map_gradient(const real *x, real *f)" in (Path(folder) / "map.c").read_text()
    True
    """
    dtype = _dtype_of(net) if dtype is None else dtype
    check_choice("to_c", "dtype", dtype, list(_DTYPES))
    with torch.no_grad():
        text = _text(net, _checked(net, name), name, _DTYPES[dtype])
    target = Path(path)
    temporary = target.with_name(f".{target.name}-{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _dtype_of(net: object) -> str:
    """Return "float64" for a network of such parameters, else "float32"."""
    parameters = net.parameters() if isinstance(net, torch.nn.Module) else ()
    return "float64" if any(p.dtype == torch.float64 for p in parameters) else "float32"


Printed = Ridge | SoftmaxModules | TransformedModules
_FAMILIES = (Ridge, SoftmaxModules, TransformedModules)


def _checked(net: GradNet, name: str) -> Printed:
    """Return the network in its effective parameters; raise unless it can be printed."""
    where, kinds = "to_c", "RidgeGradNet, GradNetC, GradNetM or their monotone kin"
    if not isinstance(net, GradNet):
        raise TypeError(message(where, "net", f"a {kinds}", type(net).__name__, "pass such a network"))
    # Its parameters' chain in double, so that float64 code of a float32 network has no rounding of float32 in it.
    network = copy.deepcopy(net).double()._effective() if net.family in _FAMILIES else None
    if not isinstance(network, _FAMILIES):
        raise TypeError(
            message(where, "net", f"a {kinds}", type(net).__name__, "export it by torch.onnx or torch.export")
        )
    if network.W.shape[-1] > _MOST:
        raise ValueError(message(where, "net", f"at most {_MOST} dimensions", network.W.shape[-1], "use torch.export"))
    if network.sharpness is not None:
        raise ValueError(message(where, "net", 'combine="sum"', "a soft maximum", "use torch.export"))
    if isinstance(network, Ridge) and network.basis in ("spline", ("spline",)):
        raise ValueError(message(where, "net", "activations of the table", "a spline", "use torch.export"))
    if not re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", name):
        raise ValueError(message(where, "name", "a name of C", repr(name), "use letters, digits and underscores"))
    if not all(bool(p.isfinite().all()) for p in net.parameters()):
        raise ValueError(
            message(where, "net", "finite parameters", "inf or NaN", "train it anew, or load a checkpoint")
        )
    return network


def _text(net: GradNet, network: Printed, name: str, dtype: torch.dtype) -> str:
    real, d = Real.of(dtype), network.W.shape[-1]
    constants: dict[str, Tensor | None] = {"W": network.W, "bias": network.bias}
    constants["S"] = None if net.linear is None else copy.deepcopy(net.linear).double().matrix()
    bases: Iterable[str] = ()
    integrals = True
    if isinstance(network, Ridge):
        bases, body = _ridge(network, constants, real)
        integrals = _is_closed(network)
    elif isinstance(network, SoftmaxModules):
        constants |= {"b": network.b, "temperature": network.temperature, "positive": network.positive}
        constants["negative"] = network.negative
        body = Template(templates.SOFTMAX).substitute(
            signs="" if network.negative is None else templates.NEGATIVE,
            h=network.W.shape[1],
            count=len(network.W),
            s=real.suffix,
        )
    else:
        constants |= {"b": network.b, "weight": network.weight}
        bases = (network.basis,)
        body = Template(templates.TRANSFORMED).substitute(
            basis=network.basis, transform=network.transform, h=network.W.shape[1], count=len(network.W)
        )
        body = f"{real.transform(network.transform)}\n\n{body}"
    held = {of: t.detach().to(dtype).cpu() for of, t in constants.items() if t is not None}
    if not all(bool(t.isfinite().all()) for t in held.values()):
        fix = 'pass dtype="float64", or train it to smaller ones'
        raise ValueError(message("to_c", "net", f"parameters that {real.name} holds", "larger ones", fix))
    arrays = [_array(real, of, t) for of, t in held.items()]
    head = Template(templates.HEAD).substitute(of=type(net).__name__, d=d, name=name, real=real.name, s=real.suffix)
    tail = templates.entries(constants["bias"] is not None, constants["S"] is not None)
    tail += templates.PUBLIC + (templates.INVERSE if net.monotone else "")
    functions = [real.basis(basis, integrals) for basis in dict.fromkeys(bases)]
    end = Template(tail).substitute(d=d, name=name, half=real.literal(0.5), s=real.suffix)
    return "\n\n".join([head, *arrays, *functions, body.strip("\n"), end.strip("\n")]) + "\n"


def _is_closed(network: Ridge) -> bool:
    """Whether the potential is a sum of antiderivatives."""
    return network.heads or network.shift.numel() == len(network.W)


def _ridge(network: Ridge, constants: dict[str, Tensor | None], real: Real) -> tuple[tuple[str, ...], str]:
    """The names of the basis functions, and the code of the hidden units."""
    shift = network.shift.reshape(-1, len(network.W))
    bases = (network.basis,) if isinstance(network.basis, str) else tuple(network.basis)
    layers = len(shift)
    constants["shift"] = shift
    constants["scale"] = torch.ones_like(shift) if network.scale is None else network.scale
    ones = shift.new_ones(layers, len(bases), shift.shape[1])
    constants["coef"] = ones if network.coef is None else network.coef
    mixed = "\n".join(f"        {templates.MIX.format(basis=basis, k=k)}" for k, basis in enumerate(bases))
    closed = _is_closed(network)
    nodes = rule(1, 4) if closed else PANELLED_RULE
    arrays = [
        f"static const real {of}[] = {real.array(list(part))};" for of, part in zip(("node", "part"), zip(*nodes))
    ]
    profile = Template(templates.HEADS if network.heads else templates.CASCADE).substitute(layers=layers, mixed=mixed)
    terms = " + ".join(f"coef[l][{k}][j] * rise_{b}(scale[l][j], shift[l][j], u)" for k, b in enumerate(bases))
    integral = Template(templates.CLOSED if closed else templates.QUADRATURE)
    rises = [_rise(basis, real, len(nodes)) for basis in dict.fromkeys(bases)] if closed else []
    integrated = integral.substitute(layers=layers, terms=terms, nodes=len(nodes))
    hidden = Template(templates.RIDGE).substitute(h=len(network.W))
    parts = [*arrays, *rises, profile, integrated, hidden]
    return bases, "\n\n".join(part.strip("\n") for part in parts)


def _rise(basis: str, real: Real, nodes: int) -> str:
    """The integral of a basis function: the closed form as far down as it has fewer errors than the rule."""
    small = {"float": (1 / 64, 1e-3), "double": (1 / 64, 1e-7)}[real.name][not TABLE[basis].smooth]
    near = real.literal(small)
    return Template(templates.RISE).substitute(basis=basis, nodes=nodes, near=near, s=real.suffix)


def _array(real: Real, name: str, values: Tensor) -> str:
    shape = "".join(f"[{size}]" for size in values.shape)
    return f"static const real {name}{shape} = {real.array(values.double().tolist())};"
