// The functions that register one part each of the extension module.
#pragma once

#include <pybind11/pybind11.h>

namespace branchwise {

void bind_dlpack(pybind11::module_& module);
void bind_rng(pybind11::module_& module);
void bind_kv_tree(pybind11::module_& module);
void bind_attention_plan(pybind11::module_& module);
void bind_layers(pybind11::module_& module);
void bind_head(pybind11::module_& module);

}  // namespace branchwise
