"""
Hamiltonian dynamics of a pendulum
==================================

A pendulum with the angle q and the momentum p has the energy H = p²/2 − cos q, and moves by dq/dt = ∂H/∂p and
dp/dt = −∂H/∂q.  A gradient network learns ∇H from noisy velocities.  Whatever it learns, its solutions keep an energy,
that of the network, while those of a network that learns the velocities themselves run away.
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import gradnets_fast
from gradnets_fast.interop import HamiltonianFlow


def energy(y: Tensor) -> Tensor:
    """H of points y = (q, p), (…, 2)."""
    return y[..., 1].square() / 2 - y[..., 0].cos()


def gradient(y: Tensor) -> Tensor:
    """∇H = (sin q, p), (…, 2)."""
    return torch.stack([y[..., 0].sin(), y[..., 1]], -1)


# %%
# The data: 400 points whose velocities were measured with noise.  ``fit`` trains the gradient network by one call of
# kernels a step.

torch.manual_seed(0)
y = torch.stack([5 * torch.rand(400) - 2.5, 4 * torch.rand(400) - 2], 1)
targets = gradient(y) + 0.1 * torch.randn(400, 2)
net = gradnets_fast.DeepGradNet(in_dim=2, widths=(64, 64), activation="tanh")
print(gradnets_fast.fit(net, y, gradients=targets, steps=2000, batch_size=200, progress=False).way)

# %%
# Beside it a plain network of the same size, whose output is the velocity.

plain = torch.nn.Sequential(
    *(torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2))
)
velocities = torch.stack([targets[:, 1], -targets[:, 0]], 1)
gradnets_fast.fit(plain, y, gradients=velocities, steps=2000, batch_size=200, progress=False)

# %%
# Both move one point for 60 units of time, about nine swings, by the classical Runge–Kutta method.


@torch.no_grad()
def orbit(velocity: Callable[[Tensor], Tensor], start: Tensor, steps: int = 1200, dt: float = 0.05) -> Tensor:
    """The points at all steps, (steps + 1, 2)."""
    points = [start]
    for _ in range(steps):
        at = points[-1]
        k1 = velocity(at)
        k2 = velocity(at + dt / 2 * k1)
        k3 = velocity(at + dt / 2 * k2)
        k4 = velocity(at + dt * k3)
        points.append(at + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return torch.stack(points)


flow, exact, start = HamiltonianFlow(net), HamiltonianFlow(gradient), torch.tensor([2.0, 0.0])
orbits = {
    "exact": orbit(lambda at: exact(0.0, at), start),
    "gradient network": orbit(lambda at: flow(0.0, at), start),
    "plain network": orbit(plain, start),
}
results = {f"energy off by, {name}": float((energy(of) - energy(start)).abs().max()) for name, of in orbits.items()}
for name, value in results.items():
    print(f"{name:40}{value:.2e}")

# %%
# The orbits, and the energy along them.

colours = {"exact": "#222222", "gradient network": "#1b6ca8", "plain network": "#d1495b"}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for name, of in orbits.items():
    left.plot(*of.T, color=colours[name], linewidth=1, label=name)
    right.plot(0.05 * torch.arange(len(of)), energy(of), color=colours[name], linewidth=1)
left.set(xlabel="q", ylabel="p")
left.legend(loc="lower left", fontsize="small")
right.set(xlabel="time", ylabel="H")
plt.show()
