"""Checks and measures the Triton kernels on an NVIDIA GPU.

    pip install --no-build-isolation --no-deps -e .

installs from a checkout; only torch and Triton are needed besides.  The part prebuilt alone uses the C++ extension;
without waiting for its compilation:

    ln -s ../kernels gradnets_fast/kernels

    python -m bench.gpu                    # all of these
    python -m bench.gpu --part checks      # every operator against float64, launches, graphs, compute-sanitizer
    python -m bench.gpu --part measure     # times beside eager PyTorch, torch.compile and the authors' structure
    python -m bench.gpu --part fit         # steps of training as CUDA graphs, beside a loop of PyTorch
    python -m bench.gpu --part memory      # the largest batch that a step fits into memory, beside eager PyTorch's
    python -m bench.gpu --part images      # convolutional networks in one launch, beside pieces and eager PyTorch
    python -m bench.gpu --part determinants    # determinants and inverses of matrices beside torch.linalg
    python -m bench.gpu --part prebuilt    # kernels compiled ahead of time: the same results, and the first step's time
    python -m bench.gpu --part tables      # the documents' tables and the figures, from the result files; needs no GPU

The parts come in this order, the most important first, and so do the cases in each.  Each stops when its --minutes are
over, and one that fails keeps no other from running; the files, in bench/results/<gpu>/, are written after each case,
and name those that were not run.  Where a command may take ten minutes, give each part one of its own by --minutes 8,
and --out if only one folder is kept; --part takes several names.  `make gpu-rehearsal` tries all of it without a GPU.

What is measured are the cases of `gradnets-fast bench --preset gpu`, each in a process with a time limit.  A smaller
set of checks runs in Triton's interpreter, on the CPU: TRITON_INTERPRET=1 python -m bench.gpu --part checks --small
"""
