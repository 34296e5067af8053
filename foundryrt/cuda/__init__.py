"""The cuda target at run time: driver, arena, graphs, tensors. Never imports torch."""
