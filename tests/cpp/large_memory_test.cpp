// Pieces are aligned, apart, and outlive one another in any order.
#include "core/large_memory.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "test.h"

namespace branchwise {

TEST(pieces_are_aligned_and_apart) {
  const std::vector<size_t> sizes = {1, 63, 64, 65, 1 << 20, (1 << 20) + 1, 40 << 20, 7};
  std::vector<std::shared_ptr<void>> pieces;
  for (size_t i = 0; i < sizes.size(); ++i) {
    pieces.push_back(large_memory(sizes[i]));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pieces.back().get()) % 64, 0u);
    std::memset(pieces.back().get(), static_cast<int>(i), sizes[i]);
  }
  for (size_t i = 0; i < sizes.size(); ++i) {
    const uint8_t* bytes = static_cast<const uint8_t*>(pieces[i].get());
    EXPECT_EQ(bytes[0], i);
    EXPECT_EQ(bytes[sizes[i] - 1], i);
  }
}

TEST(a_piece_outlives_those_cut_before_and_after_it) {
  auto first = large_memory(100), second = large_memory(100), third = large_memory(100);
  std::memset(second.get(), 7, 100);
  first.reset();
  third.reset();
  EXPECT_EQ(static_cast<const uint8_t*>(second.get())[99], 7);
  second.reset();  // the last of its chunk
  std::memset(large_memory(100).get(), 1, 100);
}

TEST(chunks_run_over) {  // more small pieces than one chunk holds
  std::vector<std::shared_ptr<void>> pieces;
  for (uint8_t i = 0; i < 12; ++i) {
    pieces.push_back(large_memory(15 << 20));
    static_cast<uint8_t*>(pieces.back().get())[(15 << 20) - 1] = i;
  }
  for (uint8_t i = 0; i < 12; ++i)
    EXPECT_EQ(static_cast<const uint8_t*>(pieces[i].get())[(15 << 20) - 1], i);
}

}  // namespace branchwise
