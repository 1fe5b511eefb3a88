// Chunks of whole huge pages. A matrix product that streams its weights through pages of 4 KiB
// spends a third of its time on finding them; Linux gives pages of 2 MiB to those who ask with
// madvise.
#include "core/large_memory.h"

#include <cstdlib>
#include <mutex>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace branchwise {
namespace {

constexpr size_t kLine = 64, kPage = size_t{1} << 21, kChunk = 32 * kPage;

size_t round_up_to(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

std::shared_ptr<void> whole_pages(size_t bytes) {
  const size_t size = round_up_to(bytes, kPage);
  void* memory = std::aligned_alloc(kPage, size);
  if (!memory) throw std::bad_alloc();
#ifdef __linux__
  madvise(memory, size, MADV_HUGEPAGE);  // only a wish: where it is refused, pages stay small
#endif
  return {memory, std::free};
}

// The chunk that small requests are cut from, as long as one of them is in use.
std::mutex mutex;
std::weak_ptr<void> current;
size_t used = 0;

}  // namespace

std::shared_ptr<void> large_memory(size_t bytes) {
  const size_t size = round_up_to(bytes, kLine);
  if (size > kChunk / 4) return whole_pages(size);
  const std::lock_guard lock(mutex);
  std::shared_ptr<void> chunk = current.lock();
  if (!chunk || used + size > kChunk) current = chunk = whole_pages(kChunk), used = 0;
  char* begin = static_cast<char*>(chunk.get()) + used;
  used += size;
  return {chunk, begin};
}

}  // namespace branchwise
