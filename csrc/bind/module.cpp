// The extension module branchwise._C: registers every part and maps errors, nothing else.
#include "bind/bind.h"
#include "core/check.h"

namespace py = pybind11;

namespace {

// Looks the class up when an error is raised: importing _C imports no Python module.
void raise_ours(const char* name, const char* message) {
  const py::object type = py::module_::import("branchwise.errors").attr(name);
  PyErr_SetString(type.ptr(), message);
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const branchwise::StaleNode& error) {
    raise_ours("StaleNodeError", error.what());
  } catch (const branchwise::OutOfBlocks& error) {
    raise_ours("OutOfMemory", error.what());
  }
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() =
      "The C++ core of branchwise: KV trees, attention plans, random numbers, CPU kernels.";
  py::register_local_exception_translator(translate);
  branchwise::bind_dlpack(module);
  branchwise::bind_rng(module);
  branchwise::bind_kv_tree(module);
  branchwise::bind_attention_plan(module);
  branchwise::bind_layers(module);
  branchwise::bind_weights(module);
  branchwise::bind_pass(module);
  branchwise::bind_head(module);
}
