#include "materializer.hpp"

#include <algorithm>
#include <utility>

#include "driver.hpp"
#include "loaded.hpp"

namespace foundry {

Materializer::Materializer(uint32_t kernels, uint32_t functions, uint32_t templates, uint32_t graphs,
                           uint64_t nodes)
    : templates_(templates),
      kernels_(kernels, functions, placement_, timings_),
      graphs_(graphs),
      lanes_(graphs, nodes, [this](uint32_t graph, size_t lane) { make(graph, lane); }) {}

Materializer::~Materializer() {
    lanes_.stop();
    if (context_ != nullptr) {
        driver().cuCtxSetCurrent(context_);
        leave_loaded();
    }
    trim_heap();
}

void Materializer::set_template(uint32_t index, const foundry_template& table) {
    if (table.functions != kernels_.functions()) refuse("template counts other functions than the bundle");
    validate(table, "template " + std::to_string(index));
    templates_.at(index) = table;
}

void Materializer::set_graph(uint32_t graph, const char* name, uint32_t index, const Member& member) {
    if (index >= templates_.size() || templates_[index].parameter_start == nullptr)
        refuse(std::string(name) + ": its template has not been read yet");
    validate(member, templates_[index], name);
    Graph& target = graphs_.at(graph);
    if (!target.name.empty()) refuse(std::string(name) + ": it was declared twice");
    target = {name, index, member, {}};
    lanes_.declare(graph);
}

std::unique_ptr<Builder> Materializer::take(Builders& builders, const foundry_template& table,
                                            const std::string& name) {
    const auto known = std::find_if(builders.begin(), builders.end(),
                                    [&](const auto& builder) { return builder->same_topology(table); });
    if (known == builders.end())
        return std::make_unique<Builder>(table, kernels_, placement_, context_, timings_, name);
    std::unique_ptr<Builder> builder = std::move(*known);
    builders.erase(known);
    builder->switch_to(table, name);
    return builder;
}

void Materializer::make(uint32_t index, size_t lane) {
    check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
    Graph& graph = graphs_[index];
    const foundry_template& table = templates_[graph.index];
    kernels_.resolve(table);
    Builders& builders = builders_[lane];
    std::unique_ptr<Builder> builder = take(builders, table, graph.name);
    graph.exec = builder->instantiate(graph.member, uploads_.get());
    builders.push_back(std::move(builder));  // one that has thrown is of no more use
}

void Materializer::finish_uploads(const std::string& where) {
    check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
    check(driver().cuStreamSynchronize(uploads_.get()), "cuStreamSynchronize", where);
}

void Materializer::start(CUcontext context, uint32_t first, const foundry_place* places, uint32_t regions) {
    if (context_ != nullptr) refuse("the graphs have been started already");
    check(driver().cuCtxSetCurrent(context), "cuCtxSetCurrent");
    check(driver().cuStreamCreate(uploads_.out(), CU_STREAM_NON_BLOCKING), "cuStreamCreate");
    context_ = context;
    kernels_.set_context(context);
    placement_.set(places, regions);
    lanes_.start(first);
}

void Materializer::check_addresses(const foundry_template& table, const Member& member,
                                   const std::string& name) const {
    uint64_t changed = 0;  // the member's words rise as those of the relocations do
    for (uint64_t i = 0; i < table.relocations.count; ++i) {
        const uint32_t word = table.relocations.word[i];
        while (changed < member.count && member.word[changed] < word) ++changed;
        const bool own = changed < member.count && member.word[changed] == word;
        placement_(own ? member.value[changed] : table.parameters[word], table.relocations.region[i], name);
    }
}

void Materializer::resolve() {
    if (context_ == nullptr) refuse("functions were asked for before the start");
    check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
    std::vector<bool> checked(templates_.size());
    for (const Graph& graph : graphs_) {
        if (graph.name.empty()) refuse("functions were asked for before all graphs were declared");
        const foundry_template& table = templates_[graph.index];
        kernels_.resolve(table);
        if (!placement_.moved()) continue;
        if (!checked[graph.index]) check_addresses(table, {}, graph.name);
        checked[graph.index] = true;
        if (graph.member.count > 0) check_addresses(table, graph.member, graph.name);
    }
}

CUgraphExec Materializer::require(uint32_t graph) {
    lanes_.require(graph);
    finish_uploads(graphs_[graph].name);
    return graphs_[graph].exec.get();
}

uint32_t Materializer::wait(uint32_t count, std::chrono::milliseconds timeout) {
    const uint32_t ready = lanes_.wait(count, timeout);
    if (ready == graphs_.size()) finish_uploads("all graphs");
    return ready;
}

}  // namespace foundry
