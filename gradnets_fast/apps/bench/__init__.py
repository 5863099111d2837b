"""The benchmark of `gradnets-fast bench`: cases, contenders, verification, measurement, report."""
