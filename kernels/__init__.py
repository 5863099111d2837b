"""Triton kernels and their device functions.  Imported as gradnets_fast.kernels; imports triton and torch only."""
