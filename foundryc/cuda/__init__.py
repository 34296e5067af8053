"""The cuda target at capture: harvest of kernel binaries, arena, extraction of graphs."""
