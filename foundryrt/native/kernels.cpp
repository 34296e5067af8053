#include "kernels.hpp"

#include <cstring>

#include "driver.hpp"

namespace foundry {

Kernels::Kernels(uint32_t binaries, uint32_t functions, const Placement& placement, Timings& timings)
    : placement_(placement),
      timings_(timings),
      binaries_(binaries),
      functions_(functions),
      handles_(functions) {}

void Kernels::set_binary(uint32_t binary, const void* data, uint64_t bytes, std::string key) {
    Binary& target = binaries_.at(binary);
    std::lock_guard lock(target.mutex);
    target.data = data, target.bytes = bytes, target.key = std::move(key);
}

void Kernels::set_function(uint32_t function, const char* name, uint32_t binary, int shared, int carveout,
                           bool nonportable) {
    if (binary >= binaries_.size()) refuse(std::string("function ") + name + " names no kernel binary");
    functions_.at(function) = {name, binary, shared, carveout, nonportable};
}

void Kernels::set_variable(uint32_t binary, const char* name, const void* data, uint64_t size,
                           const foundry_relocations& addresses) {
    for (uint64_t i = 0; i < addresses.count; ++i)
        if (addresses.word[i] >= size / 8)
            refuse(std::string("variable ") + name + ": an address behind its end");
    Binary& target = binaries_.at(binary);
    std::lock_guard lock(target.mutex);
    target.variables.push_back({name, data, size, addresses});
}

void Kernels::load(Binary& binary, const std::string& where) {
    if (binary.data == nullptr) refuse(where + ": its kernel binary has not been read yet");
    const ScopedTimer timer(timings_.load);
    const bool own = binary.key.empty() || !binary.variables.empty() || has_state(binary.data, binary.bytes);
    std::shared_ptr<Loaded> found = own ? std::make_shared<Loaded>() : loaded(context_, binary.key);
    std::lock_guard lock(found->mutex);
    if (found->library) {
        binary.loaded = std::move(found);
        return;
    }
    OwnedLibrary library;
    check(driver().cuLibraryLoadData(library.out(), binary.data, nullptr, nullptr, 0, nullptr, nullptr, 0),
          "cuLibraryLoadData", where);
    for (const Variable& variable : binary.variables) write(variable, library.get());
    found->library = std::move(library);
    binary.loaded = std::move(found);
}

void Kernels::write(const Variable& variable, CUlibrary library) const {
    CUdeviceptr address = 0;
    size_t size = 0;
    check(driver().cuLibraryGetGlobal(&address, &size, library, variable.name.c_str()), "cuLibraryGetGlobal",
          variable.name);
    if (size != variable.size) refuse("variable " + variable.name + " has another size than at capture");
    const auto* from = static_cast<const uint8_t*>(variable.data);
    std::vector<uint8_t> bytes(from, from + size);
    for (uint64_t i = 0; placement_.moved() && i < variable.addresses.count; ++i) {
        uint64_t word;
        uint8_t* const at = bytes.data() + 8ull * variable.addresses.word[i];
        std::memcpy(&word, at, sizeof(word));
        word = placement_(word, variable.addresses.region[i], "variable " + variable.name);
        std::memcpy(at, &word, sizeof(word));
    }
    check(driver().cuMemcpyHtoD(address, bytes.data(), size), "cuMemcpyHtoD", variable.name);
}

CUfunction Kernels::find(Loaded& loaded, const Function& function) {
    const ScopedTimer timer(timings_.resolve);
    std::lock_guard lock(loaded.mutex);
    Found& found = loaded.functions[function.name];
    if (found.handle == nullptr) {
        check(driver().cuLibraryGetKernel(&found.kernel, loaded.library.get(), function.name.c_str()),
              "cuLibraryGetKernel", function.name);
        check(driver().cuKernelGetFunction(&found.handle, found.kernel), "cuKernelGetFunction",
              function.name);
    }
    // A kernel has each attribute once, for all functions of its name: it is raised, and never lowered
    // below what another one's launches need.
    const auto raise = [&](CUfunction_attribute attribute, int& known, int value) {
        if (value <= known) return;
        check(driver().cuKernelSetAttribute(attribute, value, found.kernel, 0), "cuKernelSetAttribute",
              function.name);
        check(driver().cuFuncSetAttribute(found.handle, attribute, value), "cuFuncSetAttribute",
              function.name);
        known = value;
    };
    raise(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, found.shared, function.shared);
    raise(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, found.carveout, function.carveout);
    raise(CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, found.nonportable, function.nonportable);
    return found.handle;
}

void Kernels::resolve(uint32_t index) {
    if (handles_[index].load(std::memory_order_acquire) != nullptr) return;
    const Function& function = functions_[index];
    if (function.name.empty()) refuse("a graph calls a function that has not been read yet");
    Binary& binary = binaries_[function.binary];
    std::lock_guard lock(binary.mutex);
    if (handles_[index].load(std::memory_order_relaxed) != nullptr) return;
    if (!binary.loaded) load(binary, function.name);
    handles_[index].store(find(*binary.loaded, function), std::memory_order_release);
}

void Kernels::resolve(const foundry_template& table) {
    for (uint32_t node = 0; node < table.nodes; ++node)
        if (table.kind[node] == KIND_KERNEL) resolve(table.function[node]);
}

}  // namespace foundry
