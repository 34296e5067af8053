// The kernels of one instruction set: compiled once for each, with its flags and FOUNDRY_LANES.
#include "zak/kernels.hpp"

#include "zak/correlate.hpp"
#include "zak/demap.hpp"
#include "zak/equalize.hpp"
#include "zak/intake.hpp"

namespace foundry::zak {

#define FOUNDRY_JOIN(name, lanes) name##lanes
#define FOUNDRY_NAMED(name, lanes) FOUNDRY_JOIN(name, lanes)

using namespace FOUNDRY_LANES_NAMESPACE;

const Kernels FOUNDRY_NAMED(KERNELS_, FOUNDRY_LANES) = {
    LANES,
    columns_scratch,
    columns,
    equalize_shared,
    equalize_scratch,
    equalize_prepare,
    equalize_period,
    demap_groups,
    demap_scratch,
    demap_group,
    correlation_block,
    correlation_floats,
    correlation_scratch,
    correlation_prepare,
    correlation_most,
    correlation_rounds,
    correlation_round,
    correlation_find,
    intake,
};

}  // namespace foundry::zak
