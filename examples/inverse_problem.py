"""
An inverse problem with a learned convex regulariser
====================================================

The measurement is y = A x + noise, where the blur A takes means of five neighbours.  A monotone gradient network ∇R is
trained so that x − ∇R(x) removes noise from piecewise constant signals.  Then R serves for any A: ½|A x − y|² + λ R(x)
is convex, and gradient descent finds its minimum.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import gradnets_fast

LENGTH = 32


def signals(count: int) -> Tensor:
    """Piecewise constant signals with two jumps each, (count, LENGTH)."""
    jumps = torch.randint(1, LENGTH, (count, 2, 1))
    return (torch.randn(count, 2, 1) * (torch.arange(LENGTH) >= jumps)).sum(1)


# %%
# The regulariser learns from signals and noise alone; it does not see the blur.

torch.manual_seed(0)
net = gradnets_fast.mGradNetC(num_layers=1, in_dim=LENGTH, embed_dim=64, activation="tanh")
steps = 1000
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in range(steps):
    clean = signals(256)
    noisy = clean + 0.2 * torch.randn_like(clean)
    loss = (noisy - net(noisy) - clean).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# %%
# New signals are measured, and reconstructed beside the usual quadratic regulariser ``|D x|²`` with its best weight.

clean = signals(200)
A = torch.ones(LENGTH, LENGTH).tril(2).triu(-2) / 5
y = clean @ A.T + 0.05 * torch.randn_like(clean)
D = torch.eye(LENGTH).diff(dim=0)
weights, weight = (0.003, 0.01, 0.03, 0.1, 0.3), 0.1
quadratics = [torch.linalg.solve(A.T @ A + w * D.T @ D, A.T @ y.T).T for w in weights]
with torch.no_grad():
    L = float(torch.linalg.matrix_norm(net.jacobian(signals(200)), 2).max())  # how fast ∇R changes
    x = y.clone()
    for _ in range(300):
        x -= ((x @ A.T - y) @ A + weight * net(x)) / (1 + weight * L)


def error(signal: Tensor) -> float:
    """Mean squared error."""
    return float((signal - clean).square().mean())


quadratic = min(quadratics, key=error)
results = {
    "as measured": error(y),
    "best quadratic regulariser": error(quadratic),
    "learned regulariser": error(x),
}
for name, value in results.items():
    print(f"{name:40}{value:.2e}")

# %%
# Three of the signals: what was measured, and the two reconstructions.

figure, panels = plt.subplots(1, 3, figsize=(9, 3), layout="constrained", sharey=True)
for i, axes in enumerate(panels):
    axes.plot(y[i], ".", color="#999999", label="measured")
    axes.plot(quadratic[i], color="#edae49", label="quadratic regulariser")
    axes.plot(x[i], color="#1b6ca8", label="learned regulariser")
    axes.step(range(LENGTH), clean[i], color="#222222", linewidth=0.8, where="mid", label="signal")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
plt.show()
