"""Steps of training by `fit`, by a loop of PyTorch, and by jax.jit of the whole step: `python -m bench.fit`.

A sample is a run of STEPS steps of Adam on the mean squared error of one batch, from the same parameters; contenders
run in turns, after a check that their parameters after it and the loss of the last step are the same.  PyTorch's loop
is the network's forward pass, mse_loss, backward and torch.optim.Adam(fused=True).  In JAX, where it is installed, a
step is one function of five arrays, with the gradient by jax.value_and_grad and Adam written out, whose arguments are
donated.  Times are medians of microseconds a step; a gain is the median of the ratios of a turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import gradnets_fast as gf
from bench.environment import RESULTS, environment
from gradnets_fast.apps.bench.measurement import interleaved, sample
from gradnets_fast.apps.files import write_json
from gradnets_fast.nn import GradNet

STEPS, RATE, LAYERS = 200, 1e-3, 4
SIZES = ((100, 2, 7), (1000, 2, 7), (1000, 8, 64))
ARCHITECTURES: dict[str, Callable[[int, int], GradNet]] = {
    "mGradNetC, 4 layers": lambda d, h: gf.mGradNetC(LAYERS, d, h),
    "mGradNetM, 4 modules": lambda d, h: gf.mGradNetM(LAYERS, d, h),
}
Job = Callable[[], list[Tensor]]


def flat(net: GradNet) -> Tensor:
    """The parameters in one tensor, in the order of `stacked`."""
    return torch.cat([part.flatten() for part in stacked(net).values()])


def stacked(net: GradNet) -> dict[str, Tensor]:
    """The parameters in few tensors, by the names that the formulas in JAX have."""
    if isinstance(net, gf.GradNetC):
        *b, bias = net.bias
        parts = {"W": net.W, "beta": torch.stack([*net.beta]), "alpha": torch.stack([*net.alpha])}
        return {name: part.detach() for name, part in (parts | {"b": torch.stack(b), "bias": bias}).items()}
    assert isinstance(net, gf.GradNetM)
    modules = net.mmgn_modules
    parts = {"W": modules.W, "b": modules.b, "beta": modules.beta, "alpha": net.alpha, "bias": net.bias}
    return {name: part.detach() for name, part in parts.items()}


def jobs_of(make: Callable[[], GradNet], x: Tensor, g: Tensor) -> dict[str, Job]:
    """Each contender's run of STEPS steps, which returns the parameters after it and the loss of the last step."""
    net = make()
    start = [p.detach().clone() for p in net.parameters()]

    def begin() -> None:
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), start):
                parameter.copy_(value)

    def ours() -> list[Tensor]:
        begin()
        plan: dict[str, Any] = {"steps": STEPS, "batch_size": len(x), "learning_rate": RATE, "schedule": "constant"}
        result = gf.fit(net, x, g, **plan, progress=False)
        if result.way != "kernels":
            raise AssertionError(result.way)
        return [flat(net), result.losses[-1]]

    def loop() -> list[Tensor]:
        begin()
        optimizer = torch.optim.Adam(net.parameters(), lr=RATE, fused=True)
        for _ in range(STEPS):
            loss = mse_loss(net(x), g)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [flat(net), loss.detach()]

    jobs: dict[str, Job] = {"fit": ours, "PyTorch's loop": loop}
    if importlib.util.find_spec("jax") is not None:
        jobs["jax.jit"] = by_jax(stacked(net), x, g, isinstance(net, gf.GradNetC))
    return jobs


def by_jax(parameters: dict[str, Tensor], x: Tensor, g: Tensor, is_cascade: bool) -> Job:
    """The same run by jax.jit of the whole step."""
    import jax
    from jax import numpy as jnp

    softplus, names = jax.nn.softplus, list(parameters)
    start = [jnp.asarray(part.numpy().copy()) for part in parameters.values()]
    points, targets = jnp.asarray(x.numpy()), jnp.asarray(g.numpy())

    def cascade(p: dict[str, Any], x: Any) -> Any:
        u, beta, alpha = x @ p["W"].T, softplus(p["beta"]), softplus(p["alpha"])
        z = beta[0] * (u + p["b"][0])
        for layer in range(1, LAYERS):
            z = beta[layer] * (u + p["b"][layer]) + alpha[layer - 1] * jnp.tanh(z)
        return (alpha[-1] * jnp.tanh(z)) @ p["W"] + p["bias"]

    def modules(p: dict[str, Any], x: Any) -> Any:
        z = softplus(p["beta"])[:, None] * (jnp.einsum("bd,mhd->mbh", x, p["W"]) + p["b"][:, None])
        weighted = softplus(p["alpha"])[:, None, None] * jax.nn.softmax(z, axis=-1)
        return jnp.einsum("mbh,mhd->bd", weighted, p["W"]) + p["bias"]

    def loss_of(arrays: list[Any], x: Any, g: Any) -> Any:
        f = (cascade if is_cascade else modules)(dict(zip(names, arrays)), x)
        return jnp.mean((f - g) ** 2)

    def step(arrays: list[Any], m: list[Any], v: list[Any], count: Any, x: Any, g: Any) -> tuple[Any, ...]:
        loss, gradients = jax.value_and_grad(loss_of)(arrays, x, g)
        count = count + 1
        m = [0.9 * mean + 0.1 * d for mean, d in zip(m, gradients)]
        v = [0.999 * mean + 0.001 * d * d for mean, d in zip(v, gradients)]
        size, root = RATE / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
        moved = [p - size * a / (jnp.sqrt(b) / root + 1e-8) for p, a, b in zip(arrays, m, v)]
        return loss, moved, m, v, count

    fast = jax.jit(step, donate_argnums=(0, 1, 2, 3))

    def run() -> list[Tensor]:
        state = [a.copy() for a in start], [a * 0 for a in start], [a * 0 for a in start], jnp.zeros(())
        for _ in range(STEPS):
            loss, *state = fast(*state, points, targets)
        arrays = [torch.utils.dlpack.from_dlpack(a.block_until_ready()) for a in state[0]]
        return [torch.cat([a.flatten() for a in arrays]), torch.tensor(float(loss))]

    return run


def measured(
    label: str, make: Callable[[int, int], GradNet], size: tuple[int, int, int], rounds: int
) -> dict[str, Any]:
    """The row of one network and size."""
    batch, d, h = size
    x = torch.randn(batch, d)
    jobs = jobs_of(lambda: make(d, h), x, x.tanh() + 0.5 * x)
    expected, *others = (job() for job in jobs.values())
    for other in others:
        for mine, theirs in zip(expected, other):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    samples = interleaved({name: lambda job=job: sample(job, 1) for name, job in jobs.items()}, rounds, 20.0)
    medians = {name: 1e6 * statistics.median(seconds) / STEPS for name, seconds in samples.items()}
    gains = {name: statistics.median(b / a for a, b in zip(samples["fit"], samples[name])) for name in [*jobs][1:]}
    shown = ", ".join(f"{name} {medians[name]:.0f} µs" for name in medians)
    print(f"{label}, {size}: {shown}; {', '.join(f'{gain:.1f}×' for gain in gains.values())}", flush=True)
    return {"network": label, "batch": batch, "d": d, "h": h, "microseconds": medians, "gain": gains}


def main() -> None:
    """Measures, and writes bench/results/fit.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.fit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="samples of each contender")
    rounds = parser.parse_args().rounds
    where = environment()
    if importlib.util.find_spec("jax") is not None:
        where["jax"] = importlib.import_module("jax").__version__
    torch.manual_seed(0)
    rows = [measured(label, make, size, rounds) for label, make in ARCHITECTURES.items() for size in SIZES]
    write_json(RESULTS / "fit.json", {"environment": where, "rows": rows})


if __name__ == "__main__":
    main()
