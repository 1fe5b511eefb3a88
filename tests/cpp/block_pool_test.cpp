// The pool hands out every block once, all or nothing, and notices corruption.
#include "core/block_pool.h"

#include <set>

#include "test.h"

namespace branchwise {

struct BlockPoolTest {
  static std::vector<BlockId>& free_list(BlockPool& pool) { return pool.free_; }
  static std::vector<uint8_t>& marks(BlockPool& pool) { return pool.is_held_; }
};

TEST(every_block_is_handed_out_once) {
  BlockPool pool(7);
  std::vector<BlockId> held;
  EXPECT(pool.allocate(3, held));
  EXPECT(pool.allocate(4, held));
  EXPECT_EQ(std::set<BlockId>(held.begin(), held.end()).size(), 7u);
  EXPECT_EQ(pool.n_free(), 0);
  pool.check(held);
  pool.release(held);
  EXPECT_EQ(pool.n_free(), 7);
  pool.check({});
}

TEST(a_refusal_changes_nothing) {
  BlockPool pool(3);
  std::vector<BlockId> held;
  EXPECT(pool.allocate(2, held));
  EXPECT(!pool.allocate(2, held));
  EXPECT_EQ(held.size(), 2u);
  EXPECT_EQ(pool.n_free(), 1);
  pool.check(held);
}

TEST(released_blocks_come_back_in_the_same_order) {
  BlockPool pool(8);
  std::vector<BlockId> first, second;
  EXPECT(pool.allocate(5, first));
  pool.release(first);
  EXPECT(pool.allocate(5, second));
  EXPECT(first == second);
}

TEST(a_pool_needs_blocks) {
  EXPECT_THROWS(std::invalid_argument, "expected at least 1", BlockPool(0));
}

TEST(a_double_release_is_noticed) {
  BlockPool pool(4);
  std::vector<BlockId> held;
  EXPECT(pool.allocate(2, held));
  pool.release(held);
  EXPECT_THROWS(BrokenInvariant, "released twice", pool.release(held));
  const std::vector<BlockId> foreign{BlockId{9}};
  EXPECT_THROWS(BrokenInvariant, "released twice", pool.release(foreign));
}

TEST(check_notices_planted_corruption) {
  BlockPool pool(4);
  std::vector<BlockId> held;
  EXPECT(pool.allocate(2, held));
  EXPECT_THROWS(BrokenInvariant, "expected 4", pool.check({}));
  EXPECT_THROWS(BrokenInvariant, "listed twice", pool.check(std::vector{held[0], held[0]}));

  BlockPool duplicated = pool;
  BlockPoolTest::free_list(duplicated)[0] = BlockPoolTest::free_list(duplicated)[1];
  EXPECT_THROWS(BrokenInvariant, "listed twice", duplicated.check(held));
  BlockPool leaked = pool;
  BlockPoolTest::free_list(leaked).pop_back();
  EXPECT_THROWS(BrokenInvariant, "expected 4", leaked.check(held));
  BlockPool mismarked = pool;
  BlockPoolTest::marks(mismarked)[to_int(held[0])] = 0;
  EXPECT_THROWS(BrokenInvariant, "marked free", mismarked.check(held));
  BlockPool foreign = pool;
  BlockPoolTest::free_list(foreign)[0] = BlockId{4};
  EXPECT_THROWS(BrokenInvariant, "does not exist", foreign.check(held));
}

}  // namespace branchwise
