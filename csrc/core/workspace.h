// Scratch memory that grows and is used again: fresh memory would cost more than what is put there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>

#include "core/large_memory.h"

namespace branchwise {

// Serves one call at a time.
class Workspace {
 public:
  // At least `size` floats; what they held before may be lost.
  float* get(size_t size) {
    if (size > size_) memory_ = large_memory((size_ = std::max(size, kLeast)) * sizeof(float));
    return static_cast<float*>(memory_.get());
  }

 private:
  static constexpr size_t kLeast = size_t{1} << 23;  // memory that is not used is not taken
  size_t size_ = 0;
  std::shared_ptr<void> memory_;
};

}  // namespace branchwise
