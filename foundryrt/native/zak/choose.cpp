// Which kernels this processor can run.
#include "zak/kernels.hpp"

namespace foundry::zak {

const Kernels* kernels_of(int lanes) {
#ifdef __x86_64__
    const bool has_16 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    const bool has_8 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_16 && (lanes == 0 || lanes == 16)) return &KERNELS_16;
    if (has_8 && (lanes == 0 || lanes == 8)) return &KERNELS_8;
#endif
    return lanes == 0 || lanes == 4 ? &KERNELS_4 : nullptr;
}

}  // namespace foundry::zak
