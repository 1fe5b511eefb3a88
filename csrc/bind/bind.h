// The functions that register one part each of the extension module, and names they share.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <string>

#include "core/tensor_view.h"
#include "cpu/isa/kernels.h"

namespace branchwise {

void bind_dlpack(pybind11::module_& module);
void bind_rng(pybind11::module_& module);
void bind_kv_tree(pybind11::module_& module);
void bind_attention_plan(pybind11::module_& module);
void bind_layers(pybind11::module_& module);
void bind_weights(pybind11::module_& module);
void bind_pass(pybind11::module_& module);
void bind_head(pybind11::module_& module);

inline constexpr std::initializer_list<DType> kReal = {DType::f32, DType::bf16};

inline Act act_of(const std::string& kind) {
  CHECK_ARG(kind == "silu" || kind == "gelu_tanh", "kind is '", kind,
            "', expected 'silu' or 'gelu_tanh'");
  return kind == "silu" ? Act::silu : Act::gelu_tanh;
}

}  // namespace branchwise
