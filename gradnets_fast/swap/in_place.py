"""`accelerate` and `restore`: modules of a model take on our classes in place, and give them back."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from ..errors import message
from .convolutional import METHODS, SCALES, Reading, structure_of
from .forms import Form, forms, with_log_determinant
from .parametrized import class_of, take_class
from .report import Entry, Report
from .verification import Behaviour, Method, MismatchError, behaviour, is_pair, probe, probe_of, verified

_RECORD = "_before_gradnets_fast"
_IMAGES = 4
"""In a batch of a comparison."""


def accelerate(model: nn.Module) -> Report:
    """Run every gradient network in a model by this package's kernels, in place.

    A module that has the parameters of one of the architectures, by name and shape, takes on their class; the module
    itself, its Parameter objects, buffers and hooks remain, so that optimisers, averages of weights and checkpoints go
    on as they were.  First f and the gradients of all parameters are computed both ways at random points, at perturbed
    parameters and buffers and at parameters of other signs too: on a difference the module is left as it is, and also
    if it is another function in training than in evaluation.  Numbers that are neither parameters nor buffers, and
    which functions activations compute, are read once, here.

    The architectures are mGradNet-C, GradNet-C, mGradNet-M and GradNet-M of arXiv 2404.07361, and C-MGN and M-MGN of
    arXiv 2301.10862, as the authors' code and its public reimplementations name their parameters.  Where forward
    returns (f, log-determinant of the Jacobian of f), it still does.  Classes registered with
    `register_adapter` are recognised too.

    Modules of convolutions, f(x) = Kᵀσ(K∗x + b) + bias, and the two published ridge regularisers of images keep their
    class as a base of ours: of their methods `grad`, `forward`, `g` and `potential` those are replaced that are proven
    to be f or its potential.

    Equivalent to: the model as it is, to rounding.

    Args:
        model: any module; it may be a gradient network itself.

    Returns:
        A `Report` of what was swapped, and what was not with the reason; prints as a table.

    Raises:
        TypeError: model is no torch.nn.Module.

    Source: Chaudhari, Pranav, Moura, "Gradient Networks", arXiv 2404.07361, and its code; arXiv 2301.10862.

    >>> import torch
    >>> from gradnets_fast import mGradNetC, restore
    >>> print(accelerate(torch.nn.Linear(2, 2)))
    gradnets_fast: no module has the structure of a gradient network; see register_adapter
    """
    _check(model, "accelerate")
    modules = list(model.named_modules())
    entries = {path: _swapped(path, module) for path, module in modules}
    for path, module in reversed(modules):  # the innermost that is a network, not what calls it
        entries[path] = entries[path] or _swapped_of_images(path, module)
    return Report(tuple(entry for path, _ in modules for entry in entries[path]))


def restore(model: nn.Module) -> int:
    """Undo `accelerate`, in place.

    Args:
        model: the module that was given to `accelerate`, or one that contains it.

    Returns:
        The number of modules that are restored.

    Raises:
        TypeError: model is no torch.nn.Module.

    >>> import torch
    >>> restore(torch.nn.Linear(2, 2))
    0
    """
    _check(model, "restore")
    count = 0
    for module in model.modules():
        if _RECORD in vars(module):  # parts of a network go back with it
            _undo(module)
            count += 1
    return count


def _check(model: object, where: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            message(where, "model", "a torch.nn.Module", type(model).__name__, "pass the model, not its parameters")
        )


def _swapped(path: str, module: nn.Module) -> list[Entry]:
    """The entry of a module that has the structure of a gradient network; none for others."""
    was = class_of(module).__name__
    try:
        candidates = forms(module)
    except Exception as error:  # a user's adapter, or a module with a part missing, may raise anything
        candidates = [f"its adapter or structure fails: {type(error).__name__}: {error}"]
    if candidates is None:
        return []
    reasons = [form for form in candidates if isinstance(form, str)]
    able = [form for form in candidates if not isinstance(form, str)]
    chosen = _first_that_agrees(module, able, reasons) if able else None
    if chosen is None:
        return [Entry(path, was, None, "\n".join(dict.fromkeys(reasons)))]
    form, difference = chosen
    return [Entry(path, was, form.label, error=difference)]


def _swapped_of_images(path: str, module: nn.Module) -> list[Entry]:
    """The entry of a module of convolutions, one of whose methods returns images like the points; none for others."""
    was = class_of(module).__name__
    try:
        structure = structure_of(module)
    except Exception as error:  # a user's adapter
        return [Entry(path, was, None, f"its adapter fails: {type(error).__name__}: {error}")]
    if structure is None:
        return []
    batches = probe_of(module, structure.points(_IMAGES), SCALES)
    roles = {name: role for name in METHODS if (role := _role(Method(module, name), batches[0]))}
    if "forward" not in roles.values():
        return []
    reasons: list[str] = []
    before: dict[str, dict[str, Behaviour]] = {"forward": {}, "potential": {}}
    for name, role in roles.items():
        try:
            if role == "forward":
                before[role][name] = behaviour(Method(module, name), batches)
            else:  # near 0, and at parameters of other signs, R is often a difference of far larger numbers
                of_R = behaviour(Method(module, name), batches[:2])
                before[role][name] = replace(of_R, samples=of_R.samples[:1])
        except Exception as error:
            reasons.append(f"its {name} {error if isinstance(error, MismatchError) else f'fails: {error}'}")
    for reading in structure.readings() if before["forward"] else ():
        if isinstance(reading, str):
            reasons.append(reading)
            continue
        proven = _proven(module, reading, "forward", before["forward"], reasons)
        if proven:
            proven |= _proven(module, reading, "potential", before["potential"], [])
            form = reading.form(module, {name: roles[name] for name in proven})
            _become(module, form)
            return [Entry(path, was, form.label, error=max(proven.values()))]
    return [Entry(path, was, None, "\n".join(dict.fromkeys(reasons)))]


def _role(method: Method, points: Tensor) -> str:
    """Which method of a network a user's method may be, by the shape of its result, or ""."""
    of_class = getattr(type(method.module), method.name, None)
    if of_class in (None, nn.Module.forward) or method.name in vars(method.module):
        return ""  # what the module itself has would hide ours
    try:
        shape = method.result_shape(points)
    except Exception:  # as may a user's method that takes more than points
        return ""
    return {tuple(points.shape): "forward", (len(points),): "potential"}.get(shape, "")


def _proven(
    module: nn.Module, reading: Reading, role: str, before: dict[str, Behaviour], reasons: list[str]
) -> dict[str, float]:
    """The methods that a reading's network computes too, each with the difference; the module is as it was then."""
    proven = {}
    for name, behaviour_before in before.items():
        _become(module, reading.form(module, {name: role}))
        try:
            proven[name] = verified(Method(module, name), behaviour_before)
        except Exception as error:
            reasons.append(f"its {name} is not {reading.label}, which {error}")
        _undo(module)
    return proven


def _first_that_agrees(module: nn.Module, able: list[Form], reasons: list[str]) -> tuple[Form, float] | None:
    """The form that a module has taken on, and its difference; the refusals of others are added to `reasons`."""
    try:
        batches = probe(module, able[0].in_dim, able[0].scales)
        before = behaviour(module, batches)
    except MismatchError as mismatch:
        reasons.append(f"its forward {mismatch}")
        return None
    except Exception as error:  # as may a user's forward
        reasons.append(f"its forward fails at random points: {type(error).__name__}: {error}")
        return None
    if is_pair(before.values[0]):
        able = [pair for form in able for pair in with_log_determinant(form)]
    for form in able:
        _become(module, form)
        try:
            return form, verified(module, before)
        except MismatchError as mismatch:
            reasons.append(f"{form.label} {mismatch}")
        except Exception as error:
            reasons.append(f"{form.label} fails: {error}")
        _undo(module)
    return None


def _become(module: nn.Module, form: Form) -> None:
    """Give a module the class and attributes of a form, and keep what they replace."""
    own = vars(module)
    # An attribute of its own, such as `monotone`, would hide the class's.
    keeps_its_class = issubclass(form.cls, class_of(module))
    hiding = {name for name in own if hasattr(form.cls, name) and not (keeps_its_class or hasattr(nn.Module, name))}
    replaced = {name: own.pop(name) for name in hiding | (own.keys() & form.attributes.keys())}
    own[_RECORD] = (class_of(module), replaced, tuple(form.attributes))
    own.update(form.attributes)
    take_class(module, form.cls)
    for name, part in form.parts.items():
        _become(module.get_submodule(name), part)


def _undo(module: nn.Module) -> None:
    own = vars(module)
    cls, replaced, names = own.pop(_RECORD)
    for name in names:
        del own[name]
    own.update(replaced)
    take_class(module, cls)
    for child in module.children():
        if _RECORD in vars(child):
            _undo(child)
