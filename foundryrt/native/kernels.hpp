// A bundle's kernel binaries and the functions in them, each loaded when the first graph needs it.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "loaded.hpp"
#include "tables.hpp"
#include "timings.hpp"

namespace foundry {

class Kernels {
  public:
    Kernels(uint32_t binaries, uint32_t functions, const Placement& placement, Timings& timings);

    // What a binary and its functions need must be set before a graph that uses them is declared. The bytes
    // stay the caller's and must outlive this object. Binaries of one `key`, which are the same and whose
    // functions have the same attributes, are loaded once for all bundles; an empty key is nobody else's.
    void set_binary(uint32_t binary, const void* data, uint64_t bytes, std::string key);
    void set_function(uint32_t function, const char* name, uint32_t binary, int shared, int carveout,
                      bool nonportable);
    // Bytes that a module variable must hold before anything of its binary runs, and the addresses in them.
    void set_variable(uint32_t binary, const char* name, const void* data, uint64_t size,
                      const foundry_relocations& addresses);

    // Where they are loaded: before any is resolved.
    void set_context(CUcontext context) { context_ = context; }
    size_t functions() const { return functions_.size(); }
    // Loads the functions that a template's nodes call, unless an earlier graph has. From any thread, with
    // the context current.
    void resolve(const foundry_template& table);
    // One that was resolved.
    CUfunction function(uint32_t index) const { return handles_[index].load(std::memory_order_relaxed); }

  private:
    struct Variable {
        std::string name;
        const void* data;
        uint64_t size;
        foundry_relocations addresses;
    };
    struct Binary {
        std::mutex mutex;  // for everything here, and for resolving its functions
        const void* data = nullptr;
        uint64_t bytes = 0;
        std::string key;
        std::vector<Variable> variables;
        std::shared_ptr<Loaded> loaded;
    };
    struct Function {
        std::string name;
        uint32_t binary;
        int shared, carveout;
        bool nonportable;
    };

    void resolve(uint32_t index);
    // Both with the binary's mutex held.
    void load(Binary& binary, const std::string& where);
    void write(const Variable& variable, CUlibrary library) const;
    CUfunction find(Loaded& loaded, const Function& function);

    const Placement& placement_;
    Timings& timings_;
    CUcontext context_ = nullptr;
    std::vector<Binary> binaries_;
    std::vector<Function> functions_;
    std::vector<std::atomic<CUfunction>> handles_;  // of `functions_`; none before they are resolved
};

}  // namespace foundry
