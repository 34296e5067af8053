"""PARSE: models of real geometry, kernels, and the merged figures."""
