// Binds the random numbers and the lineage hashes that key them.
#include "bind/bind.h"
#include "core/rng.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {

void bind_rng(py::module_& module) {
  module.def("lineage_root", &lineage_root, "problem_key"_a,
             "Lineage of a problem's root, a 64-bit hash. Both are uint64.");
  module.def("lineage_child", &lineage_child, "lineage"_a, "index"_a,
             "Lineage of child `index` of a branch. Siblings never collide.");
  module.def("philox_uniform", &philox_uniform, "seed"_a, "lineage"_a, "position"_a, "word"_a,
             "The draw in (0, 1) of `word` at `position` of a branch (Philox4x32-10, key `seed`).");
}

}  // namespace branchwise
