// Memory that is streamed through, in huge pages where the system grants them on request.
#pragma once

#include <cstddef>
#include <memory>

namespace branchwise {

// `bytes` of memory, aligned to a cache line and not initialised. Many small requests share a
// chunk, which is freed when the last of them is. Throws std::bad_alloc.
std::shared_ptr<void> large_memory(size_t bytes);

}  // namespace branchwise
