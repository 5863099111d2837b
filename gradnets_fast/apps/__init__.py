"""Applications built on the library: training, benchmarks, the doctor, and the command line over them."""
