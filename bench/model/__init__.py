"""Predicts how fast the ridge family's Triton kernels are, from their machine code alone.

    python -m bench.model             # compiles the kernels with the table's tiles; writes bench/results/gpu_model.json
    python -m bench.model --case "90 half"    # prints the cases whose label contains this, and writes nothing

For each program of a kernel it counts what a turn of the main loop takes of a multiprocessor's units (`pipes`), follows
one warp through it (`warp`), and puts both together for the warps that are resident at a time (`kernel`).  What it
assumes of the hardware stands in `chips`.  `bench.tiles` chooses tiles by it; `bench.gpu` puts measurements beside it,
and `attention` what others have measured of a kernel of the same build.

Not in it: conflicts of banks, how far programs that start together stay in step, the end of a launch where
multiprocessors run empty, the sums that the last program adds up, clocks that a GPU lowers for its power.
"""
