#include "tables.hpp"

#include "driver.hpp"

namespace foundry {
namespace {

std::string at(const std::string& name, uint32_t node) {
    return name + ", node " + std::to_string(node) + ": ";
}

void validate_kernel(const foundry_template& t, uint32_t node, uint64_t words, const std::string& where) {
    if (t.function[node] >= t.functions) refuse(where + "no such function");
    if (words < LAUNCH_WORDS) refuse(where + "no launch dimensions");
    const uint64_t size = t.skeleton_start[node + 1] - t.skeleton_start[node];
    if (size < sizeof(Skeleton) || t.skeleton_start[node] % 4 != 0) refuse(where + "skeleton is cut short");
    const auto& head = *reinterpret_cast<const Skeleton*>(t.skeleton + t.skeleton_start[node]);
    if (size != sizeof(Skeleton) + head.arguments * sizeof(Argument) + head.attributes * sizeof(Attribute))
        refuse(where + "skeleton has the wrong size");
    if ((uint64_t{head.argument_bytes} + 7) / 8 != words - LAUNCH_WORDS)
        refuse(where + "arguments and parameter words differ in size");
    const auto* argument = reinterpret_cast<const Argument*>(&head + 1);
    for (uint32_t i = 0; i < head.arguments; ++i)
        if (uint64_t{argument[i].offset} + argument[i].size > head.argument_bytes)
            refuse(where + "argument " + std::to_string(i) + " lies outside the parameters");
}

}  // namespace

void validate(const foundry_template& t, const std::string& name) {
    if (t.parameter_start[0] != 0 || t.skeleton_start[0] != 0) refuse(name + ": tables don't start at 0");
    for (uint32_t node = 0; node < t.nodes; ++node) {
        const std::string where = at(name, node);
        if (t.parameter_start[node + 1] < t.parameter_start[node] || t.parameter_start[node + 1] > t.words)
            refuse(where + "parameters lie outside their column");
        if (t.skeleton_start[node + 1] < t.skeleton_start[node] ||
            t.skeleton_start[node + 1] > t.skeleton_bytes)
            refuse(where + "skeleton lies outside its column");
        const uint64_t words = t.parameter_start[node + 1] - t.parameter_start[node];
        switch (t.kind[node]) {
            case KIND_KERNEL:
                validate_kernel(t, node, words, where);
                break;
            case KIND_MEMCPY:
                if (words * 8 != sizeof(Memcpy)) refuse(where + "a copy needs 15 words");
                break;
            case KIND_MEMSET:
                if (words * 8 != sizeof(Memset)) refuse(where + "a memset needs 6 words");
                break;
            case KIND_EMPTY:
                if (words != 0) refuse(where + "an empty node has parameters");
                break;
            default:
                refuse(where + "unknown kind " + std::to_string(t.kind[node]));
        }
    }
    for (uint32_t edge = 0; edge < t.edges; ++edge)
        if (t.edge_from[edge] >= t.nodes || t.edge_to[edge] >= t.nodes)
            refuse(name + ": edge " + std::to_string(edge) + " leads to no node");
}

}  // namespace foundry
