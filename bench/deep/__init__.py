"""What deep networks are good for: each script here trains an energy by autograd, the same energy by kernels, and the
best of the other architectures, on the same batches, and writes a result file of their errors and times per step.
"""
