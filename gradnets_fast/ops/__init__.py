"""The differentiable operators: one record each, from which autograd, vmap, jvp and compilation follow."""
