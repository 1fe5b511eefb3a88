// Binds Pass and record, and checks plans against the tensors of the calls they are for.
#include "bind/pass.h"

#include <memory>

#include "bind/bind.h"
#include "core/check.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {

thread_local Pass* recording = nullptr;

namespace {

void check_plan(const AttentionPlan& plan, int64_t n_blocks, int64_t n_positions) {
  CHECK_ARG(plan.block_size == kBlockSlots, "the plan has blocks of ", plan.block_size,
            " slots, the kernels need ", kBlockSlots);
  for (const int32_t id : plan.block_ids)
    CHECK_ARG(id >= 0 && id < n_blocks, "the plan reads block ", id, " of a pool of ", n_blocks);
  for (const int32_t slot : plan.slots)
    CHECK_ARG(slot >= 0 && slot / kBlockSlots < n_blocks, "the plan writes slot ", slot,
              " of a pool of ", n_blocks, " blocks");
  for (const int32_t position : plan.positions)
    CHECK_ARG(position < n_positions, "position ", position, " is beyond the ", n_positions,
              " positions of the cos and sin tables");
  for (const WorkItem& item : plan.items)
    CHECK_ARG(item.key_count <= kMaxItemKeys, "a work item has ", item.key_count,
              " keys, the kernel takes ", kMaxItemKeys,
              ": plan with chunk_slots <= ", kMaxItemKeys);
}

// Calls `body`; the kernels that it calls in this thread are recorded, not run.
std::unique_ptr<Pass> record(const py::function& body) {
  CHECK_ARG(!recording, "record was called within record");
  struct Scope {
    explicit Scope(Pass* pass) { recording = pass; }
    ~Scope() { recording = nullptr; }
  };
  auto pass = std::make_unique<Pass>();
  const Scope scope(pass.get());
  body();
  return pass;
}

}  // namespace

void Pass::run(const AttentionPlan& plan) {
  CHECK_ARG(plan.n_rows <= rows_, "the plan has ", plan.n_rows,
            " rows, the calls were recorded over ", rows_);
  check_plan(plan, n_blocks_, n_positions_);
  py::gil_scoped_release release;
  program_.run(plan);
}

Dim rows_of(const AttentionPlan& plan) { return recording ? Dim("rows") : Dim(plan.n_rows); }

void check_call(const AttentionPlan& plan, int64_t n_blocks, int64_t n_positions) {
  recording ? recording->bound(n_blocks, n_positions) : check_plan(plan, n_blocks, n_positions);
}

void bind_pass(py::module_& module) {
  py::class_<Pass>(module, "Pass", "Recorded kernel calls, see record.")
      .def(
          "run", &Pass::run, "plan"_a,
          "Makes the calls over the first plan.n_rows rows of their tensors, with this plan; those "
          "after keep_last_rows over len(plan.last_rows).")
      .def("__len__", &Pass::size);
  module.def("record", &record, "body"_a,
             "Calls body() and gives a Pass of the kernels that it called in this thread. They are "
             "not run; the plans given to them stand for those of later runs.");
}

}  // namespace branchwise
