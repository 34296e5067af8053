#include "tables.hpp"

#include <utility>

#include "driver.hpp"

namespace foundry {
namespace {

// The checks of one node; its name is only put together where one fails.
class NodeCheck {
  public:
    NodeCheck(const foundry_template& table, const std::string& name, uint32_t node)
        : table_(table), name_(name), node_(node) {}

    void run() const {
        const uint32_t* parameters = table_.parameter_start + node_;
        const uint32_t* skeleton = table_.skeleton_start + node_;
        require(parameters[0] <= parameters[1] && parameters[1] <= table_.words,
                "parameters lie outside their column");
        require(skeleton[0] <= skeleton[1] && skeleton[1] <= table_.skeleton_bytes,
                "skeleton lies outside its column");
        const uint64_t words = parameters[1] - parameters[0];
        switch (table_.kind[node_]) {
            case KIND_KERNEL:
                kernel(words, skeleton[0], skeleton[1] - skeleton[0]);
                break;
            case KIND_MEMCPY:
                require(words * 8 == sizeof(Memcpy), "a copy needs 15 words");
                break;
            case KIND_MEMSET:
                require(words * 8 == sizeof(Memset), "a memset needs 6 words");
                break;
            case KIND_EMPTY:
                require(words == 0, "an empty node has parameters");
                break;
            default:
                require(false, "its kind is unknown");
        }
    }

  private:
    void require(bool condition, const char* problem) const {
        if (!condition) refuse(name_ + ", node " + std::to_string(node_) + ": " + problem);
    }

    void kernel(uint64_t words, uint32_t start, uint64_t size) const {
        require(table_.function[node_] < table_.functions, "no such function");
        require(words >= LAUNCH_WORDS, "no launch dimensions");
        require(size >= sizeof(Skeleton) && start % 4 == 0, "skeleton is cut short");
        const auto& head = *reinterpret_cast<const Skeleton*>(table_.skeleton + start);
        require(size == sizeof(Skeleton) + head.arguments * sizeof(Argument) +
                            head.attributes * sizeof(Attribute),
                "skeleton has the wrong size");
        require((uint64_t{head.argument_bytes} + 7) / 8 == words - LAUNCH_WORDS,
                "arguments and parameter words differ in size");
        const auto* argument = reinterpret_cast<const Argument*>(&head + 1);
        for (uint32_t i = 0; i < head.arguments; ++i)
            require(uint64_t{argument[i].offset} + argument[i].size <= head.argument_bytes,
                    "an argument lies outside the parameters");
    }

    const foundry_template& table_;
    const std::string& name_;
    const uint32_t node_;
};

// How many words of a node cannot be addresses, and how many after them can.
std::pair<uint64_t, uint64_t> addressing(const foundry_template& table, uint32_t node) {
    const uint64_t words = table.parameter_start[node + 1] - table.parameter_start[node];
    switch (table.kind[node]) {
        case KIND_KERNEL:
            return {LAUNCH_WORDS, words - LAUNCH_WORDS};
        case KIND_MEMCPY:
            return {0, 2};
        case KIND_MEMSET:
            return {0, 1};
        default:
            return {0, 0};
    }
}

// Of a template whose nodes have been checked.
void check_relocations(const foundry_template& table, const std::string& name) {
    uint32_t node = 0;
    for (uint64_t i = 0; i < table.relocations.count; ++i) {
        const uint32_t word = table.relocations.word[i];
        if (word >= table.words || (i > 0 && word <= table.relocations.word[i - 1]))
            refuse(name + ": its relocations are out of order or outside the parameters");
        while (table.parameter_start[node + 1] <= word) ++node;
        const auto [before, addresses] = addressing(table, node);
        const uint64_t at = word - table.parameter_start[node];
        if (at < before || at - before >= addresses)
            refuse(name + ", node " + std::to_string(node) + ": a relocation is of no address");
    }
}

}  // namespace

void validate(const foundry_template& table, const std::string& name) {
    if (table.parameter_start[0] != 0 || table.parameter_start[table.nodes] != table.words ||
        table.skeleton_start[0] != 0 || table.skeleton_start[table.nodes] != table.skeleton_bytes)
        refuse(name + ": its nodes do not span their columns");
    for (uint32_t node = 0; node < table.nodes; ++node) NodeCheck(table, name, node).run();
    // Nodes are stored in topological order, so a graph cannot hold a cycle.
    for (uint32_t edge = 0; edge < table.edges; ++edge)
        if (table.edge_from[edge] >= table.edge_to[edge] || table.edge_to[edge] >= table.nodes)
            refuse(name + ": edge " + std::to_string(edge) + " goes backwards, or to no node");
    check_relocations(table, name);
}

void validate(const Member& member, const foundry_template& table, const std::string& name) {
    for (uint64_t i = 0; i < member.count; ++i)
        if (member.word[i] >= table.words || (i > 0 && member.word[i] <= member.word[i - 1]))
            refuse(name + ": its words are out of order or outside the template");
}

}  // namespace foundry
