// The kernel calls of a pass through a model, recorded once and then run by one team of threads.
//
// A pass through a model makes the same calls every time, over the same memory. Only the number of
// rows and the attention plan change. Run as one, the calls cost no Python, no checks and no waking
// of threads.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "core/attention_plan.h"
#include "core/workspace.h"
#include "cpu/isa/kernels.h"

namespace branchwise {

using Call = std::variant<NormArgs, ActArgs, RopeArgs, AttentionArgs, LastRowsArgs, GemmArgs,
                          QuantisedGemmArgs>;

class Program {
 public:
  // Calls are made in the order in which they were added; the memory they name must stay in place.
  void add(const Call& call) { calls_.push_back(call); }
  // Runs the calls over the first plan.n_rows rows of what they name; those that follow a
  // LastRowsArgs over as many rows as it keeps.
  void run(const AttentionPlan& plan);

  int64_t size() const { return static_cast<int64_t>(calls_.size()); }

 private:
  std::vector<Call> calls_;
  Workspace scratch_;
};

}  // namespace branchwise
