#include "materializer.hpp"

#include <exception>

#include "driver.hpp"
#include "heap.hpp"

namespace foundry {

Materializer::Materializer(uint32_t kernels, uint32_t functions, uint32_t templates, uint32_t graphs,
                           uint64_t nodes)
    : nodes_(nodes),
      binaries_(kernels),
      functions_(functions),
      handles_(functions),
      templates_(templates),
      members_(graphs) {
    threads_.reserve(LANES);
    try {
        while (threads_.size() < LANES) threads_.emplace_back([this] { run(); });
    } catch (const std::exception& error) {
        // One thread makes everything, if it must.
        if (threads_.empty())
            refuse(std::string("the system gives no thread to make graphs: ") + error.what());
    }
}

Materializer::~Materializer() {
    {
        std::lock_guard lock(state_);
        stop_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    Room::give_back();
    if (context_ == nullptr) return;
    driver().cuCtxSetCurrent(context_);
    for (Member& member : members_)
        if (member.exec != nullptr) driver().cuGraphExecDestroy(member.exec);
    for (Lane& lane : lanes_) lane.builders.clear();
    for (Binary& binary : binaries_)
        if (binary.library != nullptr) driver().cuLibraryUnload(binary.library);
    driver().cuStreamDestroy(upload_);
    Room::give_back();
}

void Materializer::set_kernel(uint32_t kernel, const void* data, uint64_t size) {
    std::lock_guard lock(state_);
    binaries_.at(kernel).data = data;
    binaries_.at(kernel).size = size;
}

void Materializer::set_function(uint32_t function, const char* name, uint32_t kernel, int shared,
                                int carveout, bool nonportable) {
    if (kernel >= binaries_.size()) refuse(std::string("function ") + name + " names no kernel binary");
    functions_.at(function) = {name, kernel, shared, carveout, nonportable};
}

void Materializer::set_template(uint32_t index, const foundry_template& table) {
    if (table.functions != functions_.size()) refuse("template counts other functions than the bundle");
    validate(table, "template " + std::to_string(index));
    templates_.at(index) = table;
}

void Materializer::set_graph(uint32_t graph, const char* name, uint32_t index, uint64_t count,
                             const uint32_t* word, const uint64_t* value) {
    if (index >= templates_.size()) refuse(std::string(name) + " names no template");
    for (uint64_t i = 0; i < count; ++i)
        if (word[i] >= templates_[index].words || (i > 0 && word[i] <= word[i - 1]))
            refuse(std::string(name) + ": its words are out of order or outside the template");
    {
        std::lock_guard lock(state_);
        members_.at(graph) = {name, index, count, word, value, true};
    }
    changed_.notify_all();
}

void Materializer::set_variable(uint32_t kernel, const char* name, const void* data, uint64_t size) {
    std::lock_guard lock(state_);
    binaries_.at(kernel).variables.push_back({name, data, size});
}

void Materializer::abandon(const char* message) {
    std::lock_guard lock(state_);
    fail(-1, message);
}

void Materializer::fail(int code, const std::string& message) {
    if (!failed_) {
        failed_ = true;
        failure_code_ = code;
        failure_ = message;
    }
    changed_.notify_all();
}

void Materializer::apply_state(const Function& function, CUkernel kernel) {
    const auto set = [&](CUfunction_attribute attribute, int value) {
        check(driver().cuKernelSetAttribute(attribute, value, kernel, 0), "cuKernelSetAttribute",
              function.name);
        check(driver().cuFuncSetAttribute(function.handle, attribute, value), "cuFuncSetAttribute",
              function.name);
    };
    if (function.shared > 0) set(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, function.shared);
    if (function.carveout >= 0) set(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, function.carveout);
    if (function.nonportable) set(CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);
}

void Materializer::load(Binary& binary, const std::string& where) {
    if (binary.data == nullptr) refuse(where + ": its kernel binary has not been read yet");
    const Watch watch(spent_.load);
    CUlibrary library = nullptr;
    check(driver().cuLibraryLoadData(&library, binary.data, nullptr, nullptr, 0, nullptr, nullptr, 0),
          "cuLibraryLoadData", where);
    try {
        for (const Variable& variable : binary.variables) {
            CUdeviceptr address = 0;
            size_t size = 0;
            check(driver().cuLibraryGetGlobal(&address, &size, library, variable.name.c_str()),
                  "cuLibraryGetGlobal", variable.name);
            if (size != variable.size)
                refuse("variable " + variable.name + " has another size than at capture");
            check(driver().cuMemcpyHtoD(address, variable.data, size), "cuMemcpyHtoD", variable.name);
        }
    } catch (...) {
        driver().cuLibraryUnload(library);
        throw;
    }
    binary.library = library;
}

void Materializer::resolve(uint32_t index) {
    Function& function = functions_[index];
    Binary& binary = binaries_[function.kernel];
    std::lock_guard lock(binary.resolving);
    if (function.handle != nullptr) return;
    if (binary.library == nullptr) load(binary, function.name);
    const Watch watch(spent_.resolve);
    CUkernel kernel = nullptr;
    check(driver().cuLibraryGetKernel(&kernel, binary.library, function.name.c_str()), "cuLibraryGetKernel",
          function.name);
    check(driver().cuKernelGetFunction(&function.handle, kernel), "cuKernelGetFunction", function.name);
    try {
        apply_state(function, kernel);
    } catch (...) {
        function.handle = nullptr;
        throw;
    }
    handles_[index] = function.handle;
}

Builder& Materializer::builder(Lane& lane, const foundry_template& table, const std::string& name) {
    auto& builders = lane.builders;
    for (auto known = builders.begin(); known != builders.end(); ++known) {
        if (!(*known)->fits(table)) continue;
        try {
            (*known)->become(table, name);
        } catch (...) {
            builders.erase(known);
            throw;
        }
        return **known;
    }
    builders.push_back(std::make_unique<Builder>(table, handles_, context_, spent_, name));
    return *builders.back();
}

CUgraphExec Materializer::materialize(const Member& member, Lane& lane) {
    check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
    const foundry_template& table = templates_[member.index];
    if (table.kind == nullptr) refuse("a graph was asked for before its template was given");
    for (uint32_t node = 0; node < table.nodes; ++node)
        if (table.kind[node] == KIND_KERNEL) resolve(table.function[node]);
    return builder(lane, table, member.name).member(member.word, member.value, member.count, upload_);
}

void Materializer::finish_uploads(const std::string& where) {
    check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
    check(driver().cuStreamSynchronize(upload_), "cuStreamSynchronize", where);
}

Materializer::Lane* Materializer::free_lane() {
    for (Lane& lane : lanes_)
        if (!lane.busy) return &lane;
    return nullptr;
}

void Materializer::make(Member& member, Lane& lane, std::unique_lock<std::mutex>& lock) {
    lane.busy = member.making = true;
    lock.unlock();
    CUgraphExec exec = nullptr;
    const auto leave = [&] {
        lock.lock();
        lane.busy = member.making = false;
        member.exec = exec;
        if (exec != nullptr) ++ready_;
        changed_.notify_all();
    };
    try {
        exec = materialize(member, lane);
    } catch (...) {
        leave();
        throw;
    }
    leave();
}

CUgraphExec Materializer::require(uint32_t graph) {
    Member& member = members_.at(graph);
    std::unique_lock lock(state_);
    if (context_ == nullptr) refuse("a graph was asked for before the start");
    if (!member.given) refuse("a graph was asked for before it was given");
    if (member.exec == nullptr) {
        Lane* lane = nullptr;
        ++waiting_;
        changed_.wait(lock, [&] {
            return member.exec != nullptr || (!member.making && (lane = free_lane()) != nullptr);
        });
        const auto leave = [&] {
            --waiting_;
            changed_.notify_all();
        };
        try {
            if (member.exec == nullptr) make(member, *lane, lock);
        } catch (...) {
            leave();
            throw;
        }
        leave();
    }
    const CUgraphExec exec = member.exec;
    lock.unlock();
    finish_uploads(member.name);
    return exec;
}

void Materializer::start(CUcontext context, uint32_t first) {
    if (context_ != nullptr) return;
    CUstream upload = nullptr;
    check(driver().cuCtxSetCurrent(context), "cuCtxSetCurrent");
    check(driver().cuStreamCreate(&upload, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
    {
        std::lock_guard lock(state_);
        context_ = context;
        upload_ = upload;
        alone_ = first < members_.size();
        if (alone_) order_.push_back(&members_[first]);
        for (Member& member : members_)
            if (order_.empty() || &member != order_.front()) order_.push_back(&member);
    }
    changed_.notify_all();
}

bool Materializer::next_can_begin() {
    const Member& member = *order_[next_];
    const bool turn = next_ == 0 || !alone_ || order_.front()->exec != nullptr;
    return turn && waiting_ == 0 && member.given && !member.making && free_lane() != nullptr;
}

void Materializer::run() {
    const Room room(nodes_ / LANES);
    std::unique_lock lock(state_);
    while (true) {
        changed_.wait(lock, [&] {
            return stop_ || failed_ || (context_ != nullptr && (next_ == order_.size() || next_can_begin()));
        });
        if (stop_ || failed_ || next_ == order_.size()) return;
        Member& member = *order_[next_++];
        // The last one is taken: a thread that waits for another has nothing left to do.
        if (next_ == order_.size()) changed_.notify_all();
        if (member.exec != nullptr) continue;
        const int code = guarded([&] { make(member, *free_lane(), lock); });
        if (code != 0) fail(code, last_error());
    }
}

uint32_t Materializer::ready() {
    std::lock_guard lock(state_);
    return ready_;
}

bool Materializer::ready(uint32_t graph) {
    std::lock_guard lock(state_);
    return members_.at(graph).exec != nullptr;
}

uint32_t Materializer::wait(uint32_t count, std::chrono::milliseconds timeout) {
    std::unique_lock lock(state_);
    changed_.wait_for(lock, timeout, [&] { return failed_ || ready_ >= count; });
    if (failed_) throw Error(failure_code_, failure_);
    const uint32_t found = ready_;
    lock.unlock();
    if (found == members_.size()) finish_uploads("all graphs");
    return found;
}

}  // namespace foundry
