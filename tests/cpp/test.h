// A minimal test harness: TEST registers, EXPECT reports and goes on, main runs everything.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "core/check.h"

namespace branchwise::test {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& n_failures() {
  static int count = 0;
  return count;
}

inline void expect(bool holds, const char* file, int line, const std::string& what) {
  if (holds) return;
  ++n_failures();
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

template <typename Left, typename Right>
void expect_equal(const Left& left, const Right& right, const char* file, int line,
                  const char* left_text, const char* right_text) {
  expect(left == right, file, line,
         concat(left_text, " is ", left, ", ", right_text, " is ", right));
}

template <typename Error, typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace branchwise::test

#define TEST(name)                                                \
  static void name();                                             \
  static const bool name##_is_registered =                        \
      (branchwise::test::cases().push_back({#name, name}), true); \
  static void name()

#define EXPECT(condition) \
  branchwise::test::expect((condition), __FILE__, __LINE__, #condition " does not hold")

#define EXPECT_EQ(left, right) \
  branchwise::test::expect_equal((left), (right), __FILE__, __LINE__, #left, #right)

// `call` must throw an `Error` whose message contains `part`.
#define EXPECT_THROWS(Error, part, ...)                                                      \
  do {                                                                                       \
    const std::string message = branchwise::test::message_of<Error>([&] { __VA_ARGS__; });   \
    branchwise::test::expect(                                                                \
        !message.empty() && message.find(part) != std::string::npos, __FILE__, __LINE__,     \
        #__VA_ARGS__ " should throw " #Error " with \"" part "\", got \"" + message + "\""); \
  } while (false)

int main() {
  for (const auto& test : branchwise::test::cases()) {
    const int before = branchwise::test::n_failures();
    test.run();
    std::printf("%s %s\n", branchwise::test::n_failures() == before ? "ok  " : "FAIL", test.name);
  }
  return branchwise::test::n_failures() == 0 ? 0 : 1;
}
