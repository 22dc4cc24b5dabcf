"""Follow a PyTorch model: the loss and its gradient stay in PyTorch, the parameters cross over.

Trains a small network with torch.optim.Adam, checks that shadowflow's Adam takes the same steps,
and prints how far two flows are from it. Needs PyTorch (`make torch`).
"""

import jax
import numpy as np
import torch

import shadowflow as sf

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
STEPS, LEARNING_RATE = 20, 1e-3

model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
inputs = torch.randn(64, 4)
targets = torch.sin(inputs.sum(dim=1, keepdim=True))
start = {name: value.detach().numpy().copy() for name, value in model.named_parameters()}


def loss(params):
    """The loss at the given parameters, as a torch scalar."""
    outputs = torch.func.functional_call(model, params, (inputs,))
    return torch.nn.functional.mse_loss(outputs, targets)


def gradient(params):
    """Its gradient: arrays in, arrays out, of the same names and shapes."""
    tensors = {name: torch.tensor(np.asarray(value)) for name, value in params.items()}
    return {name: grad.numpy() for name, grad in torch.func.grad(loss)(tensors).items()}


problem = sf.Problem(grad=gradient, traceable=False)
adam = sf.adam(b1=0.9, b2=0.95, eps=1e-4)  # eps is added to the root, as in PyTorch
real = sf.iterate(problem, adam, start, LEARNING_RATE, STEPS)

optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), eps=1e-4)
for _ in range(STEPS):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(inputs), targets).backward()
    optimizer.step()
gap = max(
    np.abs(value.detach().numpy() - real.last[name]).max()
    for name, value in model.named_parameters()
)
print(f"shadowflow's Adam is within {gap:.0e} of torch.optim.Adam after {STEPS} steps.")
assert gap < 1e-10

for method in ("displaced", "inertial"):
    follow = sf.shadow(problem, adam, start, LEARNING_RATE, STEPS, method=method)
    distance = sf.compare(real, follow)
    print(f"{method}: {distance.two_norm[-1]:.1e} away, of {distance.moved[-1]:.1e} moved.")
    print(f"  It {follow.verdict}")
