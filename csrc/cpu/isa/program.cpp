#include "cpu/isa/program.h"

#include <algorithm>

#include "cpu/isa/launch.h"

namespace branchwise {
namespace {

// A recorded call as this pass makes it.
struct Pass {
  const AttentionPlan& plan;
  float* scratch;
  int64_t rows;

  template <typename Args>
  Args operator()(Args args) const {
    if constexpr (requires { args.n_rows; })
      args.n_rows = rows;
    else
      args.rows = rows;
    if constexpr (requires { args.positions; }) args.positions = plan.positions.data();
    if constexpr (requires { args.slots; }) args.slots = plan.slots.data();
    if constexpr (requires { args.items; }) {
      args.items = plan.items.data(), args.n_items = plan.n_items;
      args.block_ids = plan.block_ids.data();
    }
    if constexpr (requires { args.scratch; }) args.scratch = scratch;
    if constexpr (requires { args.last_rows; }) {
      args.rows = plan.n_rows;
      args.last_rows = plan.last_rows.data(), args.n = std::ssize(plan.last_rows);
    }
    return args;
  }
};

int64_t scratch_of(const Call& call, int64_t rows) {
  return std::visit(
      [&](const auto& args) -> int64_t {
        if constexpr (requires { branchwise::scratch_of(args, rows); })
          return branchwise::scratch_of(args, rows);
        return 0;
      },
      call);
}

}  // namespace

void Program::run(const AttentionPlan& plan) {
  int64_t size = 0;
  for (const Call& call : calls_) size = std::max(size, scratch_of(call, plan.n_rows));
  float* scratch = scratch_.get(size);
#pragma omp parallel
  {
    Pass pass{plan, scratch, plan.n_rows};
    for (const Call& call : calls_) {
      std::visit([&](const auto& args) { share(pass(args)); }, call);
      if (std::holds_alternative<LastRowsArgs>(call)) pass.rows = std::ssize(plan.last_rows);
    }
  }
}

}  // namespace branchwise
