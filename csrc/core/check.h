// Checks in three levels: caller mistakes, broken invariants, and debug-only assertions.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace branchwise {

// A KV node handle that was freed or never issued. Python: branchwise.errors.StaleNodeError.
struct StaleNode : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The block pool cannot hold what was asked for. Python: branchwise.errors.OutOfMemory.
struct OutOfBlocks : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// An invariant of ours is broken: a bug, never a caller's mistake. Python: RuntimeError.
struct BrokenInvariant : std::logic_error {
  using std::logic_error::logic_error;
};

template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

}  // namespace branchwise

// The caller gave something that cannot work: say what was given, what was expected, what to do.
#define CHECK_ARG(condition, ...)                                     \
  do {                                                                \
    if (!(condition)) [[unlikely]]                                    \
      throw std::invalid_argument(::branchwise::concat(__VA_ARGS__)); \
  } while (false)

// Our own state is inconsistent.
#define CHECK_STATE(condition, ...)                                           \
  do {                                                                        \
    if (!(condition)) [[unlikely]]                                            \
      throw ::branchwise::BrokenInvariant(::branchwise::concat(__VA_ARGS__)); \
  } while (false)

// Too hot to check in a release build.
#ifdef NDEBUG
#define DCHECK(condition) static_cast<void>(0)
#else
#define DCHECK(condition) \
  CHECK_STATE(condition, __FILE__, ":", __LINE__, ": " #condition " does not hold")
#endif
