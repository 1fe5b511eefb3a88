// Kernels on their own: is the work worth a team, and where is scratch memory.
#include "cpu/isa/launch.h"

#include <cstring>

#include "core/attention_plan.h"
#include "core/workspace.h"

namespace branchwise {
namespace {

constexpr int64_t kMinElements = 1 << 14;
constexpr int64_t kMinProducts = 1 << 16;      // multiply-adds
constexpr int64_t kMinCodeProducts = 1 << 17;  // of bytes

thread_local Workspace workspace;

template <typename Args>
void with_team(bool worth_it, const Args& args) {
#pragma omp parallel if (worth_it)
  share(args);
}

template <typename Args>
void product(Args args, int64_t least) {
  args.scratch = workspace.get(scratch_of(args, args.rows));
  with_team(args.rows * args.n * args.k >= least, args);
}

}  // namespace

void share(const LastRowsArgs& args) {
  if (args.n == args.rows) return;  // each row is a last one
#pragma omp single
  for (int64_t i = 0; i < args.n; ++i) {
    char* x = static_cast<char*>(args.x);
    std::memmove(x + i * args.row_bytes, x + args.last_rows[i] * args.row_bytes, args.row_bytes);
  }
}

void launch(const NormArgs& args) { with_team(args.rows * args.dim >= kMinElements, args); }
void launch(const ActArgs& args) { with_team(args.rows * args.dim >= kMinElements, args); }
void launch(const RopeArgs& args) {
  const int64_t width = (args.n_heads + 2 * args.n_kv_heads) * args.head_dim;
  with_team(args.rows * width >= kMinElements, args);
}
void launch(const AttentionArgs& args) {
  int64_t pairs = 0;  // of a row and a key
  for (const WorkItem* item = args.items; item < args.items + args.n_items; ++item)
    pairs += static_cast<int64_t>(item->row_end - item->row_begin) * item->key_count;
  with_team(pairs * args.n_heads * args.head_dim >= kMinProducts, args);
}
void launch(const LastRowsArgs& args) { share(args); }
void launch(GemmArgs args) { product(args, kMinProducts); }
void launch(QuantisedGemmArgs args) { product(args, kMinCodeProducts); }

}  // namespace branchwise
