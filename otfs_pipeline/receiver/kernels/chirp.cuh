// e^{-jπi(i + L mod 2)/L}: the Zadoff-Chu sequence of a spread pilot, its period L (link/pilot.py).
__device__ __forceinline__ Sample chirp(long long i) { return root(-(i * (i + CHIRP % 2)), 2 * CHIRP); }
