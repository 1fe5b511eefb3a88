// Binds Planner and AttentionPlan; the arrays of a plan are numpy views of its own memory.
#include <pybind11/numpy.h>

#include "bind/bind.h"
#include "core/attention_plan.h"
#include "core/check.h"
#include "core/kv_tree.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {
namespace {

// A read-only view of `values` that keeps the plan alive.
template <typename T>
py::array view_of(const std::vector<T>& values, py::handle owner) {
  py::array view(py::dtype::of<T>(), {values.size()}, {sizeof(T)}, values.data(), owner);
  py::detail::array_proxy(view.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return view;
}

template <auto member>
py::array array_of(py::object plan) {
  return view_of(plan.cast<const AttentionPlan&>().*member, plan);
}

template <typename T>
std::span<const T> span_of(const py::array_t<T, py::array::c_style>& values, const char* argument) {
  CHECK_ARG(values.ndim() == 1, argument, " has ", values.ndim(), " axes, expected 1");
  return {values.data(), static_cast<size_t>(values.size())};
}

AttentionPlan build(Planner& planner, const py::array_t<int64_t, py::array::c_style>& nodes,
                    const py::array_t<int32_t, py::array::c_style>& counts) {
  // Keeps the GIL: it takes tens of microseconds and nothing else may change the tree meanwhile.
  const std::span<const int64_t> node_span = span_of(nodes, "nodes");
  return planner.build(node_span, span_of(counts, "counts"));
}

}  // namespace

void bind_attention_plan(py::module_& module) {
  PYBIND11_NUMPY_DTYPE(WorkItem, row_begin, row_end, block_begin, key_count, key_position,
                       partial_begin, causal);
  py::class_<AttentionPlan>(module, "AttentionPlan", "What the kernels need in one forward pass.")
      .def_property_readonly("order", &array_of<&AttentionPlan::order>,
                             "[n] int64: the planned inputs in depth-first order; rows follow it.")
      .def_property_readonly("last_rows", &array_of<&AttentionPlan::last_rows>,
                             "[n] int32: the last row of each input, in this order; ascending.")
      .def_property_readonly("positions", &array_of<&AttentionPlan::positions>,
                             "[n_rows] int32: absolute position of each row's token.")
      .def_property_readonly("slots", &array_of<&AttentionPlan::slots>,
                             "[n_rows] int32: block * block_size + offset of each row's K and V.")
      .def_property_readonly("items", &array_of<&AttentionPlan::items>,
                             "[n_items] records: rows, keys and partials of each work item.")
      .def_property_readonly("block_ids", &array_of<&AttentionPlan::block_ids>)
      .def_property_readonly("row_partial_begin", &array_of<&AttentionPlan::row_partial_begin>)
      .def_property_readonly("row_partials", &array_of<&AttentionPlan::row_partials>)
      .def_readonly("block_size", &AttentionPlan::block_size)
      .def_readonly("n_rows", &AttentionPlan::n_rows)
      .def_readonly("n_items", &AttentionPlan::n_items)
      .def_readonly("n_partials", &AttentionPlan::n_partials)
      .def_readonly("kv_slots_read", &AttentionPlan::kv_slots_read, "KV slots that the items read.")
      .def_readonly("kv_slots_unshared", &AttentionPlan::kv_slots_unshared,
                    "KV slots that rows would read one by one, without sharing.");
  py::class_<Planner>(module, "Planner", "Builds attention plans for one tree.")
      .def(py::init<const KvTree&, int32_t, int32_t>(), py::keep_alive<1, 2>(), "tree"_a,
           "chunk_slots"_a = 256, "max_item_rows"_a = 64)
      .def("build", &build, "nodes"_a, "counts"_a,
           "The plan in which the last counts[i] tokens of nodes[i] are query rows; nodes: [n] "
           "int64, distinct; counts: [n] int32, 1 to the node's length.")
      .def_property_readonly(
          "chunk_slots", &Planner::chunk_slots,
          "Keys of a node are read in chunks of so many, counted from its start.");
}

}  // namespace branchwise
