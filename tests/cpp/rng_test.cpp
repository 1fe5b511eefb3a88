// Philox against the known answers of its authors; lineages spread and never collide among
// siblings.
#include "core/rng.h"

#include <bit>
#include <cmath>
#include <set>

#include "test.h"

namespace branchwise {
namespace {

// The vectors for philox4x32 with 10 rounds that come with Random123.
TEST(philox_gives_the_known_answers) {
  const struct {
    Philox4 counter;
    uint64_t key;
    Philox4 answer;
  } vectors[] = {
      {{{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{~0u, ~0u, ~0u, ~0u}}, ~uint64_t{0}, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       0x299f31d0a4093822,
       {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (const auto& vector : vectors)
    for (int lane = 0; lane < 4; ++lane)
      EXPECT_EQ(philox4x32(vector.counter, vector.key).lane[lane], vector.answer.lane[lane]);
}

TEST(counter_and_key_are_laid_out_as_documented) {
  // The third vector again: lineage = counter words 1:0, position = word 2, group = word 3.
  const Philox4 draws =
      philox_group(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x13198a2e, 0x03707344);
  EXPECT_EQ(draws.lane[0], 0xd16cfe09);
  EXPECT_EQ(philox_uniform(7, 8, 9, 4 * 5 + 3), unit_float(philox_group(7, 8, 9, 5).lane[3]));
}

TEST(uniforms_exclude_both_ends) {
  EXPECT_EQ(unit_float(0), 0x1p-24f);
  EXPECT_EQ(unit_float(~0u), 1 - 0x1p-24f);
  EXPECT_EQ(unit_float(0x80000000), 0.5f + 0x1p-24f);
}

TEST(uniforms_have_the_moments_of_a_uniform) {
  constexpr int kDraws = 1 << 18;
  double sum = 0, squares = 0;
  for (int word = 0; word < kDraws; ++word) {
    const double u = philox_uniform(1, lineage_root(2), 3, word) - 0.5;
    sum += u;
    squares += u * u;
  }
  // Five standard deviations of the mean (0.289) and of the mean square (0.0745): 6 in 10^7 fail.
  EXPECT(std::abs(sum / kDraws) < 5 * 0.289 / 512);
  EXPECT(std::abs(squares / kDraws - 1.0 / 12) < 5 * 0.0745 / 512);
}

TEST(lineages_do_not_collide) {
  std::set<uint64_t> seen;
  size_t n = 0;
  for (uint64_t problem = 0; problem < 50; ++problem) {
    const uint64_t root = lineage_root(problem);
    for (uint64_t i = 0; i < 32; ++i)
      for (uint64_t j = 0; j < 32; ++j, ++n) seen.insert(lineage_child(lineage_child(root, i), j));
    seen.insert(root);
    ++n;
  }
  EXPECT_EQ(seen.size(), n);
}

TEST(every_bit_of_a_lineage_depends_on_index_and_parent) {
  // Flipping one input bit flips each output bit in half of the cases: 0.5 +- 5 sigma over 4096.
  for (int bit = 0; bit < 64; bit += 7) {
    int flipped = 0;
    for (uint64_t i = 0; i < 64; ++i) {
      const uint64_t parent = lineage_root(i);
      flipped +=
          std::popcount(lineage_child(parent, i) ^ lineage_child(parent ^ uint64_t{1} << bit, i));
    }
    EXPECT(std::abs(flipped - 2048) < 160);
  }
}

}  // namespace
}  // namespace branchwise
