"""Checks the machine code (PTX) that Triton makes of the kernels, by running it without a GPU.

    python -m tests.ptx --architecture 90 --only jacobian

    compiling     launches of the package's own calls, as PTX
    program       PTX as blocks of instructions
    instructions, accesses, products   what these do to many threads at once
    memory        global and shared memory that notices races, what is out of bounds, and what nobody has written
    machine       programs on cores that take turns at random
    checking      a launch in several schedules
    cases         which calls

Found are: races between programs, by what happens before what through releases and acquires; races between warps of a
program, by its barriers; reads of copies and products that were not waited for, and memory that is refilled meanwhile;
accesses that are out of bounds, misaligned, or of memory that nobody has written; programs that wait for ever, or for
one that starts later; results that depend on the schedule, or miss the package's rule of accuracy.

Not found, because it is not modelled: races within a warp, the tensor memory of compute capability 10.0, what the
assembler makes of PTX, time.  Sums within matrix products are exact up to one rounding, and so are the approximate
functions.
"""
